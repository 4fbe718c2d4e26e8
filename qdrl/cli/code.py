"""The options that let a verb import and run code that an archive file names."""

from pathlib import Path
from typing import Any

import click

_ALLOW = click.option(
    "--allow-code",
    is_flag=True,
    help="Import and run code that the file names: tasks, descriptor functions, modules of environments.",
)
_FROM = click.option(
    "--code-from",
    type=click.Path(path_type=Path),
    metavar="FOLDER",
    help="Search this folder first for that code; implies --allow-code.",
)


def code_options(command: Any) -> Any:
    """Add `--allow-code` and `--code-from`; without them, an error names the code and its location."""
    return _ALLOW(_FROM(command))
