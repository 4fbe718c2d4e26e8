"""OpenAI-ES without the engine: mirrored perturbations, ranks, steps of the mean and state."""

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from qdrl.algorithms.evolution_strategy import centred_ranks
from qdrl.algorithms.openai_es import OpenAiEs, OpenAiEsSettings
from qdrl.archives.archive import Archive
from qdrl.archives.grid import Grid
from qdrl.streams import Streams
from qdrl.tasks.base import Task
from qdrl.tasks.registry import make_task

SMALL = {"batch_size": 20, "sigma": 0.1, "learning_rate": 0.1, "mean_rows": 2, "weight_decay": 0.0}


def started(seed: int = 2, task: Task | None = None, **settings: Any) -> tuple[OpenAiEs, Task]:
    task = task or make_task("sphere", parameters=6)
    archive = Archive(Grid(task.spec.lower, task.spec.upper, (8, 8)), task.parameters)
    return OpenAiEs(task, archive, Streams(seed), OpenAiEsSettings(**{**SMALL, **settings})), task


def advance(algorithm: OpenAiEs, task: Task, generations: int = 1) -> dict[str, float]:
    for _ in range(generations):
        counts = algorithm.tell(task.evaluate(algorithm.ask()))
    return counts  # pyright: ignore[reportPossiblyUnboundVariable]


def test_rows_are_mirrored_about_the_mean_and_the_last_are_the_mean() -> None:
    algorithm, task = started()
    advance(algorithm, task, 2)
    rows, mean = algorithm.ask().genomes[0:22].numpy(), algorithm.mean.genome.numpy()
    np.testing.assert_allclose(rows[0:20:2] + rows[1:20:2], np.tile(2 * mean, (10, 1)), atol=1e-6)
    assert np.array_equal(rows[20:], [mean, mean])
    spread = (rows[0:20:2] - mean) / 0.1
    assert 0.6 < spread.std() < 1.4
    assert len(np.unique(rows[:20], axis=0)) == 20


@pytest.mark.parametrize("optimizer", ["adam", "momentum"])
@pytest.mark.parametrize("decay", [0.0, 0.3])
def test_the_mean_takes_the_step_of_torchs_optimiser_up_the_ranked_gradient(optimizer: str, decay: float) -> None:
    algorithm, task = started(optimizer=optimizer, weight_decay=decay)
    mean = torch.nn.Parameter(algorithm.mean.genome.double().clone())
    theirs = torch.optim.Adam([mean], 0.1) if optimizer == "adam" else torch.optim.SGD([mean], 0.1 * 0.1, momentum=0.9)
    for _ in range(4):
        candidates = algorithm.ask()
        evaluation = task.evaluate(candidates)
        noise = (candidates.genomes[0:20].double() - algorithm.mean.genome.double()) / 0.1
        order = evaluation.fitness[:20].argsort().argsort().double() / 19 - 0.5
        mean.grad = -(order[:, None] * noise).sum(0) / 20 + decay * mean.detach()
        theirs.step()
        algorithm.tell(evaluation)
        torch.testing.assert_close(algorithm.mean.genome.double(), mean.detach(), atol=2e-5, rtol=1e-4)


@given(st.lists(st.floats(-1e6, 1e6), min_size=2, max_size=30, unique=True))
def test_ranks_of_different_values_are_those_of_the_paper(values: list[float]) -> None:
    order = np.argsort(np.argsort(values)) / (len(values) - 1) - 0.5
    np.testing.assert_allclose(centred_ranks(np.array(values)), order)


def test_equal_values_share_a_rank_and_failed_ones_are_last() -> None:
    assert centred_ranks(np.array([3.0, 3.0, 3.0])).tolist() == [0, 0, 0]
    assert centred_ranks(np.array([1.0, np.nan, 5.0, 5.0, np.nan])).tolist() == [0.0, -0.375, 0.375, 0.375, -0.375]
    assert centred_ranks(np.array([7.0])).tolist() == [0]


def test_a_plateau_has_no_gradient() -> None:
    algorithm, task = started()
    before = algorithm.mean.genome.clone()
    evaluation = task.evaluate(algorithm.ask())
    evaluation.fitness.fill_(4.0)
    algorithm.tell(evaluation)
    assert torch.equal(algorithm.mean.genome, before)


def test_asking_for_rows_in_parts_gives_the_same_rows() -> None:
    algorithm, task = started()
    advance(algorithm, task, 2)
    whole, parts = algorithm.ask(), [algorithm.ask(range(7)), algorithm.ask(range(7, 22))]
    assert torch.equal(torch.cat([part.genomes[0 : len(part.rows)] for part in parts]), whole.genomes[0:22])
    for field in ("seeds", "emitter"):
        assert torch.equal(torch.cat([getattr(part, field) for part in parts]), getattr(whole, field))


def test_cells_keep_the_perturbations_that_were_evaluated() -> None:
    algorithm, task = started()
    for _ in range(4):
        rows, evaluation = algorithm.ask().genomes[0:22], None
        evaluation = task.evaluate(algorithm.ask())
        algorithm.tell(evaluation)
    cells = algorithm.archive.occupied_cells
    stored = algorithm.archive.genomes_of(cells)
    latest = torch.from_numpy(algorithm.archive.state_dict()["generation"]) == 3
    assert latest.any()
    assert all((rows == genome).all(1).any() for genome in stored[latest])  # pyright: ignore[reportPossiblyUnboundVariable]


def test_the_champion_is_the_mean_that_was_evaluated() -> None:
    algorithm, task = started()
    assert algorithm.champion is None
    mean = algorithm.mean.genome.numpy().copy()
    counts = advance(algorithm, task)
    champion = algorithm.champion
    assert champion is not None
    assert np.array_equal(champion["genome"], mean)
    assert champion["fitness"].shape == (2,)
    assert counts["champion_fitness"] == champion["fitness"].mean()
    algorithm, task = started(mean_rows=0)
    assert np.isnan(advance(algorithm, task)["champion_fitness"])
    assert algorithm.champion is None


def test_a_failed_generation_only_decays_the_mean() -> None:
    algorithm, task = started()
    advance(algorithm, task)
    before, champion = algorithm.mean.genome.clone(), algorithm.champion
    evaluation = task.evaluate(algorithm.ask())
    evaluation.fitness.fill_(torch.nan)
    evaluation.failed.fill_(True)
    algorithm.tell(evaluation)
    assert (algorithm.mean.genome - before).abs().max() < 0.11  # the step of Adam's momentum
    assert algorithm.champion is champion


@pytest.mark.parametrize("optimizer", ["adam", "momentum"])
def test_a_restored_algorithm_continues_with_the_same_bits(optimizer: str) -> None:
    (algorithm, task), (other, _) = started(optimizer=optimizer), started(optimizer=optimizer)
    advance(algorithm, task, 3)
    other.load_state_dict(algorithm.state_dict())
    other.archive.load_state_dict(algorithm.archive.state_dict())
    for _ in range(3):
        assert advance(algorithm, task) == advance(other, task)
        assert torch.equal(algorithm.mean.genome, other.mean.genome)


@pytest.mark.parametrize("noise", [{"name": "keyed"}, {"name": "table", "size": 10_000}])
@pytest.mark.parametrize("initial", ["random", "zeros"])
def test_fitness_increases_on_the_sphere_function(noise: dict[str, Any], initial: str) -> None:
    algorithm, task = started(noise=noise, initial=initial, batch_size=40, learning_rate=0.2)
    assert advance(algorithm, task, 60)["champion_fitness"] > 99


@pytest.mark.parametrize(
    ("settings", "message"),
    [({"batch_size": 7}, r"batch_size \(7\) must be even"), ({"sigma": 0.0}, "greater than 0")],
)
def test_invalid_settings_are_errors(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        started(**settings)
