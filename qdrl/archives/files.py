"""Files of a run folder: written whole or not at all, opened with one-line complaints. Nothing is ever unpickled."""

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from qdrl.archives.seals import USER_BLOCK, write_seal
from qdrl.errors import UserError

# What h5py raises where it cannot read an open file.
_DAMAGE = (OSError, RuntimeError, MemoryError)


@contextmanager
def open_hdf5(path: Path) -> Iterator[Any]:
    """Open an HDF5 file to read, typed Any because h5py cannot know which items are groups and which datasets.

    Raises:
        UserError: there is no such file, or HDF5 cannot open it or read from it.
    """
    if not path.is_file():
        raise UserError(f"{path}: no such file")
    try:
        # Files are replaced, never changed in place, so no lock is needed; network disks often lack it.
        opened = h5py.File(path, "r", locking=False)
    except (*_DAMAGE, LookupError, ValueError) as error:
        raise UserError(f"{path}: not a whole HDF5 file: {' '.join(str(error).split())}") from error
    try:
        with opened as file:
            yield file
    except _DAMAGE as error:
        raise UserError(f"{path}: cannot be read: {' '.join(str(error).split())}") from error


def write_hdf5(path: Path, write: Callable[[Any], None], find_problems: Callable[[Any, int], list[str]]) -> None:
    """Write an HDF5 file to a temporary name, check it, seal it, flush it to disk and rename it.

    A kill at any instant leaves what stood at the path as it was.

    Raises:
        ValueError: the first problem found in what was written.
    """
    with replacing(path) as temporary:
        with h5py.File(temporary, "w", userblock_size=USER_BLOCK) as file:
            write(file)
            file.flush()
            if problems := find_problems(file, temporary.stat().st_size):
                raise ValueError(f"{path} is not written: {problems[0]}")
        write_seal(temporary)


def write_text(path: Path, text: str) -> None:
    """Write a text file in the same way."""
    with replacing(path) as temporary:
        temporary.write_text(text, newline="")


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A temporary name to write to; without an error what lies there is flushed to disk and renamed to the path."""
    temporary = path.with_name(f".{path.name}.tmp")  # one name: what a kill leaves behind, the next write clears
    try:
        yield temporary
        _sync(temporary)
        temporary.replace(path)
        _sync(path.parent)
    finally:
        temporary.unlink(missing_ok=True)


class StoredArray:
    """An array that stays in its file until `numpy.asarray` asks for it: a replay may be larger than all the rest.

    Args:
        path: the file, which must still be the same when it is asked for.
        dataset: the array in it; its name, shape and type are remembered.
    """

    def __init__(self, path: Path, dataset: Any) -> None:
        self.path, self.name, self.shape, self.dtype = path, dataset.name, dataset.shape, dataset.dtype

    def __len__(self) -> int:
        return self.shape[0]

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        if copy is False:
            raise ValueError("an array in a file cannot be had without a copy")
        with open_hdf5(self.path) as file:
            values = file[self.name][()]
        return values if dtype is None else values.astype(dtype, copy=False)


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
