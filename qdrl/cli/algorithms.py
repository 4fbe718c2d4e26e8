"""`qdrl algorithms`."""

import click


@click.command()
@click.argument("name", required=False)
def command(name: str | None) -> None:
    """List the algorithms, or the settings of the one NAMEd with their defaults.

    \b
    Example:
      qdrl algorithms
      qdrl algorithms map_elites
    """
    from qdrl.algorithms import algorithm_class, algorithm_names

    if name is None:
        for each in algorithm_names():
            click.echo(f"{each:<16}{_module_of(algorithm_class(each)).splitlines()[0]}")
        click.echo("package.module:Class names an algorithm of your own; see docs/algorithms.md")
        return
    kind = algorithm_class(name)
    click.echo(f"{_module_of(kind).strip()}\n\nsettings of [algorithm]:")
    for key, field in kind.Settings.model_fields.items():
        default = "required" if field.is_required() else _plain(field.default)
        click.echo(f"  {key:<22}{default}")


def _module_of(kind: type) -> str:
    import sys

    return sys.modules[kind.__module__].__doc__ or kind.__name__


def _plain(value: object) -> str:
    from pydantic import BaseModel

    return str(value.model_dump()) if isinstance(value, BaseModel) else repr(value)
