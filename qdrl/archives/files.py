"""Opening HDF5 files with one-line errors, and writing them atomically. Nothing is ever unpickled."""

import io
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from qdrl.archives.atomic import reason_of, replacing
from qdrl.archives.seals import USER_BLOCK, write_seal
from qdrl.errors import UserError

# What h5py raises where it cannot read an open file.
_READ_ERRORS = (OSError, RuntimeError, MemoryError)
# What HDF5 says of a file that is shorter than its superblock states.
_TRUNCATED = re.compile(r"truncated file: .*stored_eof = (\d+)")


def archive_file(path: str | Path) -> Path:
    """Return the file that a path to an archive means: the file itself, or the archive.h5 of a run folder.

    Raises:
        UserError: there is no such file, or the folder holds no archive.h5.
    """
    path = Path(path)
    if path.is_dir():
        if not (path / "archive.h5").is_file():
            raise UserError(f"{path}: this folder has no archive.h5; give an archive file or a run folder")
        return path / "archive.h5"
    if not path.is_file():
        raise UserError(f"{path}: no such file or run folder")
    return path


@contextmanager
def open_hdf5(path: Path) -> Iterator[Any]:
    """Open an HDF5 file for reading, typed Any because h5py cannot know which items are groups and which datasets.

    Errors inside the context that h5py did not raise pass through unchanged.

    Raises:
        UserError: there is no such file, or HDF5 cannot open it or read from it.
    """
    if not path.is_file():
        raise UserError(f"{path}: no such file")
    try:
        # Files are replaced, never changed in place, so no lock is needed; many network disks have none.
        opened = h5py.File(path, "r", locking=False)
    except (*_READ_ERRORS, LookupError, ValueError) as error:
        raise UserError(f"{path}: {_why_unopened(path, error)}") from error
    try:
        with opened as file:
            yield file
    except _READ_ERRORS as error:
        if not is_from_h5py(error):
            raise
        raise UserError(f"{path}: cannot be read: {' '.join(str(error).split())}") from error


def _why_unopened(path: Path, error: BaseException) -> str:
    """Return what is wrong with a file that HDF5 cannot open, and what to do, in one line."""
    text, size = " ".join(str(error).split()), path.stat().st_size
    if size == 0:
        return "is empty; restore it from a copy"
    if "file signature not found" in text:
        return "is not an HDF5 file; give a file that qdrl wrote"
    if found := _TRUNCATED.search(text):
        return f"is truncated: {size} of {found[1]} bytes; copy it again, or restore it from a copy"
    return f"is damaged: {text}; restore it from a copy"


def is_from_h5py(error: BaseException) -> bool:
    """Return whether an error was raised inside h5py rather than by code that uses it."""
    place = error.__traceback__
    while place is not None and place.tb_next is not None:
        place = place.tb_next
    return place is not None and str(place.tb_frame.f_globals.get("__name__")).partition(".")[0] == "h5py"


def write_hdf5(path: Path, write: Callable[[Any], None], find_problems: Callable[[Any, int], list[str]]) -> None:
    """Write an HDF5 file under a temporary name, check it, seal it, flush it to disk and rename it.

    A kill or a full disk at any instant leaves an existing file at the path unchanged. No file lock is taken: many
    network disks have none, and no reader uses the temporary name.

    Args:
        path: the file.
        write: writes groups and datasets into the open file.
        find_problems: returns the problems of the open file, given its size in bytes.

    Raises:
        ValueError: the first problem of the written file.
        OSError: the disk is full, read-only or broken.
    """
    with replacing(path) as temporary, _DeferredErrors(temporary) as disk:
        try:
            with h5py.File(disk, "w", userblock_size=USER_BLOCK) as file:
                write(file)
                file.flush()
                disk.check()
                if problems := find_problems(file, temporary.stat().st_size):
                    raise ValueError(f"{path}: not written, because the file would be invalid: {problems[0]}")
        except Exception:
            disk.check()  # a failed write is the cause of the error that HDF5 reports
            raise
        disk.check()
        write_seal(temporary)


class _DeferredErrors(io.RawIOBase):
    """A new file for HDF5 that stores its first failed write and ignores all later writes.

    HDF5 cannot close a file whose buffers cannot be written: every attempt fails again, the last one at the exit of the
    interpreter, and prints its whole stack. Writing to this file always succeeds; `check` raises the stored error.

    Args:
        path: the file.
    """

    def __init__(self, path: Path) -> None:
        super().__init__()
        self._path = path
        self._file = path.open("w+b", buffering=0)
        self._error: OSError | None = None

    def check(self) -> None:
        """Raise the stored error, if there is one.

        Raises:
            OSError: with the file's name.
        """
        if self._error is not None:
            raise OSError(self._error.errno, reason_of(self._error), str(self._path)) from self._error

    def readable(self) -> bool:
        return True

    def writable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = 0) -> int:
        return self._file.seek(offset, whence)

    def tell(self) -> int:
        return self._file.tell()

    def readinto(self, buffer: Any) -> int | None:
        return self._file.readinto(buffer)

    def write(self, data: Any) -> int:
        with memoryview(data).cast("B") as rest:
            self._attempt(lambda: self._write_all(rest))
            return len(rest)

    def truncate(self, size: int | None = None) -> int:
        self._attempt(lambda: self._file.truncate(size))
        return size or 0

    def close(self) -> None:
        try:
            self._file.close()
        except OSError as error:
            self._error = self._error or error
        super().close()

    def _write_all(self, rest: memoryview) -> None:
        done = 0
        while done < len(rest):  # a nearly full disk accepts a part
            done += self._file.write(rest[done:])

    def _attempt(self, operation: Callable[[], Any]) -> None:
        if self._error is None:
            try:
                operation()
            except OSError as error:
                self._error = error


class StoredArray:
    """An array that stays in its file until `numpy.asarray` reads it, because a replay buffer may be large.

    Args:
        path: the file, which must not change before the array is read.
        dataset: the array's dataset in the open file.
    """

    def __init__(self, path: Path, dataset: Any) -> None:
        self.path, self.name, self.shape, self.dtype = path, dataset.name, dataset.shape, dataset.dtype

    def __len__(self) -> int:
        return self.shape[0]

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        if copy is False:
            raise ValueError("reading an array from a file needs a copy; leave out copy=False")
        with open_hdf5(self.path) as file:
            values = file[self.name][()]
        return values if dtype is None else values.astype(dtype, copy=False)
