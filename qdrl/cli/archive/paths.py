"""Which file an ARCHIVE argument means."""

from pathlib import Path

import click

from qdrl.errors import UserError


def archive_file(path: Path) -> Path:
    """An archive file itself, or the one inside a run folder.

    Raises:
        UserError: there is no such file, or the folder holds no archive.h5.
    """
    if path.is_dir():
        inside = path / "archive.h5"
        if not inside.is_file():
            raise UserError(f"{path}: this folder holds no archive.h5; give an archive file or a run folder")
        return inside
    if not path.is_file():
        raise UserError(f"{path}: no such archive file or run folder")
    return path


archive_argument = click.argument(
    "archive",
    type=click.Path(path_type=Path),
    callback=lambda _context, _parameter, path: archive_file(path),
)
"""Adds the ARCHIVE argument, resolved to a file that exists."""
