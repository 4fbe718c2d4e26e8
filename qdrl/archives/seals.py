"""Seals: a digest of a whole file, stored in its HDF5 user block and checked before libhdf5 reads the file.

HDF5 leaves the first bytes of a file, the user block, to applications. There qdrl writes the digest of all bytes that
follow. A seal finds damage and edits; it does not say who wrote the file. `archives/README.md` specifies it.
"""

import errno
import os
from functools import lru_cache
from pathlib import Path
from typing import Literal

from xxhash import xxh3_128

from qdrl.errors import UserError

USER_BLOCK = 512  # bytes, the smallest user block that HDF5 allows
Seal = Literal["intact", "broken", "absent"]

_SIGNATURE = b"\x89HDF\r\n\x1a\n"  # the first bytes of HDF5's own part of a file
_ATTEMPTS = 3  # to read a file that is replaced meanwhile
_PART_BYTES = 2**20  # read at once, so that memory does not depend on the size of the file

Identity = tuple[int, int, int]
"""Inode, time of the last change in nanoseconds, and size: all unchanged as long as the file is."""


def write_seal(path: Path) -> None:
    """Write the digest of a closed HDF5 file into its user block.

    Raises:
        UserError: the file has no user block, as files of formats before 1.2.
        OSError: the file cannot be written.
    """
    with path.open("r+b", buffering=0) as file:
        file.seek(USER_BLOCK)
        if file.read(len(_SIGNATURE)) != _SIGNATURE:
            raise UserError(f"{path}: has no user block for a seal; only HDF5 files of format 1.2 or later have one")
        block = _block(path, os.fstat(file.fileno()).st_size)
        file.seek(0)
        try:
            written = file.write(block)
        except OSError as error:
            raise OSError(error.errno, error.strerror, str(path)) from error
        if written != len(block):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))


def check_seal(path: Path) -> Seal:
    """Compare a file with its seal. The result for an unchanged file is cached.

    Returns:
        "absent" for an HDF5 file without a user block, as formats before 1.2 and other programs write them; "broken"
        for a file that differs from the sealed one.

    Raises:
        OSError: the file cannot be read.
    """
    for _ in range(_ATTEMPTS):
        version = identity(path)
        seal = _checked(path, version)
        if identity(path) == version:  # otherwise it was replaced between two reads
            break
    return seal


def is_hdf5(content: bytes) -> bool:
    """Return whether bytes are the beginning of an HDF5 file, with or without a user block."""
    return content.startswith(_SIGNATURE) or content.startswith(_SIGNATURE, USER_BLOCK)


def identity(path: Path) -> Identity:
    """Return values of which at least one changes whenever the file is replaced or changed."""
    found = path.stat()
    return found.st_ino, found.st_mtime_ns, found.st_size


@lru_cache(maxsize=64)
def _checked(path: Path, version: Identity) -> Seal:
    with path.open("rb") as file:
        start = file.read(USER_BLOCK)
    if start.startswith(_SIGNATURE):
        return "absent"
    return "intact" if start == _block(path, version[2]) else "broken"


def _block(path: Path, size: int) -> bytes:
    """Return the user block of a file: three lines of text, then zeros."""
    text = f"qdrl-seal 1\nxxh3_128 {_digest(path)}\nbytes {size - USER_BLOCK}\n"
    return text.encode().ljust(USER_BLOCK, b"\0")


def _digest(path: Path) -> str:
    """Return the hex digest of everything after the user block."""
    digest, part = xxh3_128(), bytearray(_PART_BYTES)
    with path.open("rb", buffering=0) as file:
        file.seek(USER_BLOCK)
        while count := file.readinto(part):
            digest.update(memoryview(part)[:count])
    return digest.hexdigest()
