"""`qdrl algorithms`."""

import ast
from pathlib import Path

import click


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
    """Print a line for each built-in algorithm, from its source: an import would load torch."""
    from qdrl.algorithms.registry import ALGORITHMS

    for name, reference in ALGORITHMS.items():
        click.echo(f"{name:<16}{_docstring(reference.partition(':')[0]).splitlines()[0]}")
    click.echo("package.module:Class names an algorithm of your own; see docs/how-to/algorithm.md")


def _describe(name: str) -> None:
    import sys

    from qdrl.algorithms.registry import algorithm_class
    from qdrl.settings.describe import as_text, describe

    kind = algorithm_class(name)
    click.echo((sys.modules[kind.__module__].__doc__ or kind.__name__).strip())
    click.echo(f"\nSettings of [algorithm]:\n{as_text(describe(kind.Settings))}")


def _docstring(module: str) -> str:
    """Return the docstring of a module of this package without importing it."""
    import qdrl

    path = Path(qdrl.__file__).parent.joinpath(*module.split(".")[1:]).with_suffix(".py")
    return ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or module
