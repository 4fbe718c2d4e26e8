"""Fixtures of the tests of archive files."""

from pathlib import Path

import pytest

from qdrl.archives.hdf5 import write_archive
from tests.archives.builders import small_archive


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """Return a valid archive file."""
    path = tmp_path / "archive.h5"
    write_archive(path, small_archive())
    return path
