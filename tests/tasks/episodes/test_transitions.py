"""Recorded transitions: complete, in order, and the same bits for any grouping of rows."""

from dataclasses import replace
from itertools import pairwise
from typing import Any

import gymnasium
import numpy as np
import pytest
import torch

from qdrl.evaluation import Evaluation, Transitions
from qdrl.parallel.exchange import LOCAL
from qdrl.policies.normalizer import deviation_of, normalize_
from qdrl.tasks.episodic import EpisodicTask
from tests.tasks.builders import candidates, first_genomes
from tests.tasks.episodes.test_rollout import LENGTHS, ROWS, small_task
from tests.tasks.test_gym import gym_task


def evaluate(task: EpisodicTask) -> Evaluation:
    wanted = replace(candidates(first_genomes(task, ROWS, 3.0), range(100, 100 + ROWS)), wants_transitions=True)
    return task.evaluate(wanted)


def transitions_of(evaluation: Evaluation) -> Transitions:
    assert evaluation.transitions is not None
    return evaluation.transitions


@pytest.mark.parametrize("normalize", [False, True])
@pytest.mark.parametrize("name", LENGTHS)
def test_transitions_are_whole_ordered_and_the_same_bits_for_any_number_of_worlds(name: str, normalize: bool) -> None:
    reference = evaluate(small_task(name, worlds=1, normalize=normalize))
    steps, found = reference.steps.tolist(), transitions_of(reference)
    assert found.row.tolist() == [row for row, count in enumerate(steps) for _ in range(count)]
    assert found.observation.dtype == found.action.dtype == found.reward.dtype == torch.float32
    sums = torch.zeros(ROWS).double().index_add(0, found.row, found.reward.double())
    torch.testing.assert_close(sums, reference.fitness, rtol=1e-5, atol=1e-4)
    inside = found.row[1:] == found.row[:-1]
    assert torch.equal(found.next_observation[:-1][inside], found.observation[1:][inside])
    last = torch.cat([~inside, torch.tensor([True])])
    assert torch.equal(found.terminated | found.truncated, last)
    assert (reference.steps[~found.terminated[last]] == LENGTHS[name]).all()  # or terminated at its last step
    assert found.truncated.any() == (name != "hard_maze")  # where the last step pays the reward and terminates
    for worlds in (3, 64):
        again = transitions_of(evaluate(small_task(name, worlds, normalize=normalize)))
        for field, tensor in vars(found).items():
            assert torch.equal(tensor, vars(again)[field]), field


@pytest.mark.parametrize("name", ["hopper_uni", "point_omni"])  # episodes of different lengths, and of full length
def test_observations_are_stored_once(name: str) -> None:
    evaluation = evaluate(small_task(name, worlds=3))
    found = transitions_of(evaluation)
    assert len(found.observations) == len(found) + ROWS
    assert torch.equal(found.index, torch.arange(len(found)) + found.row - found.row[0])


@pytest.mark.parametrize("edges", [[0, 1, 4, ROWS], [0, 0, 3, 3, ROWS], [0, ROWS]])
def test_transitions_of_parts_of_the_rows_join_to_those_of_all(edges: list[int]) -> None:
    whole = transitions_of(evaluate(small_task("hopper_uni", worlds=3)))
    first = int(whole.row[0])
    parts = [whole.within(range(first + start, first + end)) for start, end in pairwise(edges)]
    for part, (start, end) in zip(parts, pairwise(edges), strict=True):
        assert set(part.row.tolist()) == set(range(first + start, first + end))
        mine = (whole.row >= first + start) & (whole.row < first + end)
        assert torch.equal(part.next_observation, whole.next_observation[mine])
    for field, tensor in vars(Transitions.join(parts)).items():
        assert torch.equal(tensor, vars(whole)[field]), field


def test_transitions_are_recorded_only_on_request() -> None:
    task = small_task("point_omni", worlds=2)
    evaluation = task.evaluate(candidates(first_genomes(task, 3)))
    assert evaluation.transitions is None
    with pytest.raises(ValueError, match="no transitions: set wants_transitions"):
        LOCAL.train(evaluation, lambda shards, learners: {})


def test_one_process_learns_from_its_own_transitions() -> None:
    evaluation = evaluate(small_task("hopper_uni", worlds=3))
    learned = LOCAL.train(evaluation, lambda shards, learners: {"steps": np.array(len(shards[0]))})
    assert learned["steps"] == evaluation.steps.sum()


def test_actions_are_those_of_the_policy_at_the_observation_it_saw() -> None:
    task = small_task("walker2d_uni", worlds=3, normalize=True)
    found, genomes = transitions_of(evaluate(task)), first_genomes(task, ROWS, 3.0)
    for row in range(ROWS):
        mine = found.row == row
        population = task.policy.population(1)
        population.load([0], genomes[row : row + 1])
        expected = [population.act(observation[None])[0].clone() for observation in found.observation[mine]]
        assert torch.equal(found.action[mine], torch.stack(expected))


def test_the_last_observation_is_normalised_like_the_others() -> None:
    task = small_task("point_omni", worlds=2, normalize=True)
    found = transitions_of(evaluate(task))
    assert task.normalizer is not None
    mean, var = task.normalizer.snapshots[0]
    worlds: Any = task.make_worlds(1)
    worlds.reset([0], [100])
    for action in found.action[found.row == 0]:
        worlds.step(action[None])
    last = worlds.observe(torch.tensor([LENGTHS["point_omni"]]))
    normalize_(last, torch.from_numpy(mean).float(), deviation_of(var, 0.01), 10.0)
    assert torch.equal(found.next_observation[found.row == 0][-1], last[0])


def test_a_failed_row_leaves_no_transitions() -> None:
    task = small_task("hopper_uni", worlds=3)
    genomes = first_genomes(task, ROWS, 3.0)
    genomes[4] = torch.nan
    evaluation = task.evaluate(replace(candidates(genomes), wants_transitions=True))
    found = transitions_of(evaluation)
    assert 4 not in found.row
    assert len(found) == evaluation.steps[~evaluation.failed].sum()
    assert all(torch.isfinite(tensor).all() for tensor in vars(found).values())


def test_transitions_are_those_of_plain_gymnasium() -> None:
    task = gym_task("Pendulum-v1", worlds=2)
    found = transitions_of(task.evaluate(replace(candidates(first_genomes(task, 3)), wants_transitions=True)))
    with gymnasium.make("Pendulum-v1") as plain:
        for row in range(3):
            mine = found.row == row
            observation, _ = plain.reset(seed=row)
            for index in torch.nonzero(mine)[:, 0].tolist():
                np.testing.assert_array_equal(found.observation[index].numpy(), observation)
                observation, reward, terminated, truncated, _ = plain.step(2 * found.action[index].numpy())
                np.testing.assert_array_equal(found.next_observation[index].numpy(), observation)
                assert found.reward[index].item() == np.float32(reward)
                assert (found.terminated[index].item(), found.truncated[index].item()) == (terminated, truncated)
