"""`qdrl algorithms`."""

import ast
from pathlib import Path
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from pydantic import BaseModel


@click.command()
@click.argument("name", required=False)
def command(name: str | None) -> None:
    """List the algorithms, or describe the algorithm NAME and its settings.

    \b
    Example:
      qdrl algorithms
      qdrl algorithms map_elites
    """
    if name is None:
        _list()
    else:
        _describe(name)


def _list() -> None:
    """Print a line for each built-in algorithm."""
    from qdrl.algorithms.registry import ALGORITHMS

    for name, reference in ALGORITHMS.items():
        click.echo(f"{name:<16}{_docstring(reference.partition(':')[0]).splitlines()[0]}")
    click.echo("package.module:Class names an algorithm of your own; see docs/how-to/algorithm.md")


def _describe(name: str) -> None:
    from qdrl.algorithms.registry import ALGORITHMS
    from qdrl.cli.catalogue import read_algorithms
    from qdrl.settings.describe import as_text, describe

    if (settings := read_algorithms().get(name)) is not None:
        summary = _docstring(ALGORITHMS[name].partition(":")[0])
    else:
        summary, model = _load(name)
        settings = describe(model)
    click.echo(f"{summary.strip()}\n\nSettings of [algorithm]:\n{as_text(settings)}")


def _load(reference: str) -> tuple[str, "type[BaseModel]"]:
    """Import an algorithm and return the docstring of its module, and its settings."""
    import sys

    from qdrl.algorithms.registry import algorithm_class

    kind = algorithm_class(reference)
    return sys.modules[kind.__module__].__doc__ or kind.__name__, kind.Settings


def _docstring(module: str) -> str:
    """Return the docstring of a module of this package from its source, because importing it would import torch."""
    import qdrl

    path = Path(qdrl.__file__).parent.joinpath(*module.split(".")[1:]).with_suffix(".py")
    return ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or module
