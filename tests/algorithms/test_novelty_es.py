"""NS-ES, NSR-ES and NSRA-ES without the engine: selection of means, their objectives, the archive and state."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from qdrl.algorithms.evolution_strategy import centred_ranks
from qdrl.algorithms.novelty_es import NoveltyEs, NoveltyEsSettings
from qdrl.archives.admission import Probability
from qdrl.archives.archive import Archive
from qdrl.archives.grid import Grid
from qdrl.archives.novelty_archive import NoveltyArchive
from qdrl.errors import UserError
from qdrl.evaluation import Evaluation
from qdrl.streams import Streams
from qdrl.tasks.base import Task
from qdrl.tasks.registry import make_task

SMALL = {
    "batch_size": 16,
    "means": 3,
    "mean_rows": 2,
    "sigma": 0.1,
    "learning_rate": 0.1,
    "weight_decay": 0.0,
    "optimizer": "momentum",
}
K = 4


def started(seed: int = 2, capacity: int | None = None, **settings: Any) -> tuple[NoveltyEs, Task]:
    task = make_task("sphere", parameters=6)
    archive = NoveltyArchive(task.spec.lower, task.spec.upper, 6, k=K, capacity=capacity)
    return NoveltyEs(task, archive, Streams(seed), NoveltyEsSettings(**{**SMALL, **settings})), task


def advance(algorithm: NoveltyEs, task: Task, generations: int = 1) -> dict[str, float]:
    for _ in range(generations):
        counts = algorithm.tell(task.evaluate(algorithm.ask()))
    return counts  # pyright: ignore[reportPossiblyUnboundVariable]


def means_of(algorithm: NoveltyEs) -> list[np.ndarray]:
    return [mean.genome.numpy().copy() for mean in algorithm.means]


def by_hand(places: np.ndarray, known: np.ndarray) -> np.ndarray:
    distances = np.linalg.norm(places[:, None] - known[None], axis=2)
    return np.sort(distances, axis=1)[:, :K].mean(1)


def test_all_means_are_evaluated_first_and_then_the_updated_one() -> None:
    algorithm, task = started()
    assert algorithm.batch_size == 3 * 2
    assert np.array_equal(algorithm.ask().genomes[0:6].numpy(), np.repeat(means_of(algorithm), 2, axis=0))
    advance(algorithm, task)
    for round_ in range(4):
        assert len(algorithm.archive) == 3 + round_
        assert algorithm.batch_size == 16
        before, moving = means_of(algorithm), algorithm._moving
        advance(algorithm, task)
        moved = [not np.array_equal(one, other) for one, other in zip(before, means_of(algorithm), strict=True)]
        assert moved == [index == moving for index in range(3)]
        assert algorithm.batch_size == 2
        assert np.array_equal(algorithm.ask().genomes[0:1][0].numpy(), means_of(algorithm)[moving])
        advance(algorithm, task)


def test_the_archive_stores_the_behaviour_of_means() -> None:
    algorithm, task = started()
    evaluation = task.evaluate(algorithm.ask())
    algorithm.tell(evaluation)
    stored = algorithm.archive.state_dict()
    assert np.array_equal(stored["genome"], means_of(algorithm))
    np.testing.assert_allclose(stored["descriptor"], evaluation.descriptor.numpy().reshape(3, 2, 2).mean(1))
    np.testing.assert_allclose(stored["fitness"], evaluation.fitness.numpy().reshape(3, 2).mean(1))


def test_entries_store_the_number_of_evaluations_and_their_spread() -> None:
    algorithm, task = started(means=2, mean_rows=3)
    evaluation = task.evaluate(algorithm.ask())
    fitness = torch.tensor([1.0, 2.0, 6.0, 4.0, torch.nan, torch.nan], dtype=torch.float64)
    places = evaluation.descriptor.clone()
    places[:3, 0] = torch.tensor([0.0, 3.0, 6.0])
    algorithm.tell(replace(evaluation, fitness=fitness, descriptor=places, failed=fitness.isnan()))
    stored = algorithm.archive.state_dict()
    assert stored["n_evaluations"].tolist() == [3, 1]
    np.testing.assert_allclose(stored["fitness_std"], [float(np.std([1.0, 2.0, 6.0])), np.nan])
    np.testing.assert_allclose(stored["descriptor_std"], [[np.sqrt(6.0), 0.0], [np.nan, np.nan]])


@pytest.mark.parametrize("objective", ["ns", "nsr", "nsra"])
def test_a_mean_follows_the_gradient_of_its_objective(objective: str) -> None:
    algorithm, task = started(objective=objective, reward_weight=0.25)
    advance(algorithm, task)
    for _ in range(3):
        moving, share = algorithm._moving, {"ns": 0.0, "nsr": 0.5, "nsra": algorithm.reward_weight}[objective]
        candidates = algorithm.ask()
        evaluation = task.evaluate(candidates)
        far = by_hand(evaluation.descriptor.numpy(), algorithm.archive.state_dict()["descriptor"])
        fit = centred_ranks(evaluation.fitness.numpy())
        weights = share * fit + (1 - share) * centred_ranks(far)
        before = means_of(algorithm)[moving]
        noise = (candidates.genomes[0:16].numpy() - before) / 0.1
        uphill = (weights[:, None] * noise).sum(0) / 16
        velocity = algorithm.means[moving].state_dict()["optimizer"]["velocity"]
        algorithm.tell(evaluation)
        expected = before - 0.1 * (0.9 * velocity - 0.1 * uphill)
        np.testing.assert_allclose(means_of(algorithm)[moving], expected, atol=1e-5)
        advance(algorithm, task)


def test_a_mean_is_selected_with_probability_proportional_to_its_novelty() -> None:
    algorithm, task = started(means=2)
    advance(algorithm, task)
    algorithm._behaviour = np.array([[0.0, 0.0], [10.0, 0.0]])
    archive: Any = algorithm.archive
    archive.add(torch.zeros(20, 6), torch.zeros(20), torch.full((20, 2), 1.0))
    chances = by_hand(algorithm._behaviour, archive.state_dict()["descriptor"])
    drawn = []
    for generation in range(600):
        algorithm.generation = generation
        drawn.append(algorithm._next_mean())
    assert np.mean(drawn) == pytest.approx(chances[1] / chances.sum(), abs=0.06)


def test_rerolled_means_are_compared_with_the_whole_archive() -> None:
    algorithm, task = started(reroll_means=True)
    stored = behaviours = np.empty(0)
    assert algorithm.batch_size == (3 + 3) * 2
    advance(algorithm, task)
    for _ in range(3):
        advance(algorithm, task)  # a step of one mean
        assert algorithm.batch_size == (1 + 3) * 2
        moved, means, asked = algorithm._moving, means_of(algorithm), algorithm.ask()
        expected = np.repeat([means[moved], *means], 2, axis=0)
        np.testing.assert_array_equal(asked.genomes[0:8].numpy(), expected)
        assert len(set(asked.seeds.tolist())) == 8
        evaluation, entries = task.evaluate(asked), len(algorithm.archive)
        again = torch.tensor([[0.0, 1.0], [2.0, 3.0], [4.0, 4.0], [6.0, 0.0], [5.0, 5.0], [-5.0, 5.0]])
        evaluation.descriptor[2:] = again
        evaluation.fitness[2:] = 1e6
        counts = algorithm.tell(evaluation)
        stored = algorithm.archive.state_dict()["descriptor"]
        assert len(stored) == entries + 1
        np.testing.assert_allclose(stored[-1], evaluation.descriptor[:2].numpy().mean(0))
        assert counts["champion_fitness"] < 1e6
        behaviours = again.numpy().reshape(3, 2, 2).mean(1)
        np.testing.assert_allclose(algorithm._behaviour, behaviours)
    chances, drawn = by_hand(behaviours, stored), []
    for generation in range(600):
        algorithm.generation = generation
        drawn.append(algorithm._next_mean())
    np.testing.assert_allclose(np.bincount(drawn) / 600, chances / chances.sum(), atol=0.06)


def test_rerolled_means_include_their_own_latest_entry_among_the_neighbours() -> None:
    algorithm, task = started(means=2, reroll_means=True)
    advance(algorithm, task)
    places = np.array([[0, 0], [0, -10], [1, 0], [0, 1], [-1, 0], [5, -10], [-5, -10], [0, -15], [3, -14]], float)
    algorithm.archive.add(torch.zeros(7, 6), torch.zeros(7), torch.zeros(7, 2))
    algorithm.archive.load_state_dict({**algorithm.archive.state_dict(), "descriptor": places})
    algorithm._entries, algorithm._behaviour = 9, places[:2].copy()  # where their own entries are
    drawn = []
    for generation in range(600):
        algorithm.generation = generation
        drawn.append(algorithm._next_mean())
    chances = np.array([(0 + 1 + 1 + 1) / 4, (0 + 5 + 5 + 5) / 4])  # without their own entries 3.25 and 5
    assert np.mean(drawn) == pytest.approx(chances[1] / chances.sum(), abs=0.06)


def test_means_may_be_updated_in_turn() -> None:
    algorithm, task = started(selection="turns")
    moved = []
    for _ in range(6):
        advance(algorithm, task)
        moved.append(algorithm._moving)
        advance(algorithm, task)
    assert moved == [1, 2, 0, 1, 2, 0]


def test_the_weight_of_fitness_grows_with_progress_and_shrinks_without() -> None:
    algorithm, task = started(objective="nsra", means=1, reward_weight=0.5, weight_step=0.1, patience=2)

    def told(fitness: float) -> float:
        evaluation = task.evaluate(algorithm.ask())
        evaluation.fitness.fill_(fitness)
        counts = algorithm.tell(evaluation)
        advance(algorithm, task)
        return counts["reward_weight"]

    assert told(1.0) == pytest.approx(0.6)  # the first fitness is the best so far
    assert [told(fitness) for fitness in (0.5, 0.5, 0.5, 2.0, 1.0)] == pytest.approx([0.6, 0.5, 0.5, 0.6, 0.6])
    assert algorithm.champion is not None
    assert algorithm.champion["fitness"].tolist() == [2.0, 2.0]


def failing(evaluation: Evaluation) -> Evaluation:
    evaluation.fitness.fill_(torch.nan)
    evaluation.descriptor.fill_(torch.nan)
    evaluation.failed.fill_(True)
    return evaluation


def test_failed_generations_change_no_mean_and_do_not_end_the_run() -> None:
    algorithm, task = started()
    counts = algorithm.tell(failing(task.evaluate(algorithm.ask())))
    assert counts["added_mean"] == 0
    assert np.isnan(counts["champion_fitness"])
    before = means_of(algorithm)
    algorithm.tell(failing(task.evaluate(algorithm.ask())))
    assert all(np.array_equal(one, other) for one, other in zip(before, means_of(algorithm), strict=True))
    advance(algorithm, task, 4)
    assert len(algorithm.archive) > 0


@pytest.mark.parametrize("rounds", [3, 4])
@pytest.mark.parametrize(("capacity", "reroll"), [(None, False), (3, False), (None, True)])
def test_a_restored_algorithm_continues_with_the_same_bits(rounds: int, capacity: int | None, reroll: bool) -> None:
    (algorithm, task), (other, _) = (started(capacity=capacity, reroll_means=reroll) for _ in range(2))
    advance(algorithm, task, rounds)
    other.load_state_dict(algorithm.state_dict())
    other.archive.load_state_dict(algorithm.archive.state_dict())
    for _ in range(6):
        assert advance(algorithm, task) == advance(other, task)
    for one, two in zip(means_of(algorithm), means_of(other), strict=True):
        assert np.array_equal(one, two)


def test_asking_for_rows_in_parts_gives_the_same_rows() -> None:
    algorithm, task = started()
    for _ in range(2):
        count, whole = algorithm.batch_size, algorithm.ask()
        parts = [algorithm.ask(range(1)), algorithm.ask(range(1, 1)), algorithm.ask(range(1, count))]
        rows = [part.genomes[0 : len(part.rows)] for part in parts if len(part.rows)]
        assert torch.equal(torch.cat(rows), whole.genomes[0:count])
        advance(algorithm, task)


def test_novelty_search_spreads_over_the_plane() -> None:
    algorithm, task = started(objective="ns", optimizer="adam", learning_rate=0.3)
    advance(algorithm, task)
    first = algorithm.archive.state_dict()["descriptor"]
    advance(algorithm, task, 120)
    places = algorithm.archive.state_dict()["descriptor"]
    assert (np.ptp(places, axis=0) > 2 * np.ptp(first, axis=0)).all()


def test_an_archive_with_cells_is_an_error() -> None:
    task = make_task("sphere", parameters=6)
    with pytest.raises(UserError, match="novelty_es needs 'novelty', not 'grid'"):
        NoveltyEs(task, Archive(Grid([0, 0], [1, 1], (2, 2)), 6), Streams(0), NoveltyEsSettings())
    picky = NoveltyArchive([0, 0], [1, 1], 6, rule=Probability(0.01, Streams(0)))
    with pytest.raises(UserError, match="novelty_es needs 'all': it archives the behaviour of every mean"):
        NoveltyEs(task, picky, Streams(0), NoveltyEsSettings())


@pytest.mark.parametrize("rounds", [0, 1, 2])
def test_a_rank_without_rows_evaluates_nothing(rounds: int) -> None:
    algorithm, task = started()
    advance(algorithm, task, rounds) if rounds else None
    assert len(task.evaluate(algorithm.ask(range(1, 1))).fitness) == 0
