"""What stored archives and actors are worth when they are run again.

An archive keeps the luckiest of its evaluations: where initial states vary, stored fitness over-estimates, and elites
land beside their stored descriptors. Definitions, all over the archive's elites:

- corrected QD score: sum of (mean fitness run again - qd_offset); elites stay in their cells, or in the archive;
- descriptor error: mean distance between the descriptor asked for and the one reached, in the axes' units
  ("DEM" in Faldor et al. 2023, section 5.3);
- descriptor-conditioned QD score: the same sum for the conditioned actor, asked for each elite's descriptor in turn.

Two targets are asked for in the literature: the elites' stored descriptors (the text of Faldor et al. 2023) and the
centroids of their cells (its code, and the replication of Faldor et al. 2024). Both are here, by name.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

import numpy as np
import torch

from qdrl.analysis.conditioned import ConditionedPolicy
from qdrl.analysis.decode import genomes_of, normalization_of, task_of
from qdrl.archives.stored import StoredArchive
from qdrl.errors import UserError
from qdrl.evaluation import usable
from qdrl.genomes.decoding import Offspring
from qdrl.streams import Streams
from qdrl.tasks.episodes.rollout import Episodes
from qdrl.tasks.episodic import EpisodicTask

Targets = Literal["descriptors", "centroids"]


@dataclass(frozen=True)
class Reevaluation:
    """Episodes of each elite, or of the actor in its stead.

    Attributes:
        asked: `(n, d)` descriptors asked for.
        fitness: `(n, repeats)`; NaN where an episode failed.
        descriptor: `(n, repeats, d)` reached; NaN where an episode failed.
        env_steps: control steps of all episodes.
        qd_offset: of the archive.
    """

    asked: np.ndarray
    fitness: np.ndarray
    descriptor: np.ndarray
    env_steps: int
    qd_offset: float

    @property
    def failed(self) -> int:
        """Episodes that broke; the means leave them out."""
        return int(np.isnan(self.fitness).sum())

    @property
    def mean_fitness(self) -> np.ndarray:
        """`(n,)` over the repeats; `qd_offset`, which scores nothing, where all of them failed."""
        worked = ~np.isnan(self.fitness)
        total = np.where(worked, self.fitness, 0.0).sum(1)
        return np.where(worked.any(1), total / np.maximum(worked.sum(1), 1), self.qd_offset)

    @property
    def qd_score(self) -> float:
        """Sum of mean fitness less the offset."""
        return float((self.mean_fitness - self.qd_offset).sum())

    @property
    def max_fitness(self) -> float:
        """The best mean, of those that worked at least once."""
        worked = ~np.isnan(self.fitness).all(1)
        return float(self.mean_fitness[worked].max()) if worked.any() else float("nan")

    @property
    def descriptor_error(self) -> float:
        """Mean distance between asked and reached, over the episodes that did not fail."""
        distance = np.linalg.norm(self.descriptor - self.asked[:, None], axis=-1)
        return float(np.nanmean(distance)) if np.isfinite(distance).any() else float("nan")


def reevaluate_elites(
    archive: StoredArchive,
    *,
    repeats: int = 1,
    seed: int = 0,
    worlds: int = 64,
    allow_code: bool = False,
    code_from: str | Path | None = None,
) -> Reevaluation:
    """Run every elite again, with initial states that it has not met.

    Args:
        archive: whose elites.
        repeats: episodes an elite.
        seed: of the initial states.
        worlds: worlds simulated at once.
        allow_code: import and run what the file names: descriptor functions, modules of environments.
        code_from: a folder that is searched first for these modules; implies `allow_code`.

    Raises:
        UserError: its genomes are not policies, this installation cannot make the task, or it needs code that is not
            allowed.
    """
    task = _task(archive, worlds, repeats, allow_code, code_from)
    generations, asked = archive.elites["generation"], archive.elites["descriptor"]
    return _reevaluate(archive, task, genomes_of(archive), generations, asked, repeats, seed)


def reevaluate_actor(
    archive: StoredArchive,
    *,
    targets: Targets = "descriptors",
    repeats: int = 1,
    seed: int = 0,
    worlds: int = 64,
    allow_code: bool = False,
    code_from: str | Path | None = None,
) -> Reevaluation:
    """Run the conditioned actor once for every elite, aimed at what the elite does.

    Args:
        archive: whose actor.
        targets: "descriptors" of the elites as stored, or "centroids" of their cells, where the archive has cells.
        repeats: episodes a target.
        seed: of the initial states.
        worlds: worlds simulated at once.
        allow_code: import and run what the file names: descriptor functions, modules of environments.
        code_from: a folder that is searched first for these modules; implies `allow_code`.

    Raises:
        UserError: the archive holds no conditioned actor, or no cells whose centroids could be asked for; or the task
            needs code that is not allowed.
    """
    if targets not in get_args(Targets):
        raise ValueError(f"targets is {targets!r}, neither of {get_args(Targets)}")
    if targets == "centroids" and archive.unstructured:
        raise UserError(f"{archive.path}: a novelty archive has no centroids; ask for descriptors")
    actor = ConditionedPolicy(archive)
    asked = archive.elites["descriptor"] if targets == "descriptors" else archive.centroids[archive.elites["cell"]]
    task = _task(archive, worlds, repeats, allow_code, code_from)
    return _reevaluate(archive, task, actor.aimed_at(asked), None, asked, repeats, seed)


def _task(
    archive: StoredArchive, worlds: int, repeats: int, allow_code: bool, code_from: str | Path | None
) -> EpisodicTask:
    """Return the task that an archive's policies are evaluated on."""
    task = task_of(archive, worlds, allow_code=allow_code, code_from=code_from)
    if not isinstance(task, EpisodicTask):
        raise UserError(f"{archive.path}: its genomes are not policies")
    if repeats < 1:
        raise ValueError(f"repeats must be at least 1, got {repeats}")
    return task


def _reevaluate(
    archive: StoredArchive,
    task: EpisodicTask,
    genomes: torch.Tensor | Offspring,
    generations: np.ndarray | None,
    asked: np.ndarray,
    repeats: int,
    seed: int,
) -> Reevaluation:
    """Run genomes, each with the observation statistics of its generation, or all with the latest."""
    count, streams = len(genomes), Streams(seed)
    fitness = np.full((count, repeats), np.nan)
    descriptor = np.full((count, repeats, len(archive.axes)), np.nan)
    env_steps = 0
    for repeat in range(repeats):
        seeds = streams.seeds("reevaluation", repeat, range(count))
        for rows, normalization in _groups(archive, generations, count):
            some = genomes[rows] if isinstance(genomes, torch.Tensor) else genomes.take(rows.tolist())
            episodes: Episodes = task.rollout().run(some, seeds[rows].tolist(), normalization)
            broken = (episodes.failed | ~usable(episodes.fitness, episodes.descriptor)).numpy()
            fitness[rows, repeat] = np.where(broken, np.nan, episodes.fitness.numpy())
            descriptor[rows, repeat] = np.where(broken[:, None], np.nan, episodes.descriptor.numpy())
            env_steps += int(episodes.steps.sum())
    return Reevaluation(asked, fitness, descriptor, env_steps, archive.qd_offset)


def _groups(
    archive: StoredArchive, generations: np.ndarray | None, count: int
) -> list[tuple[np.ndarray, tuple[np.ndarray, np.ndarray] | None]]:
    """Rows that share observation statistics, and these."""
    if archive.normalizer is None:
        return [(np.arange(count), None)]
    if generations is None:
        return [(np.arange(count), (archive.normalizer["mean"], archive.normalizer["var"]))]
    return [(np.flatnonzero(generations == g), normalization_of(archive, int(g))) for g in np.unique(generations)]
