"""What an archive file must look like: names, dtypes and shapes, and the check of all that."""

import json
from hashlib import sha256
from itertools import pairwise
from typing import Any

import h5py
import numpy as np

FORMAT = "qdrl-archive"
CHECKPOINT_FORMAT = "qdrl-checkpoint"
FORMAT_VERSION = "1.2"  # archives/README.md lists what each minor version added

# Columns of the elites: stored dtype and, where a writer may leave one out, the value that means "unknown".
COLUMNS: dict[str, tuple[str, float | None]] = {
    "cell": ("i4", None),
    "fitness": ("f8", None),
    "descriptor": ("f8", None),
    "evaluation_seed": ("i8", None),
    "generation": ("i4", None),
    "emitter": ("i4", 0),
    "parent_cell": ("i4", -1),
    "n_evaluations": ("i4", 1),
    "fitness_std": ("f8", np.nan),
    "descriptor_std": ("f8", np.nan),
}
KINDS = ("grid", "cvt", "novelty")
META_JSON = ("config", "command", "packages", "task", "policy")
LINEAGE = ("offsets", "seeds", "sigmas", "keyframe_numbers", "keyframes")
ACTOR = ("genome", "dimensions")
NORMALIZER = ("mean", "var", "count", "at/generation", "at/mean", "at/var")


def find_problems(file: Any, *, thorough: bool = False) -> list[str]:
    """What is wrong with an archive or a checkpoint, each with its place; nothing for a good one.

    Problems come in reading order; later checks run where the earlier ones leave something to read.

    Args:
        file: an open h5py file, typed Any because h5py cannot know which items are groups and which datasets.
        thorough: read every genome too, to find any that is not finite.
    """
    kind_of_file = file.attrs.get("format")
    if str(kind_of_file) not in (FORMAT, CHECKPOINT_FORMAT):
        return [f"/: attribute format is {kind_of_file!r}, not '{FORMAT}'; this is not a qdrl archive"]
    version = str(file.attrs.get("format_version"))
    if version.split(".")[0] != FORMAT_VERSION.split(".")[0]:
        return [f"/: format_version is {version}; this qdrl reads {FORMAT_VERSION}"]
    expected = ["archive/centroids", *(f"meta/{name}" for name in META_JSON)]
    genomes = [f"lineage/{name}" for name in LINEAGE] if "lineage" in file.get("elites", ()) else ["genome"]
    expected += [f"elites/{name}" for name in (*COLUMNS, *genomes)]
    if "normalizer" in file:
        expected += [f"normalizer/{name}" for name in NORMALIZER]
    if "actor" in file:
        expected += [f"actor/{name}" for name in ACTOR]
    problems = [f"/{name}: missing" for name in expected if file.get(name, getclass=True) is not h5py.Dataset]
    if file.get("history", getclass=True) is not h5py.Group:
        problems.append("/history: missing")
    problems = problems or _problems_of_cells(file) or _problems_of_elites(file) + _problems_of_the_rest(file)
    if thorough and len(getattr(file.get("elites/genome"), "shape", ())) == 2:
        problems += _unreadable(file["elites/genome"], "genome") or _not_finite(file, "genome")
    return problems


def _problems_of_cells(file: Any) -> list[str]:
    attributes = file["archive"].attrs
    names = ("kind", "cells", "shape", "lower", "upper", "descriptor_names", "descriptor_units")
    missing = [name for name in (*names, "fitness_name", "qd_offset", "emitters") if name not in attributes]
    if missing:
        return [f"/archive: attribute {name} missing" for name in missing]
    kind, cells, shape, lower, upper = (attributes[name] for name in names[:5])
    dimensions, centroids = len(attributes["descriptor_names"]), file["archive/centroids"]
    problems = []
    if kind not in KINDS:
        problems.append(f"/archive: kind is {kind!r}, none of {', '.join(KINDS)}")
    if kind == "novelty" and not attributes.get("neighbours", 0) >= 1:
        problems.append("/archive: attribute neighbours must be 1 or more in an archive of kind 'novelty'")
    if any(len(attributes[name]) != dimensions for name in ("lower", "upper", "descriptor_units")):
        problems.append(f"/archive: lower, upper and descriptor_units must have {dimensions} entries")
    elif not np.isfinite([lower, upper]).all() or not (lower < upper).all():
        problems.append(f"/archive: lower {lower.tolist()} must be finite and below upper {upper.tolist()}")
    if centroids.shape != (expected := (0 if kind == "novelty" else int(cells), dimensions)):
        problems.append(f"/archive/centroids: shape {centroids.shape}, expected {expected}")
    elif not np.isfinite(centroids[:]).all():
        problems.append("/archive/centroids: not finite")
    if int(np.prod(shape)) != cells or len(shape) != (1 if kind in ("cvt", "novelty") else dimensions):
        problems.append(f"/archive: shape {shape.tolist()} does not give {cells} cells in {dimensions} dimensions")
    return problems


def _problems_of_elites(file: Any) -> list[str]:
    elites, attributes = file["elites"], file["archive"].attrs
    count, dimensions = len(elites["cell"]), len(attributes["descriptor_names"])
    problems = []
    for name in (*COLUMNS, *(("genome",) if "genome" in elites else ())):
        dtype, shape = elites[name].dtype, elites[name].shape
        width = dimensions if name.startswith("descriptor") else shape[-1] if name == "genome" else None
        expected = (count,) if width is None else (count, width)
        if shape != expected:
            problems.append(f"/elites/{name}: shape {shape}, expected {expected}")
        if dtype.kind != (kind := np.dtype(COLUMNS.get(name, ("f4",))[0]).kind):
            problems.append(f"/elites/{name}: dtype {dtype}, expected {'integers' if kind == 'i' else 'floats'}")
        problems += _unreadable(elites[name], name) if name != "genome" else []
    if problems := problems or (_problems_of_lineages(elites["lineage"], count) if "lineage" in elites else []):
        return problems
    cell, emitter = elites["cell"][:], elites["emitter"][:]
    if count and (cell[0] < 0 or cell[-1] >= attributes["cells"] or (np.diff(cell) <= 0).any()):
        problems.append(f"/elites/cell: must be ascending, each once, within 0..{attributes['cells'] - 1}")
    problems += _not_finite(file, "fitness") + _not_finite(file, "descriptor")
    if count and (emitter.min() < 0 or emitter.max() >= len(attributes["emitters"])):
        problems.append(f"/elites/emitter: must lie within 0..{len(attributes['emitters']) - 1}")
    return problems


def _problems_of_lineages(group: Any, count: int) -> list[str]:
    place = "/elites/lineage"
    try:
        offsets, seeds, sigmas, numbers = (group[name][()] for name in LINEAGE[:4])
    except OSError as error:
        return [f"{place}: damaged: {error}"]
    if offsets.shape != (count + 1,) or offsets[0] != 0 or (np.diff(offsets) < 1).any():
        return [f"{place}/offsets: must be {count + 1} ascending numbers from 0"]
    if seeds.shape != (offsets[-1],) or sigmas.shape != seeds.shape:
        return [f"{place}: seeds {seeds.shape} and sigmas {sigmas.shape} must have {offsets[-1]} numbers"]
    first = np.zeros(len(seeds), bool)
    first[offsets[:-1]] = True
    if not np.isfinite(sigmas[~first]).all() or not set(seeds[np.isnan(sigmas)].tolist()) <= set(numbers.tolist()):
        return [f"{place}: a power is not finite, or a keyframe is missing"]
    if group["keyframes"].ndim != 2 or len(group["keyframes"]) != len(numbers):
        return [f"{place}/keyframes: shape {group['keyframes'].shape}, expected {len(numbers)} rows"]
    return _unreadable(group["keyframes"], "lineage/keyframes")


def _problems_of_the_rest(file: Any) -> list[str]:
    problems = []
    for name in META_JSON:
        try:
            value = json.loads(file["meta"][name].asstr()[()])
            if not isinstance(value, dict | None):
                problems.append(f"/meta/{name}: must be an object or null, is {type(value).__name__}")
        except (ValueError, TypeError) as error:
            problems.append(f"/meta/{name}: not JSON: {error}")
    problems += _problems_of_code(file["meta"])
    if "mjcf" in file["meta"]:
        text = file["meta/mjcf"].asstr()[()]
        if sha256(text.encode()).hexdigest() != file["meta/mjcf"].attrs.get("sha256"):
            problems.append("/meta/mjcf: does not match its sha256")
    shapes = {name: values.shape for name, values in file["history"].items()}
    if len(set(shapes.values())) > 1 or any(len(shape) != 1 for shape in shapes.values()):
        problems.append(f"/history: metrics must have one length, got shapes {shapes}")
    if "normalizer" in file:
        group = file["normalizer"]
        width, states = group["mean"].shape, group["at/generation"].shape
        for name, shape in {"var": width, "at/mean": states + width, "at/var": states + width}.items():
            if group[name].shape != shape:
                problems.append(f"/normalizer/{name}: shape {group[name].shape}, expected {shape}")
    if "champion" in file and not problems:
        problems += _problems_of_the_champion(file["champion"])
    return problems + (_problems_of_the_actor(file) if "actor" in file and not problems else [])


def _problems_of_code(meta: Any) -> list[str]:
    """Whether the stored source of users' code is an object of sources that match their digests."""
    if "code" not in meta:
        return []
    try:
        entries = json.loads(meta["code"].asstr()[()])
        texts = {name: (entry["source"], entry["sha256"]) for name, entry in entries.items()}
        differ = [
            name for name, (text, digest) in texts.items() if text and sha256(text.encode()).hexdigest() != digest
        ]
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        return [f"/meta/code: not an object of source and sha256: {error}"]
    return [f"/meta/code: {name} does not match its sha256" for name in differ]


def _problems_of_the_champion(champion: Any) -> list[str]:
    names = set(champion)
    if not names >= {"fitness", "generation"} or not (names >= {"seeds", "sigmas"} or "genome" in names):
        return [f"/champion: has {', '.join(sorted(names))}; expected fitness, generation and a genome or lineage"]
    for name in sorted(names):
        if damage := _unreadable(champion[name], name, "champion"):
            return damage
        if name != "sigmas" and not np.isfinite(champion[name][:]).all():
            return [f"/champion/{name}: not finite"]
    return []


def _problems_of_the_actor(file: Any) -> list[str]:
    actor, axes = file["actor"], len(file["archive"].attrs["descriptor_names"])
    dimensions, shape = int(actor["dimensions"][()]), actor["genome"].shape
    if dimensions not in (0, axes):
        return [f"/actor/dimensions: {dimensions}, expected 0 or {axes}"]
    if damage := _unreadable(actor["genome"], "genome", "actor"):
        return damage
    policy = json.loads(file["meta/policy"].asstr()[()]) or {}
    if len(layers := policy.get("layers", ())) > 1:
        weights = dimensions * layers[1] + sum((a + 1) * b for a, b in pairwise(layers))
        if shape != (weights,):
            return [
                f"/actor/genome: shape {shape}, expected {(weights,)} for layers {layers} and {dimensions} more inputs"
            ]
    if len(shape) != 1 or not np.isfinite(actor["genome"][:]).all():
        return ["/actor/genome: must be one row of finite numbers"]
    return []


def _unreadable(dataset: Any, name: str, group: str = "elites") -> list[str]:
    """Whether a column fails its checksums."""
    try:
        for start in range(0, len(dataset), 256):
            dataset[start : start + 256]
    except OSError as error:
        return [f"/{group}/{name}: damaged: {error}"]
    return []


def _not_finite(file: Any, name: str) -> list[str]:
    """Where a floating column of the elites is not finite."""
    dataset, rows = file["elites"][name], []
    for start in range(0, len(dataset), 256):
        finite = np.isfinite(dataset[start : start + 256])
        rows += (start + np.flatnonzero(~finite.all(axis=tuple(range(1, finite.ndim))))).tolist()
    return [f"/elites/{name}: not finite in rows {rows[:5]}"] if rows else []
