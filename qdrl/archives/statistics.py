"""Summary statistics of an archive, and of one policy's episodes. Needs numpy only."""

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Offsets:
    """The numbers by which the QD score differs from the sum of fitness.

    Published code of PGA-, DCG- and DCRL-MAP-Elites adds an offset to the reward of every step, so that an elite whose
    episode ends early has less of it. The QD score here does the same with `step_offset`.

    Attributes:
        qd_offset: subtracted from the fitness of every elite.
        step_offset: added for every control step of an elite's episode.
        included_offset: offset per control step that fitness contains (`task.offset_in_fitness`). Only the sum without
            offsets uses it.
    """

    qd_offset: float = 0.0
    step_offset: float = 0.0
    included_offset: float = 0.0

    @property
    def uses_steps(self) -> bool:
        """Whether the QD score, or the sum without offsets, needs the steps of each elite."""
        return bool(self.step_offset or self.included_offset)

    def scores(self, fitness: np.ndarray, steps: np.ndarray) -> np.ndarray:
        """Return what each elite adds to the QD score.

        Args:
            fitness: any shape.
            steps: control steps of the same episodes, broadcast with fitness; unused without `step_offset`.
        """
        scores = fitness - self.qd_offset
        return scores + self.step_offset * steps if self.step_offset else scores

    def without(self, fitness: np.ndarray, steps: np.ndarray) -> np.ndarray:
        """Return fitness without any offset.

        Where reward + offset was clipped at zero, the reward counts as -`included_offset`.

        Args:
            fitness: any shape.
            steps: control steps of the same episodes, broadcast with fitness; unused without `included_offset`.
        """
        return fitness - self.included_offset * steps if self.included_offset else fitness

    def __str__(self) -> str:
        """Return the offsets in words, as in "offset 1.413 per step"."""
        if self.included_offset:
            return f"fitness contains {self.included_offset:g} per step"
        parts = [f"{self.step_offset:g} per step"] if self.step_offset else []
        parts += [f"{self.qd_offset:g} per elite"] if self.qd_offset or not parts else []
        return "offset " + " and ".join(parts)


NO_OFFSETS = Offsets()


@dataclass(frozen=True)
class Statistics:
    """Summary statistics of an archive.

    Attributes:
        elites: number of elites or entries.
        coverage: fraction of the cells that hold an elite, in [0, 1]; NaN for an archive without cells.
        qd_score: sum over elites of (fitness - qd_offset + step_offset * steps); see `Offsets`.
        fitness_sum: the same sum without any offset.
        max_fitness: best fitness, NaN when empty.
        mean_fitness: mean fitness of the elites, NaN when empty.
    """

    elites: int
    coverage: float
    qd_score: float
    fitness_sum: float
    max_fitness: float
    mean_fitness: float


def statistics(fitness: np.ndarray, steps: np.ndarray, cells: int | None, offsets: Offsets) -> Statistics:
    """Return the statistics of an archive.

    Args:
        fitness: of the elites, `(elites,)` in the order of cells.
        steps: control steps of the elites' episodes, `(elites,)`.
        cells: number of cells; None for an archive without cells.
        offsets: of the QD score.
    """
    coverage = float("nan") if cells is None else len(fitness) / cells
    if len(fitness) == 0:
        return Statistics(0, coverage, 0.0, 0.0, float("nan"), float("nan"))
    score, total = (float(np.sum(values(fitness, steps))) for values in (offsets.scores, offsets.without))
    return Statistics(len(fitness), coverage, score, total, float(fitness.max()), float(fitness.mean()))


@dataclass(frozen=True)
class EpisodeStatistics:
    """Summary statistics of the fitness of one policy over several episodes; NaN where none succeeded.

    Attributes:
        mean_fitness: mean.
        fitness_std: standard deviation of the population, as `numpy.std`.
        median_fitness: median.
        min_fitness: lowest.
        max_fitness: highest.
        episodes: number of episodes.
        failed: number of failed episodes among them; the other statistics leave them out.
    """

    mean_fitness: float
    fitness_std: float
    median_fitness: float
    min_fitness: float
    max_fitness: float
    episodes: int
    failed: int


def episode_statistics(fitness: np.ndarray) -> EpisodeStatistics:
    """Return the statistics of episodes.

    Args:
        fitness: `(episodes,)`, NaN for a failed one.
    """
    known = fitness[~np.isnan(fitness)]
    measures = (np.mean, np.std, np.median, np.min, np.max)
    values = [float(measure(known)) if len(known) else float("nan") for measure in measures]
    return EpisodeStatistics(*values, episodes=len(fitness), failed=len(fitness) - len(known))
