"""How archive verbs print: facts in two columns, tables, or JSON without NaN."""

import json
import sys
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import click

from qdrl.archives.strict_json import jsonable


def print_json(facts: Mapping[str, Any]) -> None:
    """Print facts as strict JSON: NaN and infinities become null, arrays become lists."""
    click.echo(json.dumps(jsonable(facts), indent=2, allow_nan=False))


def print_facts(title: str, facts: Mapping[str, Any]) -> None:
    """Print facts under a title, names in one column and values in the other; None shows as a dash."""
    from rich.table import Table
    from rich.text import Text

    table = Table.grid(padding=(0, 2))
    table.add_column(style="dim", no_wrap=True)
    table.add_column(overflow="fold")
    for name, value in facts.items():
        table.add_row(f"  {name}", Text(brief(value)))
    _print(Text(title, style="bold"), table)


def print_table(columns: Sequence[str], rows: Iterable[Sequence[Any]]) -> None:
    """Print rows under column names; numbers stand to the right."""
    from rich import box
    from rich.table import Table
    from rich.text import Text

    rows = list(rows)
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for place, name in enumerate(columns):
        is_text = any(isinstance(row[place], str) for row in rows)
        table.add_column(Text(name), justify="left" if is_text else "right")
    for row in rows:
        table.add_row(*(Text(brief(value)) for value in row))
    _print(table)


def brief(value: Any) -> str:
    """Return a value as short text: six digits, a dash for an unknown value."""
    value = jsonable(value)
    if value is None:
        return "-"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:.6g}"
    if isinstance(value, list):
        return ", ".join(brief(item) for item in value)
    if isinstance(value, dict):
        return f"{{{', '.join(f'{name}: {brief(item)}' for name, item in value.items())}}}"
    return str(value)


def _print(*parts: Any) -> None:
    from rich.console import Console

    # Into a pipe or a file, lines are wide: rich would fold them at 80.
    console = Console(highlight=False, width=None if sys.stdout.isatty() else 140)
    for part in parts:
        console.print(part)
