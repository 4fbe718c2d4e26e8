"""Candidates and policies for tests of tasks."""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from qdrl.evaluation import Candidates
from qdrl.tasks.base import Task


def candidates(genomes: Tensor, seeds: Sequence[int] | None = None, generation: int = 0) -> Candidates:
    """Return candidates 0 to n-1 of a generation; seeds default to 0 to n-1."""
    count = len(genomes)
    none = torch.zeros(count, dtype=torch.int64)
    seeds = range(count) if seeds is None else seeds
    return Candidates(generation, range(count), genomes, torch.tensor(list(seeds), dtype=torch.int64), none, none - 1)


def first_genomes(task: Task, count: int, scale: float = 1.0) -> Tensor:
    """Return random initial genomes of the task, `(count, parameters)`."""
    return torch.from_numpy(np.stack([scale * task.initial(np.random.default_rng(row)) for row in range(count)]))
