"""Summary statistics of an archive, and of one policy's episodes. Needs numpy only."""

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Statistics:
    """Summary statistics of an archive.

    Attributes:
        elites: number of elites or entries.
        coverage: fraction of the cells that hold an elite, in [0, 1]; NaN for an archive without cells.
        qd_score: sum over elites of (fitness - qd_offset).
        max_fitness: best fitness, NaN when empty.
        mean_fitness: mean fitness of the elites, NaN when empty.
    """

    elites: int
    coverage: float
    qd_score: float
    max_fitness: float
    mean_fitness: float


def statistics(fitness: np.ndarray, cells: int | None, qd_offset: float) -> Statistics:
    """Return the statistics of an archive.

    Args:
        fitness: of the elites, `(elites,)` in the order of cells.
        cells: number of cells; None for an archive without cells.
        qd_offset: subtracted from every elite's fitness in the QD score.
    """
    coverage = float("nan") if cells is None else len(fitness) / cells
    if len(fitness) == 0:
        return Statistics(0, coverage, 0.0, float("nan"), float("nan"))
    total = float(np.sum(fitness - qd_offset))
    return Statistics(len(fitness), coverage, total, float(fitness.max()), float(fitness.mean()))


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
