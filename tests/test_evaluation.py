"""What counts as a failed evaluation, whatever the task."""

import math

import pytest
import torch

from qdrl.archives.archive import Archive
from qdrl.archives.grid import Grid
from qdrl.evaluation import evaluated
from tests.tasks.builders import candidates

USELESS = (math.nan, math.inf, -math.inf, 1e308, -1.1e30)


def test_rows_whose_fitness_descriptor_or_genome_is_not_finite_or_beyond_1e30_count_as_failed() -> None:
    rows = 2 * len(USELESS) + 3
    genomes, fitness, descriptor = torch.zeros(rows, 3), torch.ones(rows), torch.ones(rows, 2).double()
    fitness = fitness.double()
    fitness[: len(USELESS)] = torch.tensor(USELESS, dtype=torch.float64)
    descriptor[len(USELESS) : -3, 1] = torch.tensor(USELESS, dtype=torch.float64)
    genomes[-3, 0] = math.nan
    fitness[-2], descriptor[-2, 0] = -1e30, 1e30
    result = evaluated(candidates(genomes), fitness=fitness, descriptor=descriptor, steps=torch.ones(rows).long())
    assert result.failed.tolist() == [True] * (rows - 2) + [False, False]
    assert torch.equal(result.fitness.isnan(), result.failed)
    assert torch.equal(result.descriptor.isnan().all(1), result.failed)
    assert result.fitness[-2] == -1e30


@pytest.mark.parametrize("useless", USELESS)
def test_an_archive_refuses_what_an_evaluation_counts_as_failed(useless: float) -> None:
    archive = Archive(Grid([0.0], [1.0], (2,)), 3)
    good, bad = torch.tensor([0.5], dtype=torch.float64), torch.tensor([useless], dtype=torch.float64)
    for fitness, descriptor in ((bad, good[None]), (good, bad[None])):
        with pytest.raises(ValueError, match="row 0 has a fitness or descriptor that is not finite or beyond 1e"):
            archive.add(torch.zeros(1, 3), fitness, descriptor)
