"""Read, write and validate archive files and checkpoints. Needs no torch.

`archives/README.md` specifies the format; `groups.py` implements it and `layout.py` checks it. Every file is checked
before it is read: `open_archive` raises the first problem, `validate` returns all of them.
"""

import logging
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import lru_cache
from hashlib import sha256
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from qdrl.archives.files import archive_file, open_hdf5, write_hdf5
from qdrl.archives.groups import read_groups, read_tree, write_groups, write_tree
from qdrl.archives.inspection import can_start_processes, check, inspect
from qdrl.archives.layout import CHECKPOINT_FORMAT, FORMAT, find_problems
from qdrl.archives.seals import Identity, Seal, check_seal, identity, write_seal
from qdrl.archives.stored import StoredArchive
from qdrl.errors import UserError

_PART_BYTES = 2**20  # read at once for a digest
# Groups and datasets about when, where and how fast a file was made.
_NOT_CONTENT = ("meta", "history/seconds")
_LOGGER = logging.getLogger("qdrl")


def open_archive(path: str | Path) -> StoredArchive:
    """Read an archive file, the archive of a run folder, or the archive in a checkpoint.

    A file without a seal, or with a seal that does not match, is first read by a child process, see
    `qdrl.archives.inspection`. A valid file that was changed since it was written is read with a logged warning.

    Raises:
        UserError: there is no such file, or it is not a complete archive of a supported version. The message names the
            first problem; `validate` lists all.
    """
    path = archive_file(path)
    with _examined(path) as file:
        return read_groups(file, path)


def validate(path: str | Path, *, seal: bool = False) -> list[str]:
    """Return all problems of a file, each with its place; an empty list for a valid file.

    Every dataset is read, in a child process where that is possible, so that a file that crashes libhdf5 is reported.

    Args:
        path: the file.
        seal: write a new seal if the only problem is that the file was changed since it was written.

    Raises:
        UserError: `seal`, and the file has no user block or cannot be written.
    """
    path = Path(path)
    try:
        found = _seal_of(path)
    except UserError as error:
        return [str(error).removeprefix(f"{path}: ")]
    if problems := inspect(path) if can_start_processes() else check(path):
        return problems
    if seal:
        _renew_seal(path)
        return []
    return [_CHANGED] if found == "broken" else []


def file_format(path: str | Path) -> str:
    """Return the format and version that a file states, for example "qdrl-archive 1.0"."""
    with _examined(Path(path)) as file:
        return f"{file.attrs.get('format')} {file.attrs.get('format_version')}"


def write_archive(path: str | Path, archive: StoredArchive) -> None:
    """Write an archive file, atomically.

    Raises:
        ValueError: columns and genomes do not fit together; an existing file at the path is left unchanged.
    """
    write_hdf5(Path(path), lambda file: write_groups(file, archive, FORMAT), find_problems)


def write_checkpoint(path: str | Path, archive: StoredArchive, state: Mapping[str, Any]) -> None:
    """Write an archive and the state that resuming needs, atomically.

    Args:
        path: the checkpoint file.
        archive: the present archive.
        state: nested mapping of arrays, numbers and strings, stored under /state.
    """

    def write(file: Any) -> None:
        write_groups(file, archive, CHECKPOINT_FORMAT)
        write_tree(file.create_group("state"), state)

    write_hdf5(Path(path), write, find_problems)


def read_checkpoint(path: str | Path) -> tuple[StoredArchive, dict[str, Any]]:
    """Read the archive and the state of a checkpoint; large arrays are `StoredArray`s.

    Raises:
        UserError: the file is missing, damaged, not a checkpoint, or was changed since it was written.
    """
    path = Path(path)
    if _seal_of(path) == "broken":
        problems = inspect(path) if can_start_processes() else []
        raise UserError(f"{path}: {problems[0] if problems else _CHANGED}")
    with _examined(path) as file:
        if "state" not in file:
            raise UserError(f"{path}: has no /state; it is an archive, not a checkpoint")
        return read_groups(file, path), read_tree(file["state"], path)


def content_digest(path: str | Path) -> str:
    """Return the sha256 of elites, cells, history, normaliser and actor, without origin and times.

    Two runs of one experiment and seed have the same digest on any number of ranks.
    """
    digest = sha256()

    def visit(name: str, item: Any) -> None:
        if any(name == skipped or name.startswith(f"{skipped}/") for skipped in _NOT_CONTENT):
            return
        digest.update(f"{name}\n".encode())
        for key in sorted(item.attrs):
            digest.update(f"{key}={np.asarray(item.attrs[key]).tolist()!r}\n".encode())
        if isinstance(item, h5py.Dataset):
            digest.update(f"{item.dtype.str}{item.shape}\n".encode())
            for part in _parts(item):
                digest.update(part)

    with _examined(Path(path)) as file:
        file.visititems(visit)
    return digest.hexdigest()


def _parts(dataset: h5py.Dataset) -> Iterator[bytes]:
    """Yield a dataset's bytes in parts of about 1 MiB."""
    if dataset.dtype.hasobject or dataset.ndim == 0:
        values = np.asarray(dataset[()])
        yield repr(values.tolist()).encode() if dataset.dtype.hasobject else values.tobytes()
        return
    rows = max(1, _PART_BYTES * len(dataset) // max(1, dataset.nbytes))
    for start in range(0, len(dataset), rows):
        yield dataset[start : start + rows].tobytes()


# Checks before reading

_CHANGED = (
    "changed since it was written, or damaged: it does not match its seal;"
    " after an intended change run `qdrl archive validate --seal` on it"
)


@contextmanager
def _examined(path: Path) -> Iterator[Any]:
    """Open a file after checking that it is safe and complete.

    Raises:
        UserError: the first problem with the file.
    """
    seal = _seal_of(path)
    if seal != "intact" and can_start_processes() and (problems := inspect(path)):
        raise UserError(f"{path}: {problems[0]}")
    with open_hdf5(path) as file:
        if problems := find_problems(file, path.stat().st_size):
            raise UserError(f"{path}: {problems[0]}")
        if seal == "broken":
            _warn_of_change(path, identity(path))
        yield file


@lru_cache(maxsize=64)
def _warn_of_change(path: Path, version: Identity) -> None:  # noqa: ARG001 - another version of the file is reported again
    _LOGGER.warning("%s: %s", path, _CHANGED)


def _seal_of(path: Path) -> Seal:
    if not path.is_file():
        raise UserError(f"{path}: no such file")
    try:
        return check_seal(path)
    except OSError as error:
        raise UserError(f"{path}: cannot be read: {error.strerror}") from error


def _renew_seal(path: Path) -> None:
    try:
        write_seal(path)
    except OSError as error:
        raise UserError(f"{path}: cannot write the seal: {error.strerror}") from error
