"""Deep GA without the engine: selection of parents and elite, lineages, pruning and state."""

from typing import Any

import numpy as np
import pytest
import torch

from qdrl.algorithms import deep_ga
from qdrl.algorithms.deep_ga import DeepGa, DeepGaSettings
from qdrl.algorithms.deep_ga_selection import novelty_of_rows
from qdrl.archives.admission import Probability
from qdrl.archives.archive import Archive
from qdrl.archives.grid import Grid
from qdrl.archives.novelty_archive import NoveltyArchive
from qdrl.errors import UserError
from qdrl.evaluation import Candidates, Evaluation, evaluated
from qdrl.genomes.mutation import MutationPower
from qdrl.streams import Streams
from qdrl.tasks.base import Task
from qdrl.tasks.registry import make_task

SMALL = {"batch_size": 24, "parents": 4, "candidates": 3, "candidate_episodes": 5, "mutation": {"sigma": 0.3}}


class NoisySphere:
    """The sphere task with noise: its fitness also depends on the seed of the evaluation."""

    def __init__(self, luck: float = 0.0) -> None:
        self._task, self._luck = make_task("sphere", parameters=6), luck

    def __getattr__(self, name: str) -> Any:
        return getattr(self._task, name)

    def evaluate(self, candidates: Candidates) -> Evaluation:
        found = self._task.evaluate(candidates)
        luck = [self._luck * np.random.default_rng(seed).standard_normal() for seed in candidates.seeds.tolist()]
        return evaluated(
            candidates,
            fitness=found.fitness + torch.tensor(luck, dtype=torch.float64),
            descriptor=found.descriptor,
            steps=found.steps,
        )


def started(task: Any = None, seed: int = 2, **settings: Any) -> tuple[DeepGa, Task]:
    task = task or NoisySphere()
    archive = Archive(Grid(task.spec.lower, task.spec.upper, (8, 8)), 1, dtype=torch.int64)
    return DeepGa(task, archive, Streams(seed), DeepGaSettings(**{**SMALL, **settings})), task


def advance(algorithm: DeepGa, task: Task, rounds: int = 1) -> dict[str, float]:
    for _ in range(rounds):
        counts = algorithm.tell(task.evaluate(algorithm.ask()))
    return counts  # pyright: ignore[reportPossiblyUnboundVariable]


def genome(algorithm: DeepGa, node: Any) -> np.ndarray:
    return algorithm._decoder.genome(int(node))


def test_the_best_children_and_the_elite_are_the_next_parents() -> None:
    algorithm, task = started()
    for _ in range(5):
        parents = {genome(algorithm, node).tobytes() for node in algorithm.parents}
        candidates = algorithm.ask()
        children = candidates.genomes[0:24].numpy()
        assert algorithm.batch_size == 24
        fitness = task.evaluate(candidates).fitness.numpy()
        before = [genome(algorithm, algorithm.elite)] if algorithm.elite >= 0 else []
        advance(algorithm, task)
        assert algorithm.batch_size == 3 * 5
        asked = algorithm.ask()
        best = [*before, *children[np.argsort(-fitness)]][:3]
        assert np.array_equal(asked.genomes[0:15].numpy(), np.repeat(best, 5, axis=0))
        advance(algorithm, task)
        top = [row.tobytes() for row in children[np.argsort(-fitness)][:4]]
        elite = genome(algorithm, algorithm.elite).tobytes()
        expected = set(top) if elite in top else {elite, *top[:3]}
        assert {genome(algorithm, node).tobytes() for node in algorithm.parents} == expected != parents


def test_the_elite_has_the_highest_mean_over_the_candidate_episodes() -> None:
    algorithm, task = started(NoisySphere(luck=20.0))
    for _ in range(8):
        advance(algorithm, task)
        candidates = algorithm._candidates.copy()
        evaluation = task.evaluate(algorithm.ask())
        means = evaluation.fitness.numpy().reshape(len(candidates), 5).mean(1)
        counts = algorithm.tell(evaluation)
        assert algorithm.elite == candidates[means.argmax()]
        assert counts["champion_fitness"] == pytest.approx(means.max())
        assert counts["candidate_evaluations"] == len(candidates) * 5


def test_without_candidate_episodes_an_elite_stays_until_a_child_is_better() -> None:
    algorithm, task = started(candidate_episodes=0)
    best = -np.inf
    for generation in range(6):
        evaluation = task.evaluate(algorithm.ask())
        best = max(best, float(evaluation.fitness.max()))
        assert algorithm.tell(evaluation)["champion_fitness"] == best
        assert algorithm.generation == generation + 1
        assert len(algorithm.parents) == 4


def test_fitness_and_descriptor_are_means_over_the_episodes_of_a_child() -> None:
    algorithm, task = started(episodes_per_child=3, candidate_episodes=0, parents=4)
    for _ in range(3):
        assert algorithm.batch_size == 24 * 3
        candidates = algorithm.ask()
        genomes = candidates.genomes[0:72].numpy().reshape(24, 3, 6)
        assert (genomes == genomes[:, :1]).all()
        assert len(set(candidates.seeds.tolist())) == 72
        evaluation = task.evaluate(candidates)
        draw = torch.Generator().manual_seed(algorithm.generation)
        fitness = 1000 * algorithm.generation + torch.rand(72, generator=draw, dtype=torch.float64)
        failed = torch.zeros(72, dtype=torch.bool)
        failed[[1, 9, 10, 21, 22, 23]] = True  # one episode of child 0, two of child 3, all of child 7
        evaluation.fitness.copy_(fitness.masked_fill(failed, torch.nan))
        evaluation.descriptor.add_(torch.rand(72, 2, generator=draw))[failed] = torch.nan
        evaluation.failed.copy_(failed)
        algorithm.tell(evaluation)
        scores, places = evaluation.fitness.numpy().reshape(24, 3), evaluation.descriptor.numpy().reshape(24, 3, 2)
        means = np.array([row[np.isfinite(row)].mean() if np.isfinite(row).any() else -np.inf for row in scores])
        best = np.argsort(-means)[:4]
        for node, child in zip(algorithm.parents, best, strict=True):
            np.testing.assert_array_equal(genome(algorithm, node), genomes[child, 0])
        assert algorithm.champion is not None
        np.testing.assert_array_equal(algorithm.champion["fitness"], scores[best[0]][np.isfinite(scores[best[0]])])
        stored = algorithm.archive.state_dict()
        new = np.flatnonzero(stored["generation"] == algorithm.generation - 1)
        assert len(new) > 2
        for row in new:
            child = int(np.argmin(np.abs(means - stored["fitness"][row])))
            known = np.isfinite(scores[child])
            assert stored["fitness"][row] == pytest.approx(scores[child][known].mean())
            np.testing.assert_allclose(stored["descriptor"][row], places[child][known].mean(0))
            assert stored["n_evaluations"][row] == known.sum()
            seeds = evaluation.seeds.numpy().reshape(24, 3)[child]
            assert stored["evaluation_seed"][row] == seeds[known][0]
            spread = (np.nan, np.nan) if known.sum() == 1 else (scores[child][known].std(), places[child][known].std(0))
            np.testing.assert_allclose(stored["fitness_std"][row], spread[0])
            np.testing.assert_allclose(stored["descriptor_std"][row], spread[1])


def test_a_copy_of_the_elite_competes_with_the_children() -> None:
    algorithm, task = started(copy_elite=True, episodes_per_child=2)
    assert algorithm.batch_size == 24 * 2  # there is no elite before the first generation
    advance(algorithm, task, rounds=2)
    for _ in range(4):
        assert algorithm.batch_size == 25 * 2
        asked, elite = algorithm.ask(), algorithm.elite
        assert (asked.genomes[48:50].numpy() == genome(algorithm, elite)).all()
        assert not (asked.genomes[46:48].numpy() == genome(algorithm, elite)).all()
        evaluation = task.evaluate(asked)
        evaluation.fitness[48:] = 1e3
        nodes = len(algorithm.ancestry)
        algorithm.tell(evaluation)
        assert len(algorithm.ancestry) == nodes + 24
        assert algorithm._ranked[0] == elite
        assert algorithm._candidates.tolist() == [elite, *algorithm._ranked[1:3]]
        advance(algorithm, task)


def test_random_search_has_no_elite_to_copy() -> None:
    with pytest.raises(ValueError, match="copy_elite needs parents"):
        DeepGaSettings(parents=0, copy_elite=True)


def test_a_child_is_a_parent_and_one_mutation_of_the_power_of_its_generation() -> None:
    power = {"sigma": 0.5, "final_sigma": 0.1, "generations": 2}
    algorithm, task = started(mutation=power)
    for generation in range(4):
        if generation:
            asked, parents = algorithm.ask(), [genome(algorithm, node) for node in algorithm.parents]
            for child in asked.genomes[0:24].numpy():
                steps = [np.abs(child - parent).std() for parent in parents]
                assert min(steps) < 3 * MutationPower(**power).at(generation)
        advance(algorithm, task, rounds=2)
    lineage = algorithm.ancestry.lineage(algorithm.elite)
    assert set(lineage.sigmas[1:].tolist()) <= {np.float32(0.5), np.float32(0.3), np.float32(0.1)}


@pytest.mark.parametrize(
    ("schedule", "expected"), [("linear", [1.0, 0.55, 0.1, 0.1]), ("exponential", [1.0, np.sqrt(0.1), 0.1, 0.1])]
)
def test_mutation_power_follows_its_schedule(schedule: Any, expected: list[float]) -> None:
    power = MutationPower(sigma=1.0, final_sigma=0.1, generations=10, schedule=schedule)
    assert [power.at(generation) for generation in (0, 5, 10, 99)] == pytest.approx(expected)
    assert MutationPower(sigma=0.3).at(77) == 0.3


def test_random_search_keeps_an_elite_and_has_no_parents() -> None:
    algorithm, task = started(parents=0)
    for _ in range(3):
        assert algorithm.ask().emitter.unique().tolist() == [0]
        advance(algorithm, task, rounds=2)
    assert len(algorithm.parents) == 0
    assert algorithm.elite >= 0
    assert len(algorithm.ancestry.lineage(algorithm.elite)) == 1


@pytest.mark.parametrize("several", [{}, {"episodes_per_child": 3, "copy_elite": True}])
@pytest.mark.parametrize("rounds", [0, 1, 2, 3])
def test_asking_for_rows_in_parts_gives_the_same_rows(rounds: int, several: dict[str, Any]) -> None:
    algorithm, task = started(**several)
    advance(algorithm, task, rounds) if rounds else None
    whole, count = algorithm.ask(), algorithm.batch_size
    parts = [algorithm.ask(range(5)), algorithm.ask(range(5, count))]
    assert torch.equal(torch.cat([part.genomes[0 : len(part.rows)] for part in parts]), whole.genomes[0:count])
    assert torch.equal(torch.cat([part.seeds for part in parts]), whole.seeds)


def test_cells_keep_children_that_replay_from_their_lineage() -> None:
    algorithm, task = started()
    advance(algorithm, task, rounds=9)
    cells = algorithm.archive.occupied_cells
    nodes = algorithm.archive.genomes_of(cells)
    genomes = torch.from_numpy(np.stack([genome(algorithm, node) for node in nodes[:, 0].tolist()]))
    one = torch.zeros(len(cells), dtype=torch.int64)
    again = task.evaluate(Candidates(0, range(len(cells)), genomes, one, one, one))
    assert torch.equal(again.fitness, torch.from_numpy(algorithm.archive.state_dict()["fitness"]))
    stored = algorithm.lineages(nodes.numpy())
    assert len(stored) == len(cells)
    for row, node in enumerate(nodes[:, 0].tolist()):
        lineage = algorithm.ancestry.lineage(node)
        assert np.array_equal(stored.of(row)[0], lineage.seeds)
        assert np.array_equal(stored.of(row)[1], lineage.sigmas)


def test_failed_rows_are_never_parents_and_a_failed_generation_changes_nothing() -> None:
    algorithm, task = started()
    advance(algorithm, task, rounds=2)
    parents, elite = algorithm.parents.copy(), algorithm.elite
    broken = task.evaluate(algorithm.ask())
    broken.fitness.fill_(torch.nan)
    broken.failed.fill_(True)
    algorithm.tell(broken)
    advance(algorithm, task)  # the elite is the only candidate
    assert algorithm.elite == elite
    assert set(algorithm.parents.tolist()) <= {*parents.tolist(), elite}
    half = task.evaluate(algorithm.ask())
    half.failed[::2] = True
    half.fitness[::2] = torch.nan
    rows = algorithm.ask().genomes[0:24].numpy()
    algorithm.tell(half)
    assert all(genome(algorithm, node).tobytes() in {row.tobytes() for row in rows[1::2]} for node in algorithm._ranked)


def test_a_failed_first_generation_is_repeated_with_other_genomes() -> None:
    algorithm, task = started()
    broken = task.evaluate(algorithm.ask())
    broken.fitness.fill_(torch.nan)
    broken.failed.fill_(True)
    counts = algorithm.tell(broken)
    assert np.isnan(counts["champion_fitness"])
    assert algorithm.batch_size == 24
    advance(algorithm, task, rounds=2)
    assert algorithm.elite >= 0


@pytest.mark.parametrize("settings", [{}, {"rebase_depth": 2}, {"episodes_per_child": 2, "copy_elite": True}])
@pytest.mark.parametrize("rounds", [4, 5])
def test_a_restored_algorithm_continues_with_the_same_bits(rounds: int, settings: dict[str, Any]) -> None:
    algorithm, task = started(**settings)
    other, _ = started(**settings)
    advance(algorithm, task, rounds)
    state = algorithm.state_dict()
    other.load_state_dict(state)
    other.archive.load_state_dict({**algorithm.archive.state_dict(), "genome": state["nodes"]})
    for _ in range(4):
        assert advance(algorithm, task) == pytest.approx(advance(other, task), nan_ok=True)
        assert torch.equal(algorithm.ask().genomes[0:3], other.ask().genomes[0:3])
    assert np.array_equal(algorithm.archive.state_dict()["fitness"], other.archive.state_dict()["fitness"])


def test_pruning_and_rebasing_change_no_genome(monkeypatch: pytest.MonkeyPatch) -> None:
    runs = []
    for spare, rebase in ((10**9, None), (0, None), (0, 2)):
        monkeypatch.setattr(deep_ga, "_SPARE", spare)
        algorithm, task = started(rebase_depth=rebase)
        advance(algorithm, task, rounds=16)
        nodes = algorithm.archive.state_dict()["genome"][:, 0]
        runs.append([len(algorithm.ancestry), [genome(algorithm, node).tobytes() for node in nodes]])
    assert runs[0][1] == runs[1][1] == runs[2][1]
    assert runs[1][0] < runs[0][0]


@pytest.mark.parametrize("rounds", [0, 1, 2])
def test_a_rank_without_rows_evaluates_nothing(rounds: int) -> None:
    algorithm, _ = started()
    task = make_task("sphere", parameters=6)
    advance(algorithm, task, rounds) if rounds else None
    assert len(task.evaluate(algorithm.ask(range(1, 1))).fitness) == 0


def test_a_single_candidate_is_an_error() -> None:
    with pytest.raises(ValueError, match="candidates must be at least 2"):
        DeepGaSettings(candidates=1)


def test_fitness_increases_on_the_sphere_function() -> None:
    algorithm, task = started(batch_size=100, parents=10, mutation={"sigma": 0.5}, candidate_episodes=0)
    first = advance(algorithm, task)["champion_fitness"]
    assert advance(algorithm, task, rounds=30)["champion_fitness"] > max(99.0, first)


@pytest.mark.parametrize(
    "settings",
    [{"batch_size": 0}, {"parents": -1}, {"mutation": {"sigma": 0.0}}, {"noise": {"name": "table", "size": 0}}],
)
def test_invalid_settings_are_errors(settings: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="greater than"):
        DeepGaSettings(**settings)


def novelty_ga(seed: int = 2, **settings: Any) -> tuple[DeepGa, Task]:
    task = make_task("sphere", parameters=6)
    rule = Probability(0.1, Streams(seed))
    archive = NoveltyArchive(task.spec.lower, task.spec.upper, 1, k=5, rule=rule, dtype=torch.int64)
    options = {**SMALL, "objective": "novelty", "candidate_episodes": 0, **settings}
    return DeepGa(task, archive, Streams(seed), DeepGaSettings(**options)), task


@pytest.mark.parametrize("distance", ["euclidean", "squared_euclidean"])
@pytest.mark.parametrize("copy_elite", [False, True])
def test_with_the_novelty_objective_the_most_novel_children_are_parents(distance: str, copy_elite: bool) -> None:
    algorithm, task = novelty_ga(distance=distance, copy_elite=copy_elite)
    for generation in range(5):
        known, most_novel = algorithm.archive.state_dict()["descriptor"], algorithm.parents[:1]
        rows = 24 + (copy_elite and generation > 0)
        assert algorithm.batch_size == rows
        children = algorithm.ask().genomes[0:rows].numpy()
        if rows > 24:
            np.testing.assert_array_equal(children[24], genome(algorithm, most_novel[0]))
        evaluation = task.evaluate(algorithm.ask())
        places = evaluation.descriptor.numpy()
        distances = np.linalg.norm(places[:, None] - np.concatenate([known, places])[None], axis=2)
        distances[np.arange(rows), len(known) + np.arange(rows)] = np.inf
        if distance == "squared_euclidean":
            distances = distances**2
        newest = np.argsort(-np.sort(distances, axis=1)[:, :5].mean(1), kind="stable")
        algorithm.tell(evaluation)
        assert [genome(algorithm, node).tobytes() for node in algorithm.parents] == [
            children[row].tobytes() for row in newest[:4]
        ]
    assert len(algorithm.archive) > 3


def test_novelty_by_squared_distances_is_that_computed_by_hand(monkeypatch: pytest.MonkeyPatch) -> None:
    found: list[np.ndarray] = []

    def noted(*arguments: Any, **options: Any) -> np.ndarray:
        found.append(novelty_of_rows(*arguments, **options))
        return found[-1]

    monkeypatch.setattr(deep_ga, "novelty_of_rows", noted)
    places = torch.zeros(24, 2, dtype=torch.float64)
    places[:4, 0] = torch.tensor([100.0, 100.5, 102.0, 200.0])  # far from each other; the 20 others are at 0
    for distance in ("euclidean", "squared_euclidean"):
        algorithm, task = novelty_ga(distance=distance, parents=1)
        algorithm._entries.k = 4  # pyright: ignore[reportOptionalMemberAccess]
        evaluation = task.evaluate(algorithm.ask())
        evaluation.descriptor.copy_(places)
        algorithm.tell(evaluation)
    plain, squared = found
    by_hand = {
        0: [0.5, 2, 100, 100],
        1: [0.5, 1.5, 99.5, 100.5],
        2: [1.5, 2, 98, 102],
        3: [98, 99.5, 100, 200],
        4: [0] * 4,
    }
    for row, distances in by_hand.items():
        assert plain[row] == pytest.approx(np.mean(distances))
        assert squared[row] == pytest.approx(np.mean(np.square(distances)))


def test_the_champion_of_novelty_search_is_the_fittest_and_survives_pruning(monkeypatch: pytest.MonkeyPatch) -> None:
    runs = []
    for spare in (10**9, 0):
        monkeypatch.setattr(deep_ga, "_SPARE", spare)
        algorithm, task = novelty_ga()
        best = -np.inf
        for _ in range(12):
            evaluation = task.evaluate(algorithm.ask())
            best = max(best, float(evaluation.fitness.max()))
            assert algorithm.tell(evaluation)["champion_fitness"] == best
        nodes = algorithm.archive.state_dict()["genome"][:, 0]
        runs.append([genome(algorithm, node).tobytes() for node in [*nodes, algorithm.elite]])
    assert runs[0] == runs[1]


def test_the_novelty_objective_needs_a_novelty_archive() -> None:
    with pytest.raises(UserError, match="objective novelty needs 'novelty', not 'grid'"):
        started(objective="novelty")


def test_a_noise_table_shorter_than_a_genome_is_an_error_before_the_run() -> None:
    with pytest.raises(UserError, match=r"a noise table of 5 numbers is too short for 6: set algorithm\.noise\.size"):
        started(noise={"name": "table", "size": 5})
    started(noise={"name": "table", "size": 6})
