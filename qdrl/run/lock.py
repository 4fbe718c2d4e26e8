"""A run folder's lock against a second job."""

import fcntl
from contextlib import suppress
from pathlib import Path
from typing import TextIO

from qdrl.errors import UserError


class FolderLock:
    """The lock of the rank that writes a run folder; the system releases it when the process ends.

    Args:
        folder: the run folder.
    """

    def __init__(self, folder: Path) -> None:
        self._path = folder / ".lock"
        self._file: TextIO | None = None

    def take(self) -> None:
        """Take the lock, unless this object has it already.

        Raises:
            UserError: another job has it, or the folder cannot be written.
        """
        if self._file is not None:
            return
        try:
            file = self._path.open("w", encoding="utf-8")
        except OSError as error:
            folder = self._path.parent
            raise UserError(f"cannot write into run folder {folder}: {error.strerror or error}") from error
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            file.close()
            folder = self._path.parent
            raise UserError(f"{folder} is being written by another job; wait for it or stop it first") from None
        except OSError:  # a file system without locks: continue without one
            pass
        self._file = file

    def release(self) -> None:
        """Release the lock, if this object has it."""
        if self._file is not None:
            with suppress(OSError):  # a disk that became read-only
                self._path.unlink(missing_ok=True)
            self._file.close()
            self._file = None
