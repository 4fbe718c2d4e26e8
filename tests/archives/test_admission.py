"""Admission rules of novelty archives: thresholds computed by hand, probabilities from keyed random numbers."""

import math
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from qdrl.archives.admission import Adaptation, All, Probability, Rule, Threshold
from qdrl.archives.novelty import novelty
from qdrl.streams import Streams

NOTHING = np.empty((0, 1))


def on_a_line(*places: float) -> np.ndarray:
    return np.array(places)[:, None]


def admitted(
    rule: Rule, rows: np.ndarray, entries: np.ndarray = NOTHING, *, k: int = 15, broken: int = -1
) -> list[int]:
    """Return the rows that a rule admits; one row may be invalid."""
    valid = np.arange(len(rows)) != broken
    return np.flatnonzero(rule.admitted(np.where(valid[:, None], rows, math.nan), valid, entries, k)).tolist()


@pytest.mark.parametrize("rule", [All(), Probability(1.0, Streams(0)), Threshold(0.0)])
def test_an_invalid_row_is_never_admitted(rule: Rule) -> None:
    assert admitted(rule, on_a_line(1, 2, 4, 8), broken=2) == [0, 1, 3]


# Probability


def test_each_row_is_admitted_with_the_same_probability() -> None:
    rule, entered = Probability(0.2, Streams(3)), np.zeros(50)
    for _ in range(400):
        rows = admitted(rule, np.zeros((50, 1)))
        entered[rows] += 1
        rule.count(len(rows))
    assert abs(entered.mean() - 80) < 4 * math.sqrt(400 * 0.2 * 0.8 / 50)
    assert np.abs(entered - 80).max() < 4 * math.sqrt(400 * 0.2 * 0.8)


def test_admission_by_probability_depends_only_on_seed_batch_and_row() -> None:
    rule, same, other = (Probability(0.3, Streams(seed)) for seed in (1, 1, 2))
    first = admitted(rule, np.zeros((100, 1)))
    assert admitted(rule, np.zeros((100, 1))) == first  # the same until `count`, as when a generation is repeated
    assert admitted(same, np.ones((40, 1)), on_a_line(5), broken=first[0]) == [row for row in first[1:] if row < 40]
    assert admitted(other, np.zeros((100, 1))) != first
    rule.count(0)
    assert admitted(rule, np.zeros((100, 1))) != first


@pytest.mark.parametrize("probability", [0.0, -0.1, 1.1, math.nan])
def test_a_probability_outside_0_to_1_is_an_error(probability: float) -> None:
    with pytest.raises(ValueError, match="probability must be above 0 and at most 1"):
        Probability(probability, Streams(0))


# Threshold


def test_a_row_is_admitted_if_its_novelty_to_entries_and_earlier_rows_exceeds_the_threshold() -> None:
    rows = on_a_line(0.5, 2.0, 2.5, 4.0, 1.0, 2.0)
    # 0.5 from 0; 2 from 0; 0.5 from row 1; 2 from row 1; 1 from 0, which is not above 1; row 1 again
    assert admitted(Threshold(1.0), rows, on_a_line(0), k=1) == [1, 3]


def test_the_first_row_of_an_empty_archive_is_admitted() -> None:
    assert admitted(Threshold(1e9), on_a_line(3, 4)) == [0]


def test_the_threshold_uses_k_neighbours_or_all_if_there_are_fewer() -> None:
    entries = on_a_line(0, 10)
    # Row 0 has distances 4 and 6 to the entries: mean 5. Row 1 equals row 0, which is an entry now: 0 and 4, mean 2.
    assert admitted(Threshold(4.9), on_a_line(4, 4), entries, k=2) == [0]
    assert admitted(Threshold(5.0), on_a_line(4, 4), entries, k=2) == []
    assert admitted(Threshold(4.9), on_a_line(4), entries, k=15) == [0]
    assert admitted(Threshold(4.9, neighbours=1), on_a_line(4), entries, k=15) == []


@given(st.integers(0, 2**32), st.integers(1, 3), st.integers(1, 20), st.floats(0, 2))
def test_a_batch_is_admitted_like_its_rows_one_by_one(seed: int, axes: int, k: int, threshold: float) -> None:
    draw = np.random.default_rng(seed)
    entries, rows = draw.normal(size=(draw.integers(0, 30), axes)), np.round(draw.normal(size=(40, axes)), 1)
    known, expected = entries, []
    for row in range(40):
        if novelty(rows[row : row + 1], known, k)[0] > threshold:
            expected.append(row)
            known = np.concatenate([known, rows[row : row + 1]])
    assert admitted(Threshold(threshold), rows, entries, k=k) == expected


def test_many_admissions_raise_the_threshold_and_batches_without_any_lower_it() -> None:
    rule = Threshold(6.0, adaptation=Adaptation())
    for entered, expected in [(4, 6.0), (5, 6 * 1.2), (1, 6 * 1.2)]:
        rule.count(entered)
        assert rule.threshold == expected
    for _ in range(9):
        rule.count(0)
    assert rule.threshold == 6 * 1.2
    rule.count(0)
    assert rule.threshold == 6 * 1.2 * 0.95
    for entered in (0, 0, 1, *[0] * 9):  # an admitted row resets the count of empty batches
        rule.count(entered)
    assert rule.threshold == 6 * 1.2 * 0.95
    rule.count(0)
    assert rule.threshold == 6 * 1.2 * 0.95 * 0.95


def test_the_threshold_is_not_lowered_below_its_floor_nor_raised_to_it() -> None:
    adaptation = Adaptation(lower_after=1, lower_factor=0.5, floor=0.25)
    for threshold, expected in ((0.4, 0.25), (0.25, 0.25), (0.1, 0.1)):
        rule = Threshold(threshold, adaptation=adaptation)
        rule.count(0)
        assert rule.threshold == expected


def test_a_threshold_without_adaptation_stays_constant() -> None:
    rule = Threshold(6.0)
    for entered in (100, *[0] * 50):
        rule.count(entered)
    assert rule.threshold == 6.0


# State


@pytest.mark.parametrize(
    "make",
    [
        All,
        lambda: Probability(0.5, Streams(4)),
        lambda: Threshold(1.0, adaptation=replace(Adaptation(), lower_after=3)),
    ],
)
def test_a_restored_rule_admits_the_same_rows_as_the_saved_one(make) -> None:
    rule, restored = make(), make()
    for entered in (9, 0, 0):
        rule.count(entered)
    restored.load_state_dict(rule.state_dict())
    for entered in (0, 0, 0, 7):
        rows = np.random.default_rng(entered).normal(size=(30, 1))
        assert admitted(rule, rows) == admitted(restored, rows)
        rule.count(entered)
        restored.count(entered)
    assert rule.state_dict() == restored.state_dict()
