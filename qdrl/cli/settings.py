"""`qdrl settings`."""

import json
from dataclasses import asdict

import click


@click.command()
@click.argument("table", required=False)
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def command(table: str | None, as_json: bool) -> None:
    """List the tables of an experiment file, or describe the settings of TABLE.

    TABLE may be a single setting, as in run.checkpoint_seconds.

    \b
    Example:
      qdrl settings
      qdrl settings run
      qdrl settings archive.cells
    """
    if table is None:
        _list(as_json=as_json)
    else:
        _describe(*table.partition(".")[::2], as_json=as_json)


def _list(*, as_json: bool) -> None:
    from qdrl.config import TABLES

    if as_json:
        click.echo(json.dumps(TABLES, indent=2))
        return
    for name, summary in TABLES.items():
        click.echo(f"{name:<12}{summary}")
    click.echo("`qdrl settings TABLE` describes the settings of a table.")


def _describe(table: str, key: str, *, as_json: bool) -> None:
    from qdrl.cli.catalogue import read_algorithms
    from qdrl.config import describe_table
    from qdrl.errors import UserError
    from qdrl.naming import suggest
    from qdrl.settings.describe import as_text

    found = read_algorithms() if table == "algorithm" else describe_table(table)
    if key:
        keys = dict.fromkeys(setting.key for settings in found.values() for setting in settings)
        found = {
            name: [each for each in settings if each.key == key or each.key.startswith(f"{key}.")]
            for name, settings in found.items()
        }
        found = {name: settings for name, settings in found.items() if settings}
        if not found:
            raise UserError(f"no setting '{table}.{key}'{suggest(key, keys)}")
    if as_json:
        click.echo(
            json.dumps({name: [asdict(each) for each in settings] for name, settings in found.items()}, indent=2)
        )
        return
    for name, settings in found.items():
        click.echo(f"{f'[{table}]' if table != 'experiment' else 'Outside all tables'}{f' {name}' if name else ''}:")
        click.echo(as_text(settings))
