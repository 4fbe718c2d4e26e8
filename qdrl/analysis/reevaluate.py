"""Re-evaluate stored elites, conditioned actors and champions.

An archive keeps the best of its evaluations. If initial states vary, stored fitness is biased upwards and elites miss
their stored descriptors. Definitions, all over the archive's elites:

- Corrected QD score: sum over elites of the mean score of the new episodes, with the archive's offsets
  (`qdrl.archives.statistics.Offsets`); elites stay in their cells, or in the archive.
- Descriptor error: mean distance between the target descriptor and the reached one, in the axes' units ("DEM" in
  Faldor et al. 2023, arXiv:2303.03832, section 5.3).
- Descriptor-conditioned QD score: the same sum for the conditioned actor, with each elite's descriptor as a target.

The literature has two kinds of targets: the elites' stored descriptors (the text of Faldor et al. 2023) and the
centroids of their cells (its code, and the replication of Faldor et al. 2024, arXiv:2401.08632).
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

import numpy as np
import torch

from qdrl.analysis.conditioned import ConditionedPolicy
from qdrl.analysis.decode import champion_genome, genomes_of, normalization_of, task_of
from qdrl.archives.statistics import EpisodeStatistics, Offsets, episode_statistics
from qdrl.archives.stored import StoredArchive
from qdrl.errors import UserError
from qdrl.evaluation import usable
from qdrl.genomes.lineage_weights import Offspring
from qdrl.genomes.repeated import RepeatedGenome
from qdrl.streams import Purpose, Streams
from qdrl.tasks.episodes.rollout import Episodes
from qdrl.tasks.episodic import EpisodicTask

Targets = Literal["descriptors", "centroids"]


@dataclass(frozen=True)
class Reevaluation:
    """Episodes of each elite, or of the actor with each elite's target.

    Attributes:
        target: `(n, d)` target descriptors.
        fitness: `(n, repeats)`; NaN for a failed episode.
        descriptor: `(n, repeats, d)` reached descriptors; NaN for a failed episode.
        steps: `(n, repeats)` control steps.
        offsets: of the archive's QD score.
    """

    target: np.ndarray
    fitness: np.ndarray
    descriptor: np.ndarray
    steps: np.ndarray
    offsets: Offsets

    @property
    def failed(self) -> int:
        """Number of failed episodes; means leave them out."""
        return int(np.isnan(self.fitness).sum())

    @property
    def env_steps(self) -> int:
        """Number of control steps of all episodes."""
        return int(self.steps.sum())

    @property
    def mean_fitness(self) -> np.ndarray:
        """Mean over the repeats, `(n,)`; NaN if all of them failed."""
        worked = ~np.isnan(self.fitness)
        return np.where(worked.any(1), _mean(self.fitness), np.nan)

    @property
    def qd_score(self) -> float:
        """Sum of mean scores; an elite whose episodes all failed adds 0."""
        return float(_mean(self.offsets.scores(self.fitness, self.steps)).sum())

    @property
    def fitness_sum(self) -> float:
        """Sum of mean fitness without any offset; an elite whose episodes all failed adds 0."""
        return float(_mean(self.offsets.without(self.fitness, self.steps)).sum())

    @property
    def max_fitness(self) -> float:
        """Highest mean fitness among elites with at least one successful episode."""
        worked = ~np.isnan(self.fitness).all(1)
        return float(self.mean_fitness[worked].max()) if worked.any() else float("nan")

    @property
    def descriptor_error(self) -> float:
        """Mean distance between target and reached descriptors, over successful episodes; NaN without any."""
        distance = np.linalg.norm(self.descriptor - self.target[:, None], axis=-1)
        return float(np.nanmean(distance)) if np.isfinite(distance).any() else float("nan")


@dataclass(frozen=True)
class HeldOutTest:
    """Held-out episodes of a champion.

    Attributes:
        fitness: `(episodes,)`; NaN for a failed episode.
        env_steps: number of control steps of all episodes.
    """

    fitness: np.ndarray
    env_steps: int

    @property
    def statistics(self) -> EpisodeStatistics:
        """Mean, spread and number of the episodes."""
        return episode_statistics(self.fitness)


def reevaluate_elites(
    archive: StoredArchive,
    *,
    repeats: int = 1,
    seed: int = 0,
    worlds: int = 64,
    allow_code: bool = False,
    code_from: str | Path | None = None,
) -> Reevaluation:
    """Re-evaluate every elite, with new initial states.

    Args:
        archive: whose elites.
        repeats: episodes per elite.
        seed: of the initial states.
        worlds: worlds simulated at once.
        allow_code: import and run what the file names: descriptor functions, modules of environments.
        code_from: a folder that is searched first for these modules; implies `allow_code`.

    Raises:
        UserError: its genomes are not policies, this installation cannot make the task, or it needs code that is not
            allowed.
    """
    task = _task(archive, worlds, repeats, allow_code, code_from)
    generations, target = archive.elites["generation"], archive.elites["descriptor"]
    return _reevaluate(archive, task, genomes_of(archive), generations, target, repeats, seed)


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
    """Evaluate the conditioned actor with each elite's descriptor or centroid as its target.

    Args:
        archive: whose actor.
        targets: the stored "descriptors" of the elites, or the "centroids" of their cells, if the archive has cells.
        repeats: episodes per target.
        seed: of the initial states.
        worlds: worlds simulated at once.
        allow_code: import and run what the file names: descriptor functions, modules of environments.
        code_from: a folder that is searched first for these modules; implies `allow_code`.

    Raises:
        UserError: the archive holds no conditioned actor, it has no centroids, or the task needs code that is not
            allowed.
    """
    if targets not in get_args(Targets):
        raise ValueError(f"targets must be one of {get_args(Targets)}, got {targets!r}")
    if targets == "centroids" and archive.unstructured:
        raise UserError(f"{archive.path}: a novelty archive has no centroids; use targets 'descriptors'")
    actor = ConditionedPolicy(archive)
    target = archive.elites["descriptor"] if targets == "descriptors" else archive.centroids[archive.elites["cell"]]
    task = _task(archive, worlds, repeats, allow_code, code_from)
    sizes = actor.policy.settings.hidden_sizes
    return _reevaluate(archive, task, actor.aimed_at(target), None, target, repeats, seed, sizes)


def reevaluate_champion(
    archive: StoredArchive,
    *,
    episodes: int = 200,
    seed: int = 0,
    worlds: int = 64,
    allow_code: bool = False,
    code_from: str | Path | None = None,
) -> HeldOutTest:
    """Evaluate the champion in episodes whose seeds no training evaluation used.

    With the run's own seed the episodes are those of `run.test_episodes`.

    Args:
        archive: whose champion.
        episodes: number of episodes.
        seed: of the initial states; see `qdrl.streams.Streams.held_out_seeds`.
        worlds: worlds simulated at once.
        allow_code: import and run what the file names: descriptor functions, modules of environments.
        code_from: a folder that is searched first for these modules; implies `allow_code`.

    Raises:
        UserError: the archive has no champion, its genomes are not policies, this installation cannot make the task, or
            it needs code that is not allowed.
    """
    genome = champion_genome(archive)
    task = _task(archive, min(worlds, max(episodes, 1)), episodes, allow_code, code_from)
    generation = int((archive.champion or {})["generation"][0])
    seeds = Streams(seed).held_out_seeds(episodes).tolist()
    run: Episodes = task.rollout().run(RepeatedGenome(genome, episodes), seeds, normalization_of(archive, generation))
    broken = (run.failed | ~usable(run.fitness, run.descriptor)).numpy()
    return HeldOutTest(np.where(broken, np.nan, run.fitness.numpy()), int(run.steps.sum()))


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
    target: np.ndarray,
    repeats: int,
    seed: int,
    hidden_sizes: tuple[int, ...] | None = None,
) -> Reevaluation:
    """Evaluate genomes, each with the observation statistics of its generation, or all with the latest.

    `hidden_sizes` are those of their networks, if they are not the policies'.
    """
    count, streams = len(genomes), Streams(seed)
    fitness = np.full((count, repeats), np.nan)
    descriptor = np.full((count, repeats, len(archive.axes)), np.nan)
    steps = np.zeros((count, repeats), np.int64)
    for repeat in range(repeats):
        seeds = streams.seeds(Purpose.REEVALUATION, repeat, range(count))
        for rows, normalization in _groups(archive, generations, count):
            some = genomes[rows] if isinstance(genomes, torch.Tensor) else genomes.take(rows.tolist())
            episodes: Episodes = task.rollout(hidden_sizes).run(some, seeds[rows].tolist(), normalization)
            broken = (episodes.failed | ~usable(episodes.fitness, episodes.descriptor)).numpy()
            fitness[rows, repeat] = np.where(broken, np.nan, episodes.fitness.numpy())
            descriptor[rows, repeat] = np.where(broken[:, None], np.nan, episodes.descriptor.numpy())
            steps[rows, repeat] = episodes.steps.numpy()
    return Reevaluation(target, fitness, descriptor, steps, archive.offsets)


def _mean(values: np.ndarray) -> np.ndarray:
    """Return the mean of each row without NaN, `(n,)`; 0 for a row of NaN."""
    known = ~np.isnan(values)
    return np.where(known, values, 0.0).sum(1) / np.maximum(known.sum(1), 1)


def _groups(
    archive: StoredArchive, generations: np.ndarray | None, count: int
) -> list[tuple[np.ndarray, tuple[np.ndarray, np.ndarray] | None]]:
    """Return groups of rows with the same observation statistics, and these statistics."""
    if archive.normalizer is None:
        return [(np.arange(count), None)]
    if generations is None:
        return [(np.arange(count), (archive.normalizer["mean"], archive.normalizer["var"]))]
    return [(np.flatnonzero(generations == g), normalization_of(archive, int(g))) for g in np.unique(generations)]
