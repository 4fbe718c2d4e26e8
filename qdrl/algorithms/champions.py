"""Champions: the best single genome of a run, as files hold it."""

from collections.abc import Mapping
from typing import Any

import numpy as np


def make_champion(fitness: np.ndarray, generation: int, **genome: np.ndarray) -> dict[str, np.ndarray]:
    """Return a champion in the format of `StoredArchive.champion`.

    Args:
        fitness: `(episodes,)` fitness values that selected it.
        generation: the generation of these episodes.
        genome: `genome`, `(parameters,)`, or `seeds` and `sigmas` of its lineage.
    """
    return {**genome, "fitness": fitness, "generation": np.array([generation])}


def restored_champion(stored: Mapping[str, Any], parameters: int) -> dict[str, np.ndarray] | None:
    """Return the champion of a checkpoint; None if there is none.

    Args:
        stored: a champion as `make_champion` returns it, or an empty mapping.
        parameters: length of a genome.

    Raises:
        KeyError: an array is missing.
        ValueError: an array has another shape, or a number is not finite.
    """
    if not stored:
        return None
    champion = make_champion(
        np.asarray(stored["fitness"], np.float64), 0, genome=np.asarray(stored["genome"], np.float32)
    )
    champion["generation"] = np.asarray(stored["generation"], np.int64)
    shapes = {"fitness": (max(1, champion["fitness"].size),), "generation": (1,), "genome": (parameters,)}
    for name, shape in shapes.items():
        if champion[name].shape != shape or not np.isfinite(champion[name]).all():
            raise ValueError(f"the champion's {name} must be finite and of shape {shape}, has {champion[name].shape}")
    return champion
