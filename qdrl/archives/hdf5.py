"""The archive file, read and written; only this module and `layout.py`, its checks, know the format.

`archives/README.md` is the specification. Reading checks before it trusts: `open_archive` refuses the first problem
found, `validate` lists them all. Nothing here needs torch.
"""

import json
from collections.abc import Mapping
from hashlib import sha256
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from qdrl.archives.files import StoredArray, open_hdf5, write_hdf5
from qdrl.archives.layout import (
    ACTOR,
    CHECKPOINT_FORMAT,
    COLUMNS,
    FORMAT,
    FORMAT_VERSION,
    LINEAGE,
    META_JSON,
    NORMALIZER,
    find_problems,
)
from qdrl.archives.lineages import StoredLineages
from qdrl.archives.stored import StoredArchive
from qdrl.axes import Axis
from qdrl.errors import UserError
from qdrl.plain import from_json, to_json

# What says when, where and how fast a file was made, not what it holds.
_LARGE = 2**20  # bytes from which an array of a checkpoint is left in its file
_NOT_CONTENT = ("meta", "history/seconds")


def open_archive(path: str | Path) -> StoredArchive:
    """Read an archive, or the archive inside a checkpoint.

    Raises:
        UserError: there is no such file, or it is not a whole archive of a known version; the first problem
            is named (`validate` lists all).
    """
    path = Path(path)
    with open_hdf5(path) as file:
        if problems := find_problems(file):
            raise UserError(f"{path}: {problems[0]}")
        return _read(file, path)


def validate(path: str | Path) -> list[str]:
    """Everything wrong with a file, with the place of each; empty for a good one. Reads every genome."""
    try:
        with open_hdf5(Path(path)) as file:
            return find_problems(file, thorough=True)
    except UserError as error:
        return [str(error).removeprefix(f"{path}: ")]


def file_format(path: str | Path) -> str:
    """Format and version as a file states them, for example "qdrl-archive 1.0"."""
    with open_hdf5(Path(path)) as file:
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
    """The archive, its history and the state that `write_checkpoint` kept; its large arrays are `StoredArray`s.

    Raises:
        UserError: the file is missing, damaged or not a checkpoint.
    """
    archive = open_archive(path)
    with open_hdf5(Path(path)) as file:
        if "state" not in file:
            raise UserError(f"{path}: holds no /state; it is an archive, not a checkpoint")
        return archive, _read_tree(file["state"], Path(path))


def content_digest(path: str | Path) -> str:
    """sha256 over what a file holds: elites, cells, history, normaliser and actor, but not when, where or how fast.

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
            data = np.asarray(item[()])
            digest.update(f"{data.dtype.str}{data.shape}\n".encode())
            digest.update(repr(data.tolist()).encode() if data.dtype.hasobject else data.tobytes())

    with open_hdf5(Path(path)) as file:
        file.visititems(visit)
    return digest.hexdigest()


# Writing


def _write(file: Any, archive: StoredArchive, kind_of_file: str) -> None:
    file.attrs.update({"format": kind_of_file, "format_version": FORMAT_VERSION, **archive.attributes})
    meta = file.create_group("meta")
    for name in META_JSON:
        meta[name] = to_json(archive.meta.get(name))
    if archive.meta.get("mjcf"):
        meta["mjcf"] = archive.meta["mjcf"]
        meta["mjcf"].attrs["sha256"] = sha256(archive.meta["mjcf"].encode()).hexdigest()
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
    group["centroids"] = archive.centroids
    _write_elites(file.create_group("elites"), archive)
    if archive.champion is not None:
        champion = file.create_group("champion")
        for name, values in archive.champion.items():
            champion.create_dataset(name, data=values, fletcher32=True)
    if archive.normalizer is not None:
        normalizer = file.create_group("normalizer")
        for name, value in archive.normalizer.items():
            normalizer[name.replace(".", "/")] = value
    if archive.actor is not None:
        actor = file.create_group("actor")
        actor.create_dataset("genome", data=archive.actor["genome"], fletcher32=True)
        actor["dimensions"] = archive.actor["dimensions"]
    history = file.create_group("history", track_order=True)  # read back in the order written
    for name, values in archive.history.items():
        history[name] = values


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
        data = getattr(lineages, name)
        group.create_dataset(name, data=data, fletcher32=data.size > 0)


def _write_tree(group: h5py.Group, tree: Mapping[str, Any]) -> None:
    for name, value in tree.items():
        if isinstance(value, Mapping):
            _write_tree(group.create_group(name), value)
        else:
            group[name] = value


# Reading


def _read(file: Any, path: Path) -> StoredArchive:
    attributes = {name: _plain(value) for name, value in file.attrs.items() if name not in ("format", "format_version")}
    meta: dict[str, Any] = {name: from_json(file["meta"][name].asstr()[()]) for name in META_JSON}
    if "mjcf" in file["meta"]:
        meta["mjcf"] = file["meta/mjcf"].asstr()[()]
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
        return value.decode()
    return value.item() if isinstance(value, np.generic) else value
