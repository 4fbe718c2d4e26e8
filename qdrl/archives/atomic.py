"""Atomic writing of files: a temporary file is flushed to disk and renamed, and an existing file is never changed."""

import errno
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from qdrl.errors import UserError


def write_text(path: Path, text: str) -> None:
    """Write a text file atomically.

    Raises:
        OSError: the disk is full, read-only or broken.
    """
    with replacing(path) as temporary:
        temporary.write_text(text, encoding="utf-8", newline="")


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Yield a temporary path; if no error occurs, the file there is flushed to disk and renamed to `path`.

    Raises:
        OSError: the disk is full, read-only or broken. The temporary file is removed.
    """
    temporary = path.with_name(f".{path.name}.tmp")  # always the same name: the next write removes a leftover
    try:
        yield temporary
        _sync(temporary)
        temporary.replace(path)
        _sync_folder(path.parent)
    finally:
        with suppress(OSError):  # on a read-only disk; the first error is the one to report
            temporary.unlink(missing_ok=True)


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """Translate an OSError of writing a file into a one-line UserError that names the file.

    Raises:
        UserError: the disk is full, read-only or broken, or the folder is missing.
    """
    try:
        yield
    except OSError as error:
        raise UserError(f"cannot write {path}: {reason_of(error)}") from error


def reason_of(error: OSError) -> str:
    """Return why an operation on a file failed, in one line without the file's name."""
    return error.strerror or " ".join(str(error).split()) or type(error).__name__


def keep_copy(path: Path, suffix: str) -> Path | None:
    """Keep a copy of a file beside it, so that the next write does not lose its content.

    Args:
        path: the file.
        suffix: added to the stem, followed by a number if a file of that name exists.

    Returns:
        the path of the copy; None if there is no such file.

    Raises:
        OSError: the disk is full or read-only.
    """
    if not path.is_file():
        return None
    copy, number = path.with_name(f"{path.stem}-{suffix}{path.suffix}"), 2
    while copy.exists():
        copy, number = path.with_name(f"{path.stem}-{suffix}-{number}{path.suffix}"), number + 1
    try:
        os.link(path, copy)  # files are replaced, never changed in place
    except OSError:  # a file system without hard links
        shutil.copyfile(path, copy)
    return copy


def clear_leftovers(folder: Path) -> None:
    """Remove the temporary files of a killed writer from a folder; the caller must hold the folder's lock."""
    for path in folder.glob(".*.tmp"):
        with suppress(OSError):  # on a read-only disk; the next write reports it
            path.unlink(missing_ok=True)


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError as error:
        raise OSError(error.errno, reason_of(error), str(path)) from error
    finally:
        os.close(descriptor)


def _sync_folder(path: Path) -> None:
    """Flush a renaming to disk, on file systems that can flush folders."""
    try:
        _sync(path)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOTSUP, errno.EBADF, errno.EACCES):
            raise
