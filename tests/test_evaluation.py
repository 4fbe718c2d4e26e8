"""Conditions for a failed evaluation, the same for every task."""

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


def test_the_first_failure_is_given_with_its_seed_and_the_first_unusable_number() -> None:
    def reason(row: int, **changed: float) -> str | None:
        numbers = {"genome": torch.zeros(3, 3), "fitness": torch.zeros(3), "descriptor": torch.zeros(3, 2)}
        for name, value in changed.items():
            numbers[name].view(3, -1)[row, -1] = value
        fitness, descriptor = numbers["fitness"].double(), numbers["descriptor"].double()
        rows, steps = candidates(numbers["genome"], [7, 8, 9]), torch.tensor([4, 5, 6])
        failed = torch.arange(3) == row if not changed else None
        return evaluated(rows, fitness=fitness, descriptor=descriptor, steps=steps, failed=failed).first_failure

    assert reason(1, fitness=math.nan) == "the evaluation with seed 8 failed after 5 steps: fitness is nan"
    assert reason(2, descriptor=-math.inf) == "the evaluation with seed 9 failed after 6 steps: descriptor[1] is -inf"
    assert str(reason(0, fitness=1e31)).endswith("fitness is 1e+31, more than 1e+30 in magnitude")
    assert str(reason(0, genome=math.nan)).endswith("genome[2] is nan")
    assert str(reason(0)).endswith("the task reported a failure")
    assert reason(3) is None


@pytest.mark.parametrize("useless", USELESS)
def test_an_archive_refuses_what_an_evaluation_counts_as_failed(useless: float) -> None:
    archive = Archive(Grid([0.0], [1.0], (2,)), 3)
    good, bad = torch.tensor([0.5], dtype=torch.float64), torch.tensor([useless], dtype=torch.float64)
    for fitness, descriptor in ((bad, good[None]), (good, bad[None])):
        with pytest.raises(ValueError, match="row 0 has a fitness or descriptor that is not finite or exceeds 1e"):
            archive.add(torch.zeros(1, 3), fitness, descriptor)
