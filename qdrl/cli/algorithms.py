"""`qdrl algorithms`."""

from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from pydantic import BaseModel
    from pydantic.fields import FieldInfo


@click.command()
@click.argument("name", required=False)
def command(name: str | None) -> None:
    """List the algorithms, or the settings of the one NAMEd with their defaults.

    \b
    Example:
      qdrl algorithms
      qdrl algorithms map_elites
    """
    from qdrl.algorithms.registry import algorithm_class, algorithm_names

    if name is None:
        for each in algorithm_names():
            click.echo(f"{each:<16}{_module_of(algorithm_class(each)).splitlines()[0]}")
        click.echo("package.module:Class names an algorithm of your own; see docs/how-to/algorithm.md")
        return
    kind = algorithm_class(name)
    click.echo(f"{_module_of(kind).strip()}\n\nsettings of [algorithm]:")
    for key, field in kind.Settings.model_fields.items():
        click.echo(f"  {key:<22}{_default(field)}")
        for choice in _other_choices(field):
            click.echo(f"    {'or ' + choice.model_fields['name'].default:<20}{_options(choice)}")


def _module_of(kind: type) -> str:
    import sys

    return sys.modules[kind.__module__].__doc__ or kind.__name__


def _default(field: "FieldInfo") -> str:
    from pydantic import BaseModel

    if field.is_required():
        return "required"
    return str(field.default.model_dump()) if isinstance(field.default, BaseModel) else repr(field.default)


def _other_choices(field: "FieldInfo") -> "list[type[BaseModel]]":
    """The models besides the default's that a table with a `name` may be."""
    from typing import get_args

    return [kind for kind in get_args(field.annotation) if field.discriminator and kind is not type(field.default)]


def _options(kind: "type[BaseModel]") -> str:
    return ", ".join(f"{key} {_default(field)}" for key, field in kind.model_fields.items() if key != "name")
