"""The replay buffer compared with a plain list of the newest transitions."""

from collections import deque
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from qdrl.critics.replay_buffer import COLUMNS, IndexedRows, LabelledTransitions, ReplayBuffer, SampledTransitions
from tests.critics.builders import buffer_of, transitions


def numbered(first: int, count: int) -> SampledTransitions:
    """Return transitions in which all numbers are different."""
    number = torch.arange(first, first + count, dtype=torch.float32)
    return SampledTransitions(
        observation=number[:, None] + torch.tensor([0.0, 0.25, 0.5]),
        action=-number[:, None] + torch.tensor([0.0, 0.25]),
        reward=number,
        next_observation=number[:, None] + torch.tensor([1.0, 1.25, 1.5]),
        terminated=number % 2 == 0,
        truncated=number % 3 == 0,
        descriptor=number[:, None] + 0.125,
        target_descriptor=number[:, None] + 0.375,
    )


def part(whole: SampledTransitions, start: int, end: int) -> SampledTransitions:
    return SampledTransitions(**{name: getattr(whole, name)[start:end] for name in COLUMNS})


def oldest_first(buffer: ReplayBuffer) -> SampledTransitions:
    return buffer.gather(torch.arange(len(buffer)))


def assert_same(ours: SampledTransitions, theirs: SampledTransitions) -> None:
    for name in COLUMNS:
        assert torch.equal(getattr(ours, name), getattr(theirs, name).float()), name


@given(st.integers(1, 9), st.lists(st.integers(0, 25), max_size=8))
def test_the_buffer_stores_the_newest_transitions_in_order(capacity: int, inserts: list[int]) -> None:
    buffer, expected, first = ReplayBuffer(capacity, 3, 2, 1), deque(maxlen=capacity), 0
    for count in inserts:
        buffer.add(numbered(first, count))
        expected.extend(range(first, first + count))
        first += count
    assert len(buffer) == len(expected)
    assert_same(oldest_first(buffer), numbered(first - len(expected), len(expected)))


@given(st.integers(1, 9), st.integers(0, 30), st.data())
def test_splitting_an_insert_changes_nothing(capacity: int, count: int, data: st.DataObject) -> None:
    cut = data.draw(st.integers(0, count))
    whole, halves = ReplayBuffer(capacity, 3, 2, 1), ReplayBuffer(capacity, 3, 2, 1)
    whole.add(numbered(0, count))
    halves.add(part(numbered(0, count), 0, cut))
    halves.add(part(numbered(0, count), cut, count))
    assert_same(oldest_first(halves), oldest_first(whole))


@given(st.integers(1, 9), st.lists(st.integers(1, 5), max_size=6))
def test_indexed_observations_are_stored_like_tensors(capacity: int, lengths: list[int]) -> None:
    plain, indexed, count = ReplayBuffer(capacity, 3, 2, 1), ReplayBuffer(capacity, 3, 2, 1), sum(lengths)
    source = torch.arange(3.0 * (count + len(lengths))).reshape(-1, 3)
    index = torch.arange(count) + torch.repeat_interleave(torch.arange(len(lengths)), torch.tensor(lengths).long())
    given_ = numbered(0, count)
    plain.add(replace(given_, observation=source[index], next_observation=source[index + 1]))
    rows: Any = {"observation": IndexedRows(source, index), "next_observation": IndexedRows(source, index + 1)}
    indexed.add(LabelledTransitions(**(vars(given_) | rows)))
    assert_same(oldest_first(indexed), oldest_first(plain))


def test_more_transitions_than_a_block_are_stored_in_order() -> None:
    buffer = buffer_of(numbered(0, 10_000), capacity=9_500)
    buffer.add(numbered(10_000, 4_500))
    assert_same(oldest_first(buffer), numbered(5_000, 9_500))


def test_observations_outside_the_index_may_be_infinite() -> None:
    source = torch.zeros(5, 3)
    source[0] = torch.inf
    rows: Any = {"observation": IndexedRows(source, torch.tensor([1, 2])), "next_observation": torch.zeros(2, 3)}
    buffer = ReplayBuffer(5, 3, 2, 1)
    buffer.add(LabelledTransitions(**(vars(numbered(0, 2)) | rows)))
    assert len(buffer) == 2
    rows["observation"] = IndexedRows(source, torch.tensor([0, 1]))
    with pytest.raises(ValueError, match=r"transitions\.observation is not finite"):
        buffer.add(LabelledTransitions(**(vars(numbered(0, 2)) | rows)))


@given(st.integers(1, 9), st.integers(1, 30), st.integers(0, 12))
def test_a_restored_buffer_continues_with_the_same_samples(capacity: int, count: int, more: int) -> None:
    buffer, again = ReplayBuffer(capacity, 3, 2, 1), ReplayBuffer(capacity, 3, 2, 1)
    buffer.add(numbered(0, count))
    state = buffer.state_dict()
    assert all(isinstance(values, np.ndarray) and values.dtype == np.float32 for values in state.values())
    again.load_state_dict(state)
    for each in (buffer, again):
        each.add(numbered(count, more))
    shape = (3, min(len(buffer), 4))
    assert_same(
        again.sample(np.random.default_rng(1), shape),
        buffer.sample(np.random.default_rng(1), shape),
    )


def test_a_saved_state_does_not_change_with_the_buffer() -> None:
    buffer = buffer_of(numbered(0, 4))
    state = buffer.state_dict()
    buffer.add(numbered(4, 4))
    assert state["reward"].tolist() == [0, 1, 2, 3]


def test_a_state_fits_a_larger_buffer_but_not_a_smaller_one() -> None:
    state = buffer_of(numbered(0, 5)).state_dict()
    larger = ReplayBuffer(7, 3, 2, 1)
    larger.load_state_dict(state)
    larger.add(numbered(5, 4))
    assert oldest_first(larger).reward.tolist() == [2, 3, 4, 5, 6, 7, 8]
    with pytest.raises(ValueError, match="holds 5 transitions, this one at most 4"):
        ReplayBuffer(4, 3, 2, 1).load_state_dict(state)
    with pytest.raises(ValueError, match="replay buffer's descriptor is stored as"):
        ReplayBuffer(7, 3, 2, 2).load_state_dict(state)


def test_samples_are_whole_transitions_drawn_from_the_generator_alone() -> None:
    buffer = buffer_of(numbered(0, 50), capacity=40)
    sample = buffer.sample(np.random.default_rng(3), (6, 5))
    assert sample.observation.shape == (6, 5, 3)
    assert sample.reward.shape == (6, 5)
    ages = np.random.default_rng(3).integers(40, size=(6, 5))
    assert sample.reward.tolist() == (ages + 10).tolist()
    assert torch.equal(sample.next_observation - sample.observation, torch.ones(6, 5, 3))
    assert torch.equal(sample.target_descriptor[..., 0], sample.reward + 0.375)
    assert_same(buffer.sample(np.random.default_rng(3), (6, 5)), sample)


def test_every_transition_is_drawn_as_often_as_any_other() -> None:
    buffer = buffer_of(numbered(0, 8))
    counts = torch.bincount(buffer.draw(np.random.default_rng(0), (10_000, 8)).flatten(), minlength=8)
    assert (counts - 10_000).abs().max() < 5 * (80_000 / 8 * 7 / 8) ** 0.5
    assert len(set(counts.tolist())) > 1


def test_a_minibatch_larger_than_the_buffer_is_an_error() -> None:
    buffer = buffer_of(numbered(0, 9), capacity=20)
    with pytest.raises(RuntimeError, match="holds 9 transitions, a minibatch needs 10"):
        buffer.sample(np.random.default_rng(0), (1, 10))
    buffer.add(numbered(9, 1))
    assert buffer.sample(np.random.default_rng(0), (2, 10)).reward.shape == (2, 10)


def test_descriptors_may_have_no_dimensions() -> None:
    buffer = buffer_of(transitions(6, 3, 2, 0))
    sample = buffer.sample(np.random.default_rng(0), (2, 3))
    assert sample.descriptor.shape == sample.target_descriptor.shape == (2, 3, 0)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"action": torch.zeros(4, 3)}, r"transitions.action has shape \(4, 3\), expected \(4, 2\)"),
        ({"terminated": torch.zeros(4, 1)}, r"transitions.terminated has shape \(4, 1\), expected \(4,\)"),
        ({"observation": torch.full((4, 3), torch.nan)}, "transitions.observation is not finite"),
        ({"reward": torch.tensor([0.0, torch.inf, 1.0, 1.0])}, "transitions.reward is not finite"),
        ({"reward": torch.tensor([0.0, -0.5, 1.0, 1.0])}, r"transitions.reward has -0.5, .* add the task's offset"),
    ],
)
def test_invalid_transitions_are_refused_and_none_is_kept(change: dict, message: str) -> None:
    buffer = buffer_of(numbered(0, 3), capacity=5)
    with pytest.raises(ValueError, match=message):
        buffer.add(replace(numbered(3, 4), **change))
    assert_same(oldest_first(buffer), numbered(0, 3))


def test_unconditioned_critics_accept_negative_rewards() -> None:
    given_ = transitions(5, 3, 2, 0)
    buffer = buffer_of(replace(given_, reward=-given_.reward))
    assert torch.equal(oldest_first(buffer).reward, -given_.reward)


def test_a_buffer_without_capacity_is_refused() -> None:
    with pytest.raises(ValueError, match="at least 1, got 0"):
        ReplayBuffer(0, 3, 2)
