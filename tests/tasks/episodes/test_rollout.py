"""Rollouts of many genomes: a row's result does not depend on other rows, and finished worlds cost nothing."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from mujoco.batch import Batch
from torch import Tensor

from qdrl.errors import UserError
from qdrl.evaluation import Evaluation
from qdrl.policies.mlp import Mlp, MlpSettings
from qdrl.policies.normalizer import deviation_of, normalize_
from qdrl.tasks.episodes.rollout import Rollout
from qdrl.tasks.episodes.worlds import EpisodeWorlds, ForwardingWorlds
from qdrl.tasks.episodic import EpisodicTask
from qdrl.tasks.point import PointWorlds
from qdrl.tasks.registry import make_task
from tests.tasks.builders import candidates, first_genomes

ROWS = 14
LENGTHS = {"hopper_uni": 60, "walker2d_uni": 40, "ant_uni": 25, "humanoid_omni": 25, "point_omni": 30, "hard_maze": 60}


def small_task(name: str, worlds: int, *, normalize: bool = False, length: int | None = None) -> EpisodicTask:
    policy = {"hidden_sizes": (8,), "normalize_observations": normalize}
    task = make_task(name, worlds=worlds, policy=policy, episode_length=length or LENGTHS[name])
    assert isinstance(task, EpisodicTask)
    if task.normalizer is not None:
        task.normalizer.mean += 0.25
        task.normalizer.snapshots[0] = (task.normalizer.mean, np.full(task.spec.observation_size, 4.0))
    return task


def evaluate(task: EpisodicTask, rows: Sequence[int] | None = None) -> Evaluation:
    """Evaluate these of the task's first genomes, each with the seed of its row."""
    rows = range(ROWS) if rows is None else rows
    return task.evaluate(candidates(first_genomes(task, ROWS, 3.0)[list(rows)], [100 + row for row in rows]))


def assert_same_rows(ours: Evaluation, all_rows: Evaluation, rows: Sequence[int]) -> None:
    for name, column in all_rows.columns().items():
        if name not in ("emitter", "parent_cell"):
            assert torch.equal(ours.columns()[name], column[list(rows)]), name


@pytest.mark.parametrize("normalize", [False, True])
@pytest.mark.parametrize("name", LENGTHS)
def test_results_are_the_same_bits_for_any_number_of_worlds_and_order_of_rows(name: str, normalize: bool) -> None:
    reference = evaluate(small_task(name, worlds=1, normalize=normalize))
    assert not reference.failed.any()
    assert len(reference.fitness.unique()) == ROWS
    mixed = np.random.default_rng(0).permutation(ROWS).tolist()
    for worlds in (3, 64):
        task = small_task(name, worlds, normalize=normalize)
        for rows in (range(ROWS), mixed, mixed[:5], [7], range(ROWS)):
            assert_same_rows(evaluate(task, rows), reference, rows)


class Showing(PointWorlds):
    """Worlds that return their own state from `observe` and change it in place."""

    def __init__(self, count: int) -> None:
        super().__init__(count, 12)
        self._shown = torch.zeros(count, 5)

    def reset(self, slots: Any, seeds: Any) -> None:
        super().reset(slots, seeds)
        self._show(torch.zeros(self.count, dtype=torch.int64))

    def observe(self, ages: Tensor) -> Tensor:
        self._show(ages)
        return self._shown[: len(ages)]

    def step(self, actions: Tensor) -> tuple[Tensor, Tensor]:
        result = super().step(actions)
        self._shown += 1.0
        return result

    def _show(self, ages: Tensor) -> None:
        self._shown[: len(ages)] = super().observe(ages)


def test_worlds_may_return_their_own_state_as_observations() -> None:
    policy = MlpSettings(hidden_sizes=(4,), normalize_observations=True)
    spec = make_task("point_omni", episode_length=12).spec
    found = []
    for worlds in (lambda count: PointWorlds(count, 12), Showing):
        task = EpisodicTask(spec, worlds, policy=policy, worlds=4)
        first = candidates(first_genomes(task, 6))
        task.update(task.evaluate(first))
        found.append(task.evaluate(replace(first, generation=1, wants_transitions=True)))
    copied, shared = found
    assert torch.equal(shared.fitness, copied.fitness)
    assert torch.equal(shared.transitions.observations, copied.transitions.observations)


def test_worlds_that_do_not_state_their_number_are_an_error() -> None:
    with pytest.raises(UserError, match=r"object has no count: set self\.count to its number of worlds"):
        Rollout(object(), make_task("point_omni").policy, 2, 12)  # pyright: ignore


def test_hoppers_fall_at_different_steps_so_that_slots_are_refilled_and_moved() -> None:
    """The episodes of the test above differ in length."""
    steps = evaluate(small_task("hopper_uni", worlds=3)).steps
    assert len(steps.unique()) >= 4
    assert steps.min() < LENGTHS["hopper_uni"]


def test_threads_change_nothing() -> None:
    task = make_task("hopper_uni", worlds=5, threads=3, policy={"hidden_sizes": (8,)}, episode_length=60)
    assert isinstance(task, EpisodicTask)
    assert_same_rows(evaluate(task), evaluate(small_task("hopper_uni", worlds=1)), range(ROWS))


@pytest.mark.parametrize("worlds", [1, 3, 64])
def test_terminated_worlds_cost_no_physics(worlds: int, monkeypatch: pytest.MonkeyPatch) -> None:
    task, calls, step = small_task("hopper_uni", worlds), [], Batch.step
    monkeypatch.setattr(Batch, "step", lambda self, ids, count: (calls.append(len(ids)), step(self, ids, count)))
    steps = evaluate(task).steps
    assert sum(calls) == steps.sum() < ROWS * LENGTHS["hopper_uni"]


@pytest.mark.parametrize("normalize", [False, True])
def test_a_failing_row_ends_early_is_marked_and_harms_nobody(normalize: bool) -> None:
    task = small_task("hopper_uni", worlds=3, normalize=normalize)
    genomes, seeds = first_genomes(task, ROWS, 3.0), range(100, 100 + ROWS)
    reference = task.evaluate(candidates(genomes, seeds))
    genomes[4] = torch.nan
    evaluation = task.evaluate(candidates(genomes, seeds))
    others = [row for row in range(ROWS) if row != 4]
    assert evaluation.failed.tolist() == [row == 4 for row in range(ROWS)]
    assert evaluation.steps[4] == 1
    assert evaluation.fitness[4].isnan()
    assert evaluation.descriptor[4].isnan().all()
    for name, column in reference.columns().items():
        assert torch.equal(evaluation.columns()[name][others], column[others]), name
    task.update(evaluation)
    assert task.normalizer is None or np.isfinite(task.normalizer.mean).all()


def test_a_world_whose_physics_breaks_is_marked_even_where_rewards_stay_finite() -> None:
    task = small_task("hopper_uni", worlds=2)
    worlds = task.make_worlds(2)

    class Kicked(Passing):
        def reset(self, slots: Sequence[int], seeds: Sequence[int]) -> None:
            super().reset(slots, seeds)
            if 2 in seeds:
                physics = self.inner.physics
                slot = slots[list(seeds).index(2)]
                physics.reset([slot], physics.state["qpos"][[slot]], torch.full((1, 6), 1e11, dtype=torch.float64))

    episodes = task.rollout_in(Kicked(worlds)).run(first_genomes(task, 4), range(4))
    assert episodes.failed.tolist() == [False, False, True, False]


def test_observation_moments_are_those_of_what_each_row_saw() -> None:
    task = small_task("hopper_uni", worlds=3, normalize=True)
    seen: list[tuple[int, Tensor]] = []

    class Watched(Passing):
        def observe(self, ages: Tensor) -> Tensor:
            observations = super().observe(ages)
            seen.extend((self.owner[slot], row.clone()) for slot, row in enumerate(observations))
            return observations

    normalization = (np.zeros(11), np.ones(11))
    episodes = task.rollout_in(Watched(task.make_worlds(3))).run(
        first_genomes(task, ROWS, 3.0), range(ROWS), normalization
    )
    assert episodes.observations is not None
    for row in range(ROWS):
        mine = torch.stack([observation for owner, observation in seen if owner == row]).double()
        assert episodes.observations.count[row] == len(mine) == episodes.steps[row]
        torch.testing.assert_close(episodes.observations.mean[row], mine.mean(0))
        torch.testing.assert_close(episodes.observations.deviation[row], ((mine - mine.mean(0)) ** 2).sum(0))


def test_policies_see_observations_normalised_by_the_generations_statistics() -> None:
    task = small_task("point_omni", worlds=1, normalize=True)
    genome = first_genomes(task, 1)
    mean, var = np.full(5, 0.1), np.array([4.0, 1.0, 0.25, 1e-9, 1.0])
    given_actions: list[Tensor] = []

    class Watched(Passing):
        def step(self, actions: Tensor) -> tuple[Tensor, Tensor]:
            given_actions.append(actions.clone())
            return super().step(actions)

    worlds = Watched(task.make_worlds(1))
    task.rollout_in(worlds).run(genome, [3], (mean, var))
    worlds.inner.reset([0], [3])
    population = task.policy.population(1)
    population.load([0], genome)
    for age, actions in enumerate(given_actions):
        observations = worlds.inner.observe(torch.tensor([age]))
        normalize_(observations, torch.from_numpy(mean).float(), deviation_of(var, 0.01), 10.0)
        assert torch.equal(population.act(observations), actions)
        worlds.inner.step(actions)


def test_no_rows_give_empty_results() -> None:
    evaluation = evaluate(small_task("point_omni", worlds=2, normalize=True), [])
    assert {len(column) for column in evaluation.columns().values()} == {0}
    assert evaluation.descriptor.shape == (0, 2)


class ScriptedWorlds(EpisodeWorlds):
    """Worlds whose episodes last `seed % 7 + 1` steps with a reward of `seed` per step."""

    def __init__(self, count: int) -> None:
        self.count = count
        self.stepped = 0
        self._seed = [-1] * count
        self._age = [0] * count

    def reset(self, slots: Sequence[int], seeds: Sequence[int]) -> None:
        for slot, seed in zip(slots, seeds, strict=True):
            self._seed[slot], self._age[slot] = seed, 0

    def observe(self, ages: Tensor) -> Tensor:
        assert ages.tolist() == self._age[: len(ages)]
        return torch.tensor(self._seed[: len(ages)]).float()[:, None]

    def step(self, actions: Tensor) -> tuple[Tensor, Tensor]:
        count = len(actions)
        self.stepped += count
        assert actions[:, 0].tolist() == [2.0 * seed for seed in self._seed[:count]], "actions of another genome"
        self._age[:count] = [age + 1 for age in self._age[:count]]
        over = [age > seed % 7 for age, seed in zip(self._age, self._seed, strict=True)][:count]
        return torch.tensor(self._seed[:count]).double(), torch.tensor(over)

    def descriptor(self, slot: int, steps: int) -> Tensor:
        return torch.tensor([float(self._seed[slot]), float(steps)], dtype=torch.float64)

    def failed(self, slot: int) -> bool:
        return self._seed[slot] % 5 == 4

    def truncated(self, slot: int) -> bool:
        return False

    def move(self, source: int, target: int) -> None:
        self._seed[target], self._age[target] = self._seed[source], self._age[source]
        self._seed[source] = -1


@given(seeds=st.lists(st.integers(0, 99), max_size=40), worlds=st.integers(1, 12), length=st.integers(1, 9))
def test_every_row_gets_the_episode_of_its_own_seed(seeds: list[int], worlds: int, length: int) -> None:
    mlp = Mlp(1, 1, MlpSettings(hidden_sizes=(), output="linear"))
    scripted = ScriptedWorlds(worlds)
    genomes = torch.tensor([[2.0, 0.0]]).expand(len(seeds), -1)
    rollout = Rollout(scripted, mlp, dimensions=2, episode_length=length)
    for _ in range(2):  # a rollout is reused
        scripted.stepped = 0
        episodes = rollout.run(genomes, seeds)
        steps = [min(seed % 7 + 1, length) for seed in seeds]
        assert episodes.steps.tolist() == steps
        assert episodes.fitness.tolist() == [float(seed * count) for seed, count in zip(seeds, steps, strict=True)]
        assert episodes.descriptor.tolist() == [list(map(float, pair)) for pair in zip(seeds, steps, strict=True)]
        assert episodes.failed.tolist() == [seed % 5 == 4 for seed in seeds]
        assert scripted.stepped == sum(steps)


def test_a_descriptor_of_another_shape_is_an_error() -> None:
    mlp = Mlp(1, 1, MlpSettings(hidden_sizes=(), output="linear"))
    rollout = Rollout(ScriptedWorlds(2), mlp, dimensions=3, episode_length=4)
    with pytest.raises(ValueError, match=r"shape \(2,\) .* expected shape \(3,\) .*: one value per axis"):
        rollout.run(torch.tensor([[2.0, 0.0]]), [5])


def test_worlds_without_one_of_their_methods_cannot_be_made() -> None:
    class Immovable(EpisodeWorlds):
        count = 1
        reset = observe = step = descriptor = lambda *_: None  # pyright: ignore[reportAssignmentType]

    with pytest.raises(TypeError, match="abstract method move"):
        Immovable()  # pyright: ignore[reportAbstractUsage]


class Passing(ForwardingWorlds):
    """Worlds that forward all calls to other worlds and store the seed of each slot, for tests to observe."""

    def __init__(self, worlds: EpisodeWorlds) -> None:
        super().__init__(worlds)
        self.inner: Any = worlds
        self.owner = [-1] * worlds.count

    def reset(self, slots: Sequence[int], seeds: Sequence[int]) -> None:
        for slot, seed in zip(slots, seeds, strict=True):
            self.owner[slot] = seed
        super().reset(slots, seeds)

    def move(self, source: int, target: int) -> None:
        self.owner[target] = self.owner[source]
        super().move(source, target)
