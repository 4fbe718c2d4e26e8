"""The numbers every report shows, from the elites' stored fitness. Needs numpy only."""

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Statistics:
    """How an archive stands; the numbers every report shows.

    Attributes:
        elites: occupied cells, or entries.
        coverage: fraction of the cells occupied, in [0, 1]; NaN where there are no cells to occupy.
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
    """Statistics of an archive with these elites' fitness, `(elites,)`, summed in cell order.

    `cells` is None for an archive without cells.
    """
    coverage = float("nan") if cells is None else len(fitness) / cells
    if len(fitness) == 0:
        return Statistics(0, coverage, 0.0, float("nan"), float("nan"))
    total = float(np.sum(fitness - qd_offset))
    return Statistics(len(fitness), coverage, total, float(fitness.max()), float(fitness.mean()))
