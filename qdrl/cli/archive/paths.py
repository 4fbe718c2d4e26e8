"""The ARCHIVE argument of the verbs."""

from pathlib import Path

import click


def _resolved(_context: click.Context, _parameter: click.Parameter, path: Path) -> Path:
    from qdrl.archives.files import archive_file  # imports h5py, which `--help` does without

    return archive_file(path)


archive_argument = click.argument("archive", type=click.Path(path_type=Path), callback=_resolved)
"""Adds the ARCHIVE argument, resolved to a file that exists."""
