"""The groups and datasets of an archive file: written from a `StoredArchive`, and read into one. Needs no torch."""

import json
from base64 import b64decode, b64encode
from collections.abc import Mapping
from hashlib import sha256
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from qdrl.archives.axes import Axis
from qdrl.archives.files import StoredArray
from qdrl.archives.layout import COLUMNS, FORMAT_VERSION, META_JSON, OFFSETS
from qdrl.archives.lineages import StoredLineages
from qdrl.archives.parts import LINEAGE, NORMALIZER, actor_names
from qdrl.archives.statistics import Offsets
from qdrl.archives.stored import StoredArchive
from qdrl.archives.strict_json import from_json, to_json

_LAZY_BYTES = 2**20  # an array of a checkpoint of this size or larger stays in its file


def write_groups(file: Any, archive: StoredArchive, file_format: str) -> None:
    """Write an archive into an open file, `file_format` being the name of the format in its attributes."""
    file.attrs.update({"format": file_format, "format_version": FORMAT_VERSION, **archive.attributes})
    _write_meta(file.create_group("meta"), archive)
    _write_space(file.create_group("archive"), archive)
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
        for name in actor_names(archive.actor):
            _put(actor, name, archive.actor[name])
    history = file.create_group("history", track_order=True)  # reading keeps the order of metrics
    for name, values in archive.history.items():
        _put(history, name, values)


def _write_meta(group: h5py.Group, archive: StoredArchive) -> None:
    for name in META_JSON:
        group[name] = to_json(archive.meta.get(name))
    if archive.meta.get("mjcf"):
        group["mjcf"] = archive.meta["mjcf"]
        group["mjcf"].attrs["sha256"] = sha256(archive.meta["mjcf"].encode()).hexdigest()
    if archive.meta.get("assets"):
        encoded = {name: b64encode(content).decode() for name, content in archive.meta["assets"].items()}
        group["assets"] = json.dumps(encoded)
    if archive.meta.get("code"):
        group["code"] = json.dumps(archive.meta["code"])


def _write_space(group: h5py.Group, archive: StoredArchive) -> None:
    """Write the descriptor space, the meaning of fitness and the names of emitters."""
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
            **vars(archive.offsets),
            "emitters": list(archive.emitters),
        }
    )
    if archive.neighbours is not None:
        group.attrs["neighbours"] = archive.neighbours
    _put(group, "centroids", archive.centroids)


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
    # One chunk a row: reading one elite of a large archive takes 0.04 ms instead of 6.6 ms. Checksums, which detect
    # every flipped bit, double that.
    chunks = (1, genomes.shape[1]) if count else None
    group.create_dataset("genome", data=genomes, dtype="f4", chunks=chunks, fletcher32=count > 0)


def _write_lineages(group: h5py.Group, lineages: StoredLineages) -> None:
    group.attrs["noise"] = json.dumps(lineages.noise)
    for name in LINEAGE:
        _put(group, name, getattr(lineages, name))


def write_tree(group: h5py.Group, tree: Mapping[str, Any]) -> None:
    """Write nested mappings of arrays, numbers and strings as nested groups and datasets."""
    for name, value in tree.items():
        if isinstance(value, Mapping):
            write_tree(group.create_group(name), value)
        else:
            _put(group, name, value)


def _put(group: h5py.Group, name: str, value: Any) -> None:
    """Store a value, with checksums if it is a non-empty array: HDF5 has none for other values."""
    array = value if isinstance(value, str | bytes) else np.asarray(value)
    if isinstance(array, np.ndarray) and array.size and array.ndim:
        group.create_dataset(name, data=array, fletcher32=True)
    else:
        group[name] = array


def read_groups(file: Any, path: Path) -> StoredArchive:
    """Return the archive of an open file that passed its checks; genomes stay in the file at `path`."""
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
        offsets=Offsets(**{name: float(group.get(name, 0.0)) for name in OFFSETS}),
        emitters=tuple(str(name) for name in group["emitters"]),
        elites=_read_columns(file["elites"]),
        history={name: values[:] for name, values in file["history"].items()},
        attributes=attributes,
        meta=meta,
        normalizer=_read_normalizer(file["normalizer"]) if "normalizer" in file else None,
        actor={name: file["actor"][name][()] for name in actor_names(file["actor"])} if "actor" in file else None,
        champion={name: values[()] for name, values in file["champion"].items()} if "champion" in file else None,
        lineages=_read_lineages(file["elites/lineage"]) if "lineage" in file["elites"] else None,
        neighbours=int(group["neighbours"]) if "neighbours" in group else None,
        path=path,
    )


def _read_columns(group: Any) -> dict[str, np.ndarray]:
    """Return the columns of the elites; one that older files lack has the value that means "unknown"."""
    count = len(group["cell"])
    return {
        name: group[name][:] if name in group else np.full(count, unknown, dtype)
        for name, (dtype, unknown) in COLUMNS.items()
    }


def _read_lineages(group: Any) -> StoredLineages:
    return StoredLineages(**{name: group[name][()] for name in LINEAGE}, noise=json.loads(group.attrs["noise"]))


def _read_normalizer(group: Any) -> dict[str, np.ndarray]:
    return {name.replace("/", "."): group[name][()] for name in NORMALIZER}


def read_tree(group: Any, path: Path) -> dict[str, Any]:
    """Return nested groups as nested mappings; large arrays are `StoredArray`s of the file at `path`."""
    tree: dict[str, Any] = {}
    for name, item in group.items():
        if isinstance(item, h5py.Group):
            tree[name] = read_tree(item, path)
        elif item.nbytes >= _LAZY_BYTES:
            tree[name] = StoredArray(path, item)
        else:
            tree[name] = _plain(item[()])
    return tree


def _plain(value: Any) -> Any:
    if isinstance(value, bytes):
        return value.decode(errors="replace")
    return value.item() if isinstance(value, np.generic) else value
