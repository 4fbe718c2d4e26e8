"""Labelled transitions are finite, have the descriptors of their rows and share observations."""

import pytest
import torch

from qdrl.critics.labelling import concatenate, drop_nonfinite, label
from qdrl.critics.replay_buffer import IndexedRows, LabelledTransitions
from qdrl.evaluation import Transitions
from tests.critics.builders import normal


def two_episodes() -> Transitions:
    """Return transitions of rows 4 and 6 of a generation, with 3 and 2 steps."""
    return Transitions(
        row=torch.tensor([4, 4, 4, 6, 6]),
        observations=normal(7, 2),
        index=torch.tensor([0, 1, 2, 4, 5]),
        action=normal(5, 1),
        reward=torch.tensor([1.0, -2.0, 3.0, -4.0, 5.0]),
        terminated=torch.tensor([False, False, True, False, False]),
        truncated=torch.tensor([False, False, False, False, True]),
    )


def test_finite_transitions_are_not_copied() -> None:
    transitions = two_episodes()
    assert drop_nonfinite(transitions) is transitions


@pytest.mark.parametrize(
    ("name", "position", "kept"),
    [
        ("observations", 0, [1, 2, 3, 4]),  # before the first step of an episode
        ("observations", 2, [0, 3, 4]),  # after one step and before the next
        ("observations", 3, [0, 1, 3, 4]),  # after the last step
        ("action", 3, [0, 1, 2, 4]),
        ("reward", 1, [0, 2, 3, 4]),
    ],
)
@pytest.mark.parametrize("value", [torch.nan, torch.inf])
def test_a_step_is_dropped_with_each_of_its_numbers(name: str, position: int, kept: list[int], value: float) -> None:
    transitions, reference = two_episodes(), two_episodes()
    getattr(transitions, name)[position] = value
    found = drop_nonfinite(transitions)
    for column in ("row", "action", "reward", "observation", "next_observation", "terminated", "truncated"):
        assert torch.equal(getattr(found, column), getattr(reference, column)[kept]), column


def test_finite_numbers_whose_sum_overflows_are_kept() -> None:
    transitions = two_episodes()
    transitions.observations[:] = 3e38
    assert len(drop_nonfinite(transitions)) == 5


@pytest.mark.parametrize(("offset", "reward"), [(None, [1, -2, 3, -4, 5]), (1.5, [2.5, 0, 4.5, 0, 6.5])])
def test_labels_are_those_of_each_row(offset: float | None, reward: list[float]) -> None:
    transitions, reached, target = two_episodes(), normal(8, 2, seed=1), normal(8, 2, seed=2)
    found = label(transitions, offset, reached, target)
    assert found.reward.tolist() == reward
    assert torch.equal(found.descriptor, reached[[4, 4, 4, 6, 6]])
    assert torch.equal(found.target_descriptor, target[[4, 4, 4, 6, 6]])
    assert isinstance(found.observation, IndexedRows)
    assert found.observation.source is transitions.observations
    assert torch.equal(found.observation[:], transitions.observation)
    assert torch.equal(found.next_observation[1:3], transitions.next_observation[1:3])


def test_transitions_of_one_generation_are_concatenated_without_copies_of_observations() -> None:
    transitions, descriptor = two_episodes(), normal(8, 2)

    def labelled(steps: list[int], of: Transitions = transitions) -> LabelledTransitions:
        return label(of.select(torch.tensor(steps)), None, descriptor, descriptor)

    found = concatenate(labelled([0, 1, 2]), labelled([1, 4]))
    assert found.reward.tolist() == [1, -2, 3, -2, 5]
    assert isinstance(found.observation, IndexedRows)
    assert found.observation.source is transitions.observations
    assert torch.equal(found.observation[:], transitions.observation[[0, 1, 2, 1, 4]])
    with pytest.raises(ValueError, match="only transitions of one generation can be concatenated"):
        concatenate(labelled([0]), labelled([0], two_episodes()))
