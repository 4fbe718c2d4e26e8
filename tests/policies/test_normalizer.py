"""The observation normaliser compared with numpy over all observations at once."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from qdrl.evaluation import ObservationMoments
from qdrl.policies.normalizer import ObservationNormalizer, deviation_of, normalize_

SIZE = 3


def seen(lengths: list[int], seed: int = 0) -> list[np.ndarray]:
    """Return the observations of some episodes, `(length, SIZE)` each, of very different scales."""
    draw = np.random.default_rng(seed)
    return [draw.normal([0, 100, -1e-3], [1, 5, 1e-4], (length, SIZE)) for length in lengths]


def moments(episodes: list[np.ndarray]) -> ObservationMoments:
    means = [episode.mean(0) if len(episode) else np.zeros(SIZE) for episode in episodes]
    spreads = [((e - mean) ** 2).sum(0) for e, mean in zip(episodes, means, strict=True)]
    return ObservationMoments(
        torch.tensor([len(episode) for episode in episodes]),
        torch.from_numpy(np.array(means).reshape(-1, SIZE)),
        torch.from_numpy(np.array(spreads).reshape(-1, SIZE)),
    )


def absorb(normalizer: ObservationNormalizer, episodes: list[np.ndarray]) -> None:
    normalizer.update(moments(episodes), torch.ones(len(episodes), dtype=torch.bool))


def after(*generations: list[np.ndarray]) -> ObservationNormalizer:
    normalizer = ObservationNormalizer(SIZE)
    for episodes in generations:
        absorb(normalizer, episodes)
    return normalizer


def assert_same(ours: ObservationNormalizer, theirs: ObservationNormalizer) -> None:
    assert ours.count == theirs.count
    np.testing.assert_array_equal(ours.mean, theirs.mean)
    np.testing.assert_array_equal(ours.var, theirs.var)


def test_without_statistics_observations_are_unchanged() -> None:
    mean, var = ObservationNormalizer(SIZE).snapshot(0)
    observations = torch.tensor([[1.5, -2.0, 9.0]])
    same = normalize_(observations.clone(), torch.from_numpy(mean).float(), deviation_of(var, 0.01), 10.0)
    assert torch.equal(same, observations)


lengths = st.lists(st.integers(0, 30), min_size=1, max_size=12).filter(any)


@given(lengths)
def test_combined_moments_are_numpys_over_all_observations(lengths: list[int]) -> None:
    episodes = seen(lengths)
    normalizer, everything = after(episodes), np.concatenate(episodes)
    assert normalizer.count == len(everything)
    np.testing.assert_allclose(normalizer.mean, everything.mean(0), rtol=1e-12, atol=1e-13)
    np.testing.assert_allclose(normalizer.var, everything.var(0), rtol=1e-9, atol=1e-15)


@given(lengths, st.data())
def test_rows_absorbed_in_parts_give_the_same_bits_as_all_at_once(lengths: list[int], data: st.DataObject) -> None:
    episodes = seen(lengths)
    cut = data.draw(st.integers(0, len(episodes)))
    assert_same(after(episodes[:cut], episodes[cut:]), after(episodes))


def test_rows_that_failed_are_left_out() -> None:
    good, broken = seen([4, 6]), np.full((3, SIZE), np.nan)
    normalizer = ObservationNormalizer(SIZE)
    normalizer.update(moments([good[0], broken, good[1]]), torch.tensor([True, False, True]))
    assert_same(normalizer, after(good))


def test_a_snapshot_does_not_change_with_later_statistics() -> None:
    normalizer = after(seen([5, 7]))
    mean, var = (part.copy() for part in normalizer.snapshot(4))
    absorb(normalizer, seen([11], seed=1))
    for kept, first in zip(normalizer.snapshot(4), (mean, var), strict=True):
        np.testing.assert_array_equal(kept, first)
    assert not np.array_equal(normalizer.snapshot(5)[0], mean)


def test_the_state_keeps_the_requested_generations_and_continues_with_the_same_bits() -> None:
    normalizer = ObservationNormalizer(SIZE)
    for generation in range(4):
        normalizer.snapshot(generation)
        absorb(normalizer, seen([3, 8], seed=generation))
    state = normalizer.state_dict([2, 0, 2, 99])
    assert state["at.generation"].tolist() == [0, 2]
    restored = ObservationNormalizer(SIZE)
    restored.load_state_dict(state)
    for each in (normalizer, restored):
        absorb(each, seen([6, 1], seed=9))
    assert_same(restored, normalizer)
    assert set(restored.snapshots) == {0, 2}
    for kept, first in zip(restored.snapshot(2), normalizer.snapshot(2), strict=True):
        np.testing.assert_array_equal(kept, first)


def test_a_saved_state_does_not_change_with_later_observations() -> None:
    normalizer = after(seen([5]))
    state = normalizer.state_dict([])
    mean = state["mean"].copy()
    absorb(normalizer, seen([5], seed=1))
    np.testing.assert_array_equal(state["mean"], mean)
    assert state["at.mean"].shape == (0, SIZE)


@pytest.mark.parametrize(("clip", "high", "low"), [(10.0, 10.0, -10.0), (5.0, 5.0, -5.0), (np.inf, 499.5, -250.25)])
def test_normalised_observations_are_clipped(clip: float, high: float, low: float) -> None:
    observations = torch.tensor([[1.0, 5.0], [1000.0, -1000.0]])
    out = normalize_(observations, torch.tensor([1.0, 1.0]), deviation_of(np.array([4.0, 16.0]), 0.01), clip)
    assert out is observations
    assert out.tolist() == [[0.0, 1.0], [high, low]]


@pytest.mark.parametrize("floor", [0.01, 0.1])
def test_a_deviation_below_the_floor_counts_as_the_floor(floor: float) -> None:
    deviations = deviation_of(np.array([0.0, 1e-12, 0.99 * floor**2, 4.0]), floor)
    np.testing.assert_array_equal(deviations, np.array([floor, floor, floor, 2.0], np.float32))


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("mean", np.zeros(SIZE + 1)),
        ("deviation", np.full(SIZE, np.nan)),
        ("at.mean", np.zeros((2, SIZE))),
        ("at.var", np.zeros((1, SIZE + 1))),
        ("count", -1),
    ],
)
def test_a_state_of_other_observations_is_refused_and_changes_nothing(name: str, value: object) -> None:
    normalizer = ObservationNormalizer(SIZE)
    normalizer.snapshot(0)
    state = normalizer.state_dict([0])
    with pytest.raises(ValueError, match=name):
        normalizer.load_state_dict(state | {name: value})  # pyright: ignore[reportArgumentType]
    assert np.array_equal(normalizer.mean, np.zeros(SIZE))
