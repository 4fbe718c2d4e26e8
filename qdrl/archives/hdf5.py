"""The archive file, read and written; only this module and `layout.py`, its checks, know the format.

`archives/README.md` is the specification. Reading checks before it trusts: `open_archive` refuses the first problem
found, `validate` lists them all. Nothing here needs torch.
"""

import json
import logging
from base64 import b64decode, b64encode
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import lru_cache
from hashlib import sha256
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from qdrl.archives.axes import Axis
from qdrl.archives.files import StoredArray, archive_file, open_hdf5, write_hdf5
from qdrl.archives.inspection import can_start_processes, check, inspect
from qdrl.archives.layout import CHECKPOINT_FORMAT, COLUMNS, FORMAT, FORMAT_VERSION, META_JSON, find_problems
from qdrl.archives.lineages import StoredLineages
from qdrl.archives.parts import ACTOR, LINEAGE, NORMALIZER
from qdrl.archives.seals import Identity, Seal, check_seal, identity, write_seal
from qdrl.archives.stored import StoredArchive
from qdrl.archives.strict_json import from_json, to_json
from qdrl.errors import UserError

_LARGE = 2**20  # bytes read at once; an array of a checkpoint that is larger stays in its file
# What says when, where and how fast a file was made, not what it holds.
_NOT_CONTENT = ("meta", "history/seconds")
_LOGGER = logging.getLogger("qdrl")


def open_archive(path: str | Path) -> StoredArchive:
    """Read an archive, that of a run folder, or the archive inside a checkpoint.

    A file that does not match its seal, or has none, is first read in a process of its own, see
    `qdrl.archives.inspection`; where it passes but was changed since it was written, a warning is logged.

    Raises:
        UserError: there is no such file, or it is not a whole archive of a known version; the first problem
            is named (`validate` lists all).
    """
    path = archive_file(path)
    with _examined(path) as file:
        return _read(file, path)


def validate(path: str | Path, *, seal: bool = False) -> list[str]:
    """Return everything wrong with a file, with the place of each; empty for a good one.

    Every dataset is read, in a process of its own where that is possible: a file that crashes libhdf5 is a verdict.

    Args:
        path: the file.
        seal: accept a file that was changed since it was written: write a new seal where nothing else is wrong.

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
    """Return format and version as a file states them, for example "qdrl-archive 1.0"."""
    with _examined(Path(path)) as file:
        return f"{file.attrs.get('format')} {file.attrs.get('format_version')}"


def write_archive(path: str | Path, archive: StoredArchive) -> None:
    """Write an archive file, atomically.

    Raises:
        ValueError: columns and genomes do not fit together; what stood at the path is left as it was.
    """
    write_hdf5(Path(path), lambda file: _write(file, archive, FORMAT), find_problems)


def write_checkpoint(path: str | Path, archive: StoredArchive, state: Mapping[str, Any]) -> None:
    """Write an archive with what resuming needs besides, atomically.

    Args:
        path: the checkpoint file.
        archive: the archive as it stands.
        state: nested mapping of arrays, numbers and strings, kept under /state.
    """

    def write(file: Any) -> None:
        _write(file, archive, CHECKPOINT_FORMAT)
        _write_tree(file.create_group("state"), state)

    write_hdf5(Path(path), write, find_problems)


def read_checkpoint(path: str | Path) -> tuple[StoredArchive, dict[str, Any]]:
    """Read the archive, its history and the state that `write_checkpoint` kept; large arrays are `StoredArray`s.

    Raises:
        UserError: the file is missing, damaged, not a checkpoint, or was changed since it was written.
    """
    path = Path(path)
    if _seal_of(path) == "broken":
        problems = inspect(path) if can_start_processes() else []
        raise UserError(f"{path}: {problems[0] if problems else _CHANGED}")
    with _examined(path) as file:
        if "state" not in file:
            raise UserError(f"{path}: holds no /state; it is an archive, not a checkpoint")
        return _read(file, path), _read_tree(file["state"], path)


def content_digest(path: str | Path) -> str:
    """Return a sha256 over elites, cells, history, normaliser and actor, but not over when, where and how fast.

    Two runs of one experiment and seed have the same digest whatever the number of ranks.
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
    """Yield a dataset's bytes, about a MiB at once."""
    if dataset.dtype.hasobject or dataset.ndim == 0:
        values = np.asarray(dataset[()])
        yield repr(values.tolist()).encode() if dataset.dtype.hasobject else values.tobytes()
        return
    rows = max(1, _LARGE * len(dataset) // max(1, dataset.nbytes))
    for start in range(0, len(dataset), rows):
        yield dataset[start : start + rows].tobytes()


# Trust

_CHANGED = (
    "changed since it was written, or damaged: it does not match its seal;"
    " after an intended change run `qdrl archive validate --seal` on it"
)


@contextmanager
def _examined(path: Path) -> Iterator[Any]:
    """Open a file that was found safe and whole.

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
def _warn_of_change(path: Path, version: Identity) -> None:  # noqa: ARG001 - a file changed again is warned of again
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


# Writing


def _write(file: Any, archive: StoredArchive, kind_of_file: str) -> None:
    file.attrs.update({"format": kind_of_file, "format_version": FORMAT_VERSION, **archive.attributes})
    meta = file.create_group("meta")
    for name in META_JSON:
        meta[name] = to_json(archive.meta.get(name))
    if archive.meta.get("mjcf"):
        meta["mjcf"] = archive.meta["mjcf"]
        meta["mjcf"].attrs["sha256"] = sha256(archive.meta["mjcf"].encode()).hexdigest()
    if archive.meta.get("assets"):
        encoded = {name: b64encode(content).decode() for name, content in archive.meta["assets"].items()}
        meta["assets"] = json.dumps(encoded)
    if archive.meta.get("code"):
        meta["code"] = json.dumps(archive.meta["code"])
    group = file.create_group("archive")
    group.attrs.update(
        {
            "kind": archive.kind,
            "cells": archive.cells,
            "shape": np.array(archive.shape, np.int64),
            "descriptor_names": [axis.name for axis in archive.axes],
            "descriptor_units": [axis.unit for axis in archive.axes],
            "lower": np.array([axis.lower for axis in archive.axes], np.float64),
            "upper": np.array([axis.upper for axis in archive.axes], np.float64),
            "fitness_name": archive.fitness_name,
            "qd_offset": archive.qd_offset,
            "emitters": list(archive.emitters),
        }
    )
    if archive.neighbours is not None:
        group.attrs["neighbours"] = archive.neighbours
    _put(group, "centroids", archive.centroids)
    _write_elites(file.create_group("elites"), archive)
    if archive.champion is not None:
        champion = file.create_group("champion")
        for name, values in archive.champion.items():
            _put(champion, name, values)
    if archive.normalizer is not None:
        normalizer = file.create_group("normalizer")
        for name, value in archive.normalizer.items():
            _put(normalizer, name.replace(".", "/"), value)
    if archive.actor is not None:
        actor = file.create_group("actor")
        _put(actor, "genome", archive.actor["genome"])
        actor["dimensions"] = archive.actor["dimensions"]
    history = file.create_group("history", track_order=True)  # read back in the order written
    for name, values in archive.history.items():
        _put(history, name, values)


def _write_elites(group: h5py.Group, archive: StoredArchive) -> None:
    count, dimensions = len(archive), len(archive.axes)
    for name, (dtype, unknown) in COLUMNS.items():
        shape = (count, dimensions) if name.startswith("descriptor") else (count,)
        values = archive.elites.get(name)
        data = np.full(shape, unknown) if values is None else values
        group.create_dataset(name, data=data, dtype=dtype, fletcher32=count > 0)
    if archive.lineages is not None:
        _write_lineages(group.create_group("lineage"), archive.lineages)
        return
    genomes = archive.all_genomes()
    # A row a chunk: one elite of a large archive is read in 0.04 ms instead of 6.6 ms; the checksums, which
    # find every flipped bit, add as much again.
    chunks = (1, genomes.shape[1]) if count else None
    group.create_dataset("genome", data=genomes, dtype="f4", chunks=chunks, fletcher32=count > 0)


def _write_lineages(group: h5py.Group, lineages: StoredLineages) -> None:
    group.attrs["noise"] = json.dumps(lineages.noise)
    for name in LINEAGE:
        _put(group, name, getattr(lineages, name))


def _write_tree(group: h5py.Group, tree: Mapping[str, Any]) -> None:
    for name, value in tree.items():
        if isinstance(value, Mapping):
            _write_tree(group.create_group(name), value)
        else:
            _put(group, name, value)


def _put(group: h5py.Group, name: str, value: Any) -> None:
    """Store a value, with checksums where it is an array that is not empty; others cannot carry any."""
    array = value if isinstance(value, str | bytes) else np.asarray(value)
    if isinstance(array, np.ndarray) and array.size and array.ndim:
        group.create_dataset(name, data=array, fletcher32=True)
    else:
        group[name] = array


# Reading


def _read(file: Any, path: Path) -> StoredArchive:
    attributes = {name: _plain(value) for name, value in file.attrs.items() if name not in ("format", "format_version")}
    meta: dict[str, Any] = {name: from_json(file["meta"][name].asstr()[()]) for name in META_JSON}
    if "mjcf" in file["meta"]:
        meta["mjcf"] = file["meta/mjcf"].asstr()[()]
    if "assets" in file["meta"]:
        encoded = json.loads(file["meta/assets"].asstr()[()])
        meta["assets"] = {name: b64decode(content) for name, content in encoded.items()}
    if "code" in file["meta"]:
        meta["code"] = json.loads(file["meta/code"].asstr()[()])
    group = file["archive"].attrs
    axes = tuple(
        Axis(str(name), str(unit), float(low), float(high))
        for name, unit, low, high in zip(
            group["descriptor_names"], group["descriptor_units"], group["lower"], group["upper"], strict=True
        )
    )
    return StoredArchive(
        axes=axes,
        kind=str(group["kind"]),
        shape=tuple(int(n) for n in group["shape"]),
        centroids=file["archive/centroids"][:],
        fitness_name=str(group["fitness_name"]),
        qd_offset=float(group["qd_offset"]),
        emitters=tuple(str(name) for name in group["emitters"]),
        elites={name: file["elites"][name][:] for name in COLUMNS},
        history={name: values[:] for name, values in file["history"].items()},
        attributes=attributes,
        meta=meta,
        normalizer=_read_normalizer(file["normalizer"]) if "normalizer" in file else None,
        actor={name: file["actor"][name][()] for name in ACTOR} if "actor" in file else None,
        champion={name: values[()] for name, values in file["champion"].items()} if "champion" in file else None,
        lineages=_read_lineages(file["elites/lineage"]) if "lineage" in file["elites"] else None,
        neighbours=int(group["neighbours"]) if "neighbours" in group else None,
        path=path,
    )


def _read_lineages(group: Any) -> StoredLineages:
    return StoredLineages(**{name: group[name][()] for name in LINEAGE}, noise=json.loads(group.attrs["noise"]))


def _read_normalizer(group: Any) -> dict[str, np.ndarray]:
    return {name.replace("/", "."): group[name][()] for name in NORMALIZER}


def _read_tree(group: Any, path: Path) -> dict[str, Any]:
    tree: dict[str, Any] = {}
    for name, item in group.items():
        if isinstance(item, h5py.Group):
            tree[name] = _read_tree(item, path)
        elif item.nbytes >= _LARGE:
            tree[name] = StoredArray(path, item)
        else:
            tree[name] = _plain(item[()])
    return tree


def _plain(value: Any) -> Any:
    if isinstance(value, bytes):
        return value.decode(errors="replace")
    return value.item() if isinstance(value, np.generic) else value
