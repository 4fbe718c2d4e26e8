"""Axes and elites as every archive verb prints them in JSON; docs/how-to/archive.md lists the keys."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from qdrl.archives.stored import StoredArchive


def axes_of(stored: "StoredArchive") -> list[dict[str, Any]]:
    """Return the descriptor's axes: `name`, `unit`, `lower` and `upper` of each."""
    return [vars(axis) for axis in stored.axes]


def elite_of(stored: "StoredArchive", row: int) -> dict[str, Any]:
    """Return what identifies an elite: `cell`, `fitness` and `descriptor`, one value per axis.

    Args:
        stored: The archive.
        row: The elite's row in the columns of `stored.elites`.
    """
    return {name: stored.elites[name][row] for name in ("cell", "fitness", "descriptor")}


def print_elites(stored: "StoredArchive", elites: Sequence[Mapping[str, Any]]) -> None:
    """Print elites as a table: cell, fitness, a column for each axis, then any further keys of the elites."""
    from qdrl.cli.archive.printing import print_table

    labels = [axis.label for axis in stored.axes]
    further = [name for name in (elites[0] if elites else ()) if name not in ("cell", "fitness", "descriptor")]
    rows = [[e["cell"], e["fitness"], *e["descriptor"], *(e[name] for name in further)] for e in elites]
    print_table(["cell", "fitness", *labels, *further], rows)
