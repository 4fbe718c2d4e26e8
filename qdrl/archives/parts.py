"""Checks of an archive's optional parts: lineages, history, observation statistics, champion and actor."""

import json
from itertools import pairwise
from typing import Any

import numpy as np

from qdrl.archives.checks import array_problems, dtype_problems, is_value, unreadable

LINEAGE = ("offsets", "seeds", "sigmas", "keyframe_numbers", "keyframes")
NORMALIZER = ("mean", "var", "count", "at/generation", "at/mean", "at/var")

_MOST_PARAMETERS = 2**28  # of a decoded genome: 1 GiB of float32, which the size of the file does not limit
_LINEAGE_KINDS = ("integers", "uint32", "float32", "integers", "float32")


def lineage_problems(group: Any, count: int) -> list[str]:
    """Return the problems of the lineages of `count` elites."""
    place = "/elites/lineage"
    problems = [
        problem
        for name, kind in zip(LINEAGE, _LINEAGE_KINDS, strict=True)
        for problem in dtype_problems(group[name], f"{place}/{name}", kind)
        or unreadable(group[name], f"{place}/{name}")
    ]
    if problems := problems or _noise_problems(group):
        return problems
    offsets, seeds, sigmas, numbers = (group[name][()] for name in LINEAGE[:4])
    if offsets.shape != (count + 1,) or offsets[0] != 0 or (offsets[1:] <= offsets[:-1]).any():
        return [f"{place}/offsets: must be {count + 1} ascending numbers from 0"]
    if seeds.shape != (offsets[-1],) or sigmas.shape != seeds.shape:
        return [f"{place}: seeds {seeds.shape} and sigmas {sigmas.shape} must have {offsets[-1]} numbers"]
    first = np.zeros(len(seeds), bool)
    first[offsets[:-1]] = True
    kept = np.isin(seeds[np.isnan(sigmas)], numbers)
    if np.isinf(sigmas).any() or not np.isfinite(sigmas[~first]).all() or not kept.all():
        return [f"{place}: a power is not finite, or a keyframe is missing"]
    frames = group["keyframes"].shape
    if len(frames) != 2 or numbers.shape != frames[:1] or frames[1] > _MOST_PARAMETERS:
        return [
            f"{place}/keyframes: shape {frames}, expected {len(numbers)} rows of at most {_MOST_PARAMETERS} weights"
        ]
    if not np.isfinite(group["keyframes"][()]).all():
        return [f"{place}/keyframes: not finite"]
    return []


def history_problems(history: Any) -> list[str]:
    """Return the problems of the metrics of a run."""
    shapes = {name: getattr(values, "shape", None) for name, values in history.items()}
    if len(set(shapes.values())) > 1 or any(shape is None or len(shape) != 1 for shape in shapes.values()):
        different = dict(list(shapes.items())[:5])
        return [f"/history: metrics must have one length, got shapes {different}"]
    return [
        problem
        for name, values in history.items()
        for problem in array_problems(values, f"/history/{name}", "numbers", values.shape)
    ]


def normalizer_problems(group: Any) -> list[str]:
    """Return the problems of the observation statistics."""
    width, states = group["mean"].shape, group["at/generation"].shape
    if len(width) != 1 or len(states) != 1:
        return [f"/normalizer: mean {width} and at/generation {states} must have one dimension"]
    shapes = {"mean": width, "var": width, "count": (), "at/mean": states + width, "at/var": states + width}
    problems = array_problems(group["at/generation"], "/normalizer/at/generation", "integers", states)
    for name, shape in shapes.items():
        place, kind = f"/normalizer/{name}", "numbers" if name == "count" else "floats"
        problems += array_problems(group[name], place, kind, shape) or _statistic_problems(group[name], name, place)
    return problems


def champion_problems(champion: Any, parameters: int) -> list[str]:
    """Return the problems of the champion of a run whose genomes have `parameters` numbers."""
    names = set(champion)
    if not names >= {"fitness", "generation"} or not (names >= {"seeds", "sigmas"} or "genome" in names):
        listed = ", ".join(sorted(names)[:5])
        return [f"/champion: has {listed}; expected fitness, generation and a genome or lineage"]
    if unknown := names - {"fitness", "generation", "genome", "seeds", "sigmas", "test_fitness"}:
        return [f"/champion/{min(unknown)[:100]!r}: unknown"]
    mutations = _length(champion["seeds"]) if "seeds" in names else 0
    expected = {
        "fitness": ("floats", _length(champion["fitness"])),
        "test_fitness": ("floats", _length(champion["test_fitness"]) if "test_fitness" in names else 0),
        "generation": ("integers", 1),
        "genome": ("float32", parameters),
        "seeds": ("uint32", mutations),
        "sigmas": ("float32", mutations),
    }
    for name in sorted(names):
        place, (kind, length) = f"/champion/{name}", expected[name]
        if problems := array_problems(champion[name], place, kind, (length,)):
            return problems
        values = champion[name][:]
        if name == "test_fitness":
            values = values[~np.isnan(values)]  # NaN marks a failed episode
        if not np.isfinite(values[1:] if name == "sigmas" else values).all():
            return [f"{place}: not finite"]
    return []


def actor_names(actor: Any) -> tuple[str, ...]:
    """Return the names of an actor's arrays; it has `layers` if they are not those of the policies."""
    return ("genome", "dimensions", *(["layers"] if "layers" in actor else []))


def actor_problems(file: Any) -> list[str]:
    """Return the problems of the actor of a run."""
    actor, axes = file["actor"], len(file["archive"].attrs["descriptor_names"])
    shape = actor["genome"].shape
    if problems := (
        array_problems(actor["dimensions"], "/actor/dimensions", "integers", ())
        or array_problems(actor["genome"], "/actor/genome", "float32", shape)
    ):
        return problems
    if (dimensions := int(actor["dimensions"][()])) not in (0, axes):
        return [f"/actor/dimensions: {dimensions}, expected 0 or {axes}"]
    policy = json.loads(file["meta/policy"].asstr()[()]) or {}
    layers = policy.get("layers") or ()
    if "layers" in actor:
        stored, ends = actor["layers"], [*layers[:1], *layers[-1:]]
        if problems := array_problems(stored, "/actor/layers", "integers", (_length(stored),)):
            return problems
        layers = [int(size) for size in stored[:]]
        if len(layers) < 2 or min(layers) < 1 or [layers[0], layers[-1]] != ends:
            return [f"/actor/layers: {layers}, expected sizes from the policy's first to its last, {ends}"]
    if len(layers) > 1:
        weights = dimensions * layers[1] + sum((a + 1) * b for a, b in pairwise(layers))
        if shape != (weights,):
            return [
                f"/actor/genome: shape {shape}, expected {(weights,)} for layers {layers} and {dimensions} more inputs"
            ]
    if len(shape) != 1 or not np.isfinite(actor["genome"][:]).all():
        return ["/actor/genome: must be one row of finite numbers"]
    return []


def _noise_problems(group: Any) -> list[str]:
    """Return the problems of the attribute that names the noise of lineages."""
    noise = group.attrs.get("noise")
    if not is_value(noise, "string"):
        return ["/elites/lineage: attribute noise must be a JSON string"]
    try:
        return [] if isinstance(json.loads(noise), dict) else ["/elites/lineage: attribute noise must be an object"]
    except (ValueError, RecursionError) as error:
        return [f"/elites/lineage: attribute noise is not JSON: {error}"]


def _length(dataset: Any) -> int:
    """Return the length of a dataset of one dimension that must not be empty."""
    return max((1, *dataset.shape))


def _statistic_problems(dataset: Any, name: str, place: str) -> list[str]:
    values = dataset[()]
    if not np.isfinite(values).all():
        return [f"{place}: not finite"]
    return [f"{place}: negative"] if name != "mean" and not name.endswith("/mean") and (values < 0).any() else []
