"""Means over the episodes of each genome, where a generation evaluates every genome several times."""

from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from qdrl.evaluation import Evaluation


def mean_over_episodes(evaluation: Evaluation, episodes: int) -> tuple[Evaluation, dict[str, Tensor]]:
    """Return one row for each `episodes` consecutive rows, and columns that describe their spread.

    Failed episodes are left out. A genome has failed if all its episodes have.

    Args:
        evaluation: all rows of a generation; rows `episodes * i` to `episodes * (i + 1) - 1` are of genome i.
        episodes: number of episodes of each genome.

    Returns:
        An evaluation with mean fitness, descriptor and steps, and with seed, emitter and parent cell of the first
        episode that did not fail; and `n_evaluations`, `fitness_std` and `descriptor_std` as archives store them: the
        number of episodes and the standard deviations over them, NaN for a single one.
    """
    failed = evaluation.failed.reshape(-1, episodes)
    count = (~failed).sum(1)
    first = torch.arange(len(failed)) * episodes + (~failed).int().argmax(1).cpu()
    fitness, fitness_std = _mean_and_spread(evaluation.fitness, failed)
    descriptor, descriptor_std = _mean_and_spread(evaluation.descriptor, failed)
    reduced = replace(
        evaluation,
        rows=range(len(failed)),
        fitness=fitness,
        descriptor=descriptor,
        steps=_mean_and_spread(evaluation.steps, failed)[0].nan_to_num(0.0),
        failed=count == 0,
        seeds=evaluation.seeds[first],
        emitter=evaluation.emitter[first],
        parent_cell=evaluation.parent_cell[first],
        observations=None,
    )
    spread = {"fitness_std": fitness_std, "descriptor_std": descriptor_std}
    return reduced, {"n_evaluations": count.clamp(min=1), **spread}


def _mean_and_spread(column: Tensor, failed: Tensor) -> tuple[Tensor, Tensor]:
    """Return mean and standard deviation over the episodes of each genome that did not fail; NaN where undefined.

    Args:
        column: `(genomes * episodes, ...)`, one value for each row.
        failed: `(genomes, episodes)` bool.
    """
    values = column.double().reshape(*failed.shape, -1).cpu().numpy()
    alive = ~failed.cpu().numpy()
    found = np.full((2, len(values), values.shape[2]), np.nan)
    for row in np.flatnonzero(alive.any(1)):
        known = values[row][alive[row]]
        found[0, row] = known.mean(0)
        if len(known) > 1:
            found[1, row] = known.std(0)
    mean, spread = (torch.from_numpy(part.reshape(len(failed), *column.shape[1:])) for part in found)
    return mean, spread
