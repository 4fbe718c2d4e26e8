"""Small archives for tests, and functions that damage their files."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from qdrl.archives.axes import Axis
from qdrl.archives.statistics import Offsets
from qdrl.archives.stored import StoredArchive

MJCF = "<mujoco model='toy'/>"


def small_archive(
    *,
    shape: tuple[int, ...] = (5, 4),
    kind: str = "grid",
    elites: int = 7,
    parameters: int = 6,
    generations: int = 3,
    normalizer: bool = True,
    seed: int = 0,
) -> StoredArchive:
    """Return an archive with random content.

    For "cvt" `shape` is `(cells, dimensions)`, for "novelty" `(all entries so far, dimensions)`.
    """
    draw = np.random.default_rng(seed)
    dimensions = len(shape) if kind == "grid" else shape[1]
    axes = tuple(Axis(f"axis {k}", "1" if k == 0 else "m", 0.0 - k, 1.0 + k) for k in range(dimensions))
    places = _grid_centers(axes, shape) if kind == "grid" else _random_places(draw, axes, shape[0])
    cell = np.sort(draw.choice(len(places), elites, replace=False)).astype(np.int32)
    if kind == "novelty":
        cell = np.arange(shape[0] - elites, shape[0], dtype=np.int32)
    columns = {
        "cell": cell,
        "fitness": draw.normal(100, 20, elites),
        "descriptor": places[cell] + 1e-3,
        "evaluation_seed": draw.integers(0, 2**62, elites),
        "generation": draw.integers(0, 3, elites).astype(np.int32),
        "emitter": draw.integers(0, 2, elites).astype(np.int32),
        "parent_cell": np.full(elites, -1, np.int32),
        "n_evaluations": np.ones(elites, np.int32),
        "steps": draw.integers(1, 251, elites).astype(np.float64),
        "fitness_std": np.full(elites, np.nan),
        "descriptor_std": np.full((elites, dimensions), np.nan),
    }
    return StoredArchive(
        axes=axes,
        kind=kind,
        shape=shape if kind == "grid" else shape[:1],
        centroids=places[:0] if kind == "novelty" else places,
        fitness_name="episode return",
        offsets=Offsets(-5.0, 0.5),
        emitters=("iso_line", "gradient"),
        elites=columns,
        history=history(generations),
        attributes={
            "created_utc": "2026-01-02T03:04:05Z",
            "qdrl_version": "0.1.0",
            "git_commit": "0123abc",
            "seed": seed,
            "license": "CC-BY-4.0",
        },
        meta={
            "config": {"algorithm": {"name": "map_elites"}},
            "command": {"arguments": ["qdrl", "evolve", "config.toml"], "ranks": 4},
            "packages": {"numpy": "2.0"},
            "task": {"name": "toy", "episode_length": 250},
            "policy": {"layers": [3, 2], "activation": "tanh"},
            "mjcf": MJCF,
        },
        normalizer=_normalizer(draw) if normalizer else None,
        neighbours=3 if kind == "novelty" else None,
        genomes=draw.standard_normal((elites, parameters), np.float32),
    )


def history(generations: int) -> dict[str, np.ndarray]:
    """Return metrics that increase like those of a run."""
    step = np.arange(1, generations + 1)
    return {
        "generation": step,
        "evaluations": step * 128,
        "env_steps": step * 128 * 250,
        "seconds": step * 0.5,
        "elites": step * 10,
        "coverage": 1 - np.exp(-step / 10),
        "qd_score": 900 * (1 - np.exp(-step / 10)),
        "max_fitness": 120 - 50 / step,
        "mean_fitness": 90 - 50 / step,
        "failed": np.zeros(generations, np.int64),
        "clipped": np.zeros(generations, np.int64),
        "added_iso_line": step[::-1],
        "improved_iso_line": step,
    }


@contextmanager
def damaged(path: Path) -> Iterator[Any]:
    """Open a file for changes that qdrl never makes."""
    with h5py.File(path, "r+") as file:
        yield file


def replace_dataset(file: Any, name: str, values: Any) -> None:
    """Replace a dataset by values of any shape and dtype."""
    del file[name]
    file[name] = values


def _grid_centers(axes: tuple[Axis, ...], shape: tuple[int, ...]) -> np.ndarray:
    centers = [
        axis.lower + (np.arange(n) + 0.5) * (axis.upper - axis.lower) / n for axis, n in zip(axes, shape, strict=True)
    ]
    return np.stack([part.ravel() for part in np.meshgrid(*centers, indexing="ij")], axis=1)


def _random_places(draw: np.random.Generator, axes: tuple[Axis, ...], cells: int) -> np.ndarray:
    return draw.uniform([axis.lower for axis in axes], [axis.upper for axis in axes], (cells, len(axes)))


def _normalizer(draw: np.random.Generator) -> dict[str, np.ndarray]:
    return {
        "mean": draw.normal(size=3),
        "var": draw.uniform(1, 2, 3),
        "count": np.array(1000.0),
        "at.generation": np.arange(3),
        "at.mean": draw.normal(size=(3, 3)),
        "at.var": draw.uniform(1, 2, (3, 3)),
    }
