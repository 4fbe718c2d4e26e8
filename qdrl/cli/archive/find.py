"""`qdrl archive find`: the elites nearest to a descriptor."""

import math
from itertools import takewhile
from pathlib import Path
from typing import TYPE_CHECKING

import click

from qdrl.cli.archive.paths import archive_argument
from qdrl.cli.numbers import Integer
from qdrl.errors import UserError

if TYPE_CHECKING:
    from qdrl.archives.stored import StoredArchive

_OPTION = "--descriptor"


class _ManyNumbers(click.Command):
    """A command whose --descriptor takes all the numbers that follow it: click wants their count beforehand.

    `--descriptor 0.3 0.7` is handed to click as `--descriptor=0.3 --descriptor=0.7`.
    """

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Repeat the option's name before every number, then parse as usual."""
        spread: list[str] = []
        rest = [part for arg in args for part in _split_equals(arg)]
        while rest:
            arg = rest.pop(0)
            numbers = list(takewhile(_is_number, rest)) if arg == _OPTION else []
            spread += [f"{_OPTION}={number}" for number in numbers] or [arg]
            rest = rest[len(numbers) :]
        return super().parse_args(ctx, spread)


def _split_equals(arg: str) -> list[str]:
    return arg.split("=", 1) if arg.startswith(f"{_OPTION}=") else [arg]


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


@click.command(cls=_ManyNumbers)
@archive_argument
@click.option(_OPTION, type=float, multiple=True, required=True, metavar="X Y ...", help="One number for each axis.")
@click.option("--count", type=Integer(min=1), default=5, show_default=True, help="How many elites.")
@click.option("--json", "as_json", is_flag=True, help="Print the elites as JSON.")
def command(archive: Path, descriptor: tuple[float, ...], count: int, as_json: bool) -> None:
    """List the elites nearest to a descriptor.

    Distances are Euclidean; each axis is divided by its upper minus its lower bound.

    ARCHIVE is an archive file or a run folder.

    \b
    Example:
      qdrl archive find archives/reference/walker2d_uni.h5 --descriptor 0.3 0.7
      qdrl archive find archives/reference/walker2d_uni.h5 --descriptor 0.3 0.7 --count 3
    """
    import numpy as np

    from qdrl.archives.hdf5 import open_archive
    from qdrl.cli.archive.facts import axes_of, elite_of, print_elites
    from qdrl.cli.archive.printing import print_json

    stored = open_archive(archive)
    _check(stored, descriptor)
    rows = stored.nearest(np.array(descriptor), count)
    span = np.array([axis.upper - axis.lower for axis in stored.axes])
    distance = np.linalg.norm((stored.elites["descriptor"][rows] - descriptor) / span, axis=1)
    found = [elite_of(stored, row) | {"distance": far} for row, far in zip(rows, distance, strict=True)]
    if as_json:
        print_json({"axes": axes_of(stored), "elites": found})
    else:
        print_elites(stored, found)


def _check(stored: "StoredArchive", descriptor: tuple[float, ...]) -> None:
    if len(descriptor) != len(stored.axes) or not all(map(math.isfinite, descriptor)):
        axes = ", ".join(f"{axis.label} from {axis.lower:g} to {axis.upper:g}" for axis in stored.axes)
        given = " ".join(f"{number:g}" for number in descriptor)
        raise UserError(f"{_OPTION} needs {len(stored.axes)} finite number(s) ({axes}), got {given}")
    if len(stored) == 0:
        raise UserError(f"{stored.path}: the archive is empty")
