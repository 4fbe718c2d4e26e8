"""Summary statistics of an archive. Needs numpy only."""

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
