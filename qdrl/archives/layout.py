"""Names, dtypes and shapes of an archive file, and the check of a file against them."""

import math
from itertools import chain
from typing import Any

import h5py
import numpy as np

from qdrl.archives.checks import below, dtype_problems, is_value, not_finite, unreadable
from qdrl.archives.files import is_from_h5py
from qdrl.archives.metadata import meta_problems
from qdrl.archives.parts import (
    LINEAGE,
    NORMALIZER,
    actor_names,
    actor_problems,
    champion_problems,
    history_problems,
    lineage_problems,
    normalizer_problems,
)
from qdrl.archives.structure import find_unsafe, shown

FORMAT = "qdrl-archive"
CHECKPOINT_FORMAT = "qdrl-checkpoint"
FORMAT_VERSION = "1.2"  # archives/README.md lists what each minor version added

# Columns of the elites: stored dtype, and the value that means "unknown" for columns that a writer may leave out.
COLUMNS: dict[str, tuple[str, float | None]] = {
    "cell": ("i4", None),
    "fitness": ("f8", None),
    "descriptor": ("f8", None),
    "evaluation_seed": ("i8", None),
    "generation": ("i4", None),
    "emitter": ("i4", 0),
    "parent_cell": ("i4", -1),
    "n_evaluations": ("i4", 1),
    "steps": ("f8", np.nan),
    "fitness_std": ("f8", np.nan),
    "descriptor_std": ("f8", np.nan),
}
OPTIONAL_COLUMNS = ("steps",)  # files before 1.2 lack them
OFFSETS = ("qd_offset", "step_offset", "included_offset")  # those but the first are optional
KINDS = ("grid", "cvt", "novelty")
META_JSON = ("config", "command", "packages", "task", "policy")
_MOST_CELLS = 2**31  # cells are numbered by int32

# Attributes of /archive and of the root that every file has, and their kinds, see `checks.is_value`.
_ATTRIBUTES = {
    "kind": "string",
    "cells": "integer",
    "shape": "integers",
    "lower": "numbers",
    "upper": "numbers",
    "descriptor_names": "strings",
    "descriptor_units": "strings",
    "fitness_name": "string",
    "qd_offset": "number",
    "emitters": "strings",
}
_ROOT_ATTRIBUTES = {"created_utc": "string", "qdrl_version": "string", "git_commit": "string"}
_OPTIONAL_ATTRIBUTES = {"seed": "integer", "license": "string"}
_OPTIONAL_OFFSETS = dict.fromkeys(OFFSETS[1:], "number")
_LEAST = {"evaluation_seed": 0, "generation": 0, "parent_cell": -1, "n_evaluations": 1}


def find_problems(file: Any, size: int, *, thorough: bool = False) -> list[str]:
    """Return the problems of an archive or a checkpoint, each with its place; an empty list for a valid file.

    Problems are in reading order; later checks run if the earlier ones found nothing that prevents them. Only the
    format's name is read before `find_unsafe` has found the file safe to read.

    Args:
        file: an open h5py file, typed Any because h5py cannot know which items are groups and which datasets.
        size: the file's size in bytes, which limits the data it can hold.
        thorough: also read every genome and all of /state, to find damage and genomes that are not finite.
    """
    try:
        problems = _problems_of_the_format(file) or find_unsafe(file, size) or _problems_of_the_layout(file)
        return problems or _problems_of_contents(file, thorough=thorough)
    except (OSError, RuntimeError, KeyError, UnicodeError, MemoryError) as error:
        if not (is_from_h5py(error) or isinstance(error, UnicodeError | MemoryError)):
            raise  # an error of the checks themselves
        return [f"/: damaged: {shown(' '.join(str(error).split()))}"]


def _problems_of_the_format(file: Any) -> list[str]:
    stated = {name: file.attrs.get(name) for name in ("format", "format_version")}
    if stated["format"] is None or str(stated["format"]) not in (FORMAT, CHECKPOINT_FORMAT):
        what = shown(repr(stated["format"]))
        return [f"/: attribute format is {what}, not '{FORMAT}'; this is not a qdrl archive"]
    version = str(stated["format_version"])
    if version.split(".")[0] != FORMAT_VERSION.split(".")[0]:
        return [f"/: format_version is {shown(version)}; this qdrl reads {FORMAT_VERSION}"]
    return []


def _problems_of_the_layout(file: Any) -> list[str]:
    """Return the groups, datasets and attributes that are missing or of the wrong kind."""
    optional = ("normalizer", "champion", "actor", "state", "elites/lineage")
    groups = ["history", *(name for name in optional if name in file)]
    if missing := [name for name in groups if file.get(name, getclass=True) is not h5py.Group]:
        return [f"/{name}: missing" for name in missing]
    genomes = [f"lineage/{name}" for name in LINEAGE] if "elites/lineage" in file else ["genome"]
    expected = ["archive/centroids", *(f"meta/{name}" for name in META_JSON)]
    columns = [name for name in COLUMNS if name not in OPTIONAL_COLUMNS or f"elites/{name}" in file]
    expected += [f"elites/{name}" for name in (*columns, *genomes)]
    expected += [f"normalizer/{name}" for name in NORMALIZER if "normalizer" in file]
    expected += [f"actor/{name}" for name in (actor_names(file["actor"]) if "actor" in file else ())]
    expected += [f"champion/{shown(name)}" for name in file.get("champion", ())]
    problems = [f"/{name}: missing" for name in expected if file.get(name, getclass=True) is not h5py.Dataset]
    return problems or _problems_of_attributes(file)


def _problems_of_attributes(file: Any) -> list[str]:
    problems = []
    for place, attributes, kinds in (
        ("/", file.attrs, _ROOT_ATTRIBUTES | _OPTIONAL_ATTRIBUTES),
        ("/archive", file["archive"].attrs, _ATTRIBUTES | _OPTIONAL_OFFSETS),
    ):
        for name, kind in kinds.items():
            value = attributes.get(name)
            if value is None:
                optional = name in _OPTIONAL_ATTRIBUTES or name in _OPTIONAL_OFFSETS
                problems += [] if optional else [f"{place}: attribute {name} missing"]
            elif not is_value(value, kind):
                problems.append(f"{place}: attribute {name} must be {kind}, is {shown(repr(value))}")
    return problems


def _problems_of_contents(file: Any, *, thorough: bool) -> list[str]:
    problems = _problems_of_cells(file) or _problems_of_elites(file) + _problems_of_tables(file)
    problems = problems or _problems_of_networks(file)
    if thorough and len(getattr(file.get("elites/genome"), "shape", ())) == 2:
        place = "/elites/genome"
        problems += unreadable(file[place], place) or not_finite(file[place], place)
    return problems + (_problems_of_state(file["state"], "/state") if thorough and "state" in file else [])


def _problems_of_cells(file: Any) -> list[str]:
    attributes = file["archive"].attrs
    kind, cells, shape, lower, upper = (attributes[name] for name in ("kind", "cells", "shape", "lower", "upper"))
    dimensions, centroids = len(attributes["descriptor_names"]), file["archive/centroids"]
    problems = []
    if kind not in KINDS:
        problems.append(f"/archive: kind is {kind!r}, none of {', '.join(KINDS)}")
    if (kind == "novelty" or "neighbours" in attributes) and not _is_count(attributes.get("neighbours")):
        problems.append("/archive: attribute neighbours must be 1 or more in an archive of kind 'novelty'")
    if any(len(attributes[name]) != dimensions for name in ("lower", "upper", "descriptor_units")):
        problems.append(f"/archive: lower, upper and descriptor_units must have {dimensions} entries")
    elif dimensions == 0:
        problems.append("/archive: descriptor_names is empty; an archive has at least one axis")
    elif not np.isfinite([lower, upper]).all() or not (lower < upper).all():
        problems.append(f"/archive: lower {lower.tolist()} must be finite and below upper {upper.tolist()}")
    problems += [
        f"/archive: attribute {name} must be finite" for name in OFFSETS if not np.isfinite(attributes.get(name, 0.0))
    ]
    if centroids.shape != (expected := (0 if kind == "novelty" else int(cells), dimensions)):
        problems.append(f"/archive/centroids: shape {centroids.shape}, expected {expected}")
    elif damage := dtype_problems(centroids, "/archive/centroids", "floats") or unreadable(
        centroids, "/archive/centroids"
    ):
        problems += damage
    elif not np.isfinite(centroids[:]).all():
        problems.append("/archive/centroids: not finite")
    sides = [int(side) for side in shape]
    fits = math.prod(sides) == cells <= _MOST_CELLS and min(sides, default=0) >= (0 if kind == "novelty" else 1)
    if not fits or len(sides) != (1 if kind in ("cvt", "novelty") else dimensions):
        problems.append(f"/archive: shape {sides[:8]} does not give {cells} cells in {dimensions} dimensions")
    return problems


def _problems_of_elites(file: Any) -> list[str]:
    elites, attributes = file["elites"], file["archive"].attrs
    count, dimensions = (elites["cell"].shape or (-1,))[0], len(attributes["descriptor_names"])
    problems = []
    columns = [name for name in COLUMNS if name in elites]
    for name in (*columns, *(("genome",) if "genome" in elites else ())):
        place, shape = f"/elites/{name}", elites[name].shape
        width = dimensions if name.startswith("descriptor") else max((0, *shape[-1:])) if name == "genome" else None
        expected = (count,) if width is None else (count, width)
        if shape != expected:
            problems.append(f"{place}: shape {shape}, expected {expected}")
        kind = "float32" if name == "genome" else "integers" if COLUMNS[name][0].startswith("i") else "floats"
        problems += dtype_problems(elites[name], place, kind)
        problems += unreadable(elites[name], place) if name != "genome" else []
    if problems := problems or (lineage_problems(elites["lineage"], count) if "lineage" in elites else []):
        return problems
    cell, emitter = elites["cell"][:], elites["emitter"][:]
    if count and (cell[0] < 0 or cell[-1] >= attributes["cells"] or (cell[1:] <= cell[:-1]).any()):
        problems.append(f"/elites/cell: must be ascending, each once, within 0..{attributes['cells'] - 1}")
    problems += chain.from_iterable(not_finite(elites[name], f"/elites/{name}") for name in ("fitness", "descriptor"))
    if count and (emitter.min() < 0 or emitter.max() >= len(attributes["emitters"])):
        problems.append(f"/elites/emitter: must lie within 0..{len(attributes['emitters']) - 1}")
    problems += [problem for name, least in _LEAST.items() for problem in below(elites[name], f"/elites/{name}", least)]
    return problems + _problems_of_steps(elites, attributes)


def _problems_of_steps(elites: Any, attributes: Any) -> list[str]:
    """Return the problems of the episodes' lengths, which are unknown in older files."""
    needed = any(attributes.get(name) for name in _OPTIONAL_OFFSETS)
    if "steps" not in elites:
        return ["/elites/steps: missing, although the QD score uses it"] if needed else []
    return (not_finite(elites["steps"], "/elites/steps") if needed else []) + below(elites["steps"], "/elites/steps", 0)


def _problems_of_tables(file: Any) -> list[str]:
    """Return the problems of metadata, history and observation statistics."""
    problems = meta_problems(file["meta"]) + history_problems(file["history"])
    return problems + (normalizer_problems(file["normalizer"]) if "normalizer" in file else [])


def _problems_of_networks(file: Any) -> list[str]:
    """Return the problems of the champion and the actor, in a file whose other parts are valid."""
    problems = []
    if "champion" in file:
        elites = file["elites"]
        genomes = elites["lineage/keyframes"] if "lineage" in elites else elites["genome"]
        problems += champion_problems(file["champion"], genomes.shape[-1])
    return problems + (actor_problems(file) if "actor" in file and not problems else [])


def _problems_of_state(item: Any, place: str) -> list[str]:
    """Return the datasets of a checkpoint's state that fail their checksums."""
    if isinstance(item, h5py.Group):
        return [problem for name in item for problem in _problems_of_state(item[name], f"{place}/{name}")]
    return unreadable(item, place)


def _is_count(value: Any) -> bool:
    return value is not None and is_value(value, "integer") and value >= 1
