"""Novelty compared with brute force in Python and with scikit-learn, on data with many duplicates and ties."""

import math
from functools import reduce
from operator import add

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.neighbors import NearestNeighbors

from qdrl.archives.novelty import novelty

COORDINATES = {
    "coarse lattice": st.integers(-2, 2).map(lambda n: n / 7),
    "fine lattice": st.integers(0, 300).map(lambda n: n * 0.1),
    "anywhere": st.floats(-1e6, 1e6),
    "all magnitudes": st.floats(-1e200, 1e200),
}


@st.composite
def questions(draw: st.DrawFn) -> tuple[np.ndarray, np.ndarray, int, np.ndarray]:
    """Draw rows, references, k, and the index of each row among the references, -1 for none."""
    number, axes = draw(st.sampled_from(sorted(COORDINATES))), draw(st.integers(1, 5))
    point = st.lists(COORDINATES[number], min_size=axes, max_size=axes)
    references = np.array(draw(st.lists(point, max_size=30))).reshape(-1, axes)
    rows = np.array(draw(st.lists(point, max_size=8))).reshape(-1, axes)
    own = np.array(draw(st.lists(st.integers(-1, len(references) - 1), min_size=len(rows), max_size=len(rows))), int)
    rows[own >= 0] = references[own[own >= 0]]
    return rows, references, draw(st.integers(1, 12)), own


def by_hand(rows: np.ndarray, references: np.ndarray, k: int, own: np.ndarray) -> list[float]:
    """Return novelty by its definition, in Python floats."""
    found = []
    for row, place in zip(rows.tolist(), own.tolist(), strict=True):
        others = [other for index, other in enumerate(references.tolist()) if index != place]
        squares = [reduce(add, [(a - b) * (a - b) for a, b in zip(row, other, strict=True)]) for other in others]
        nearest = sorted(map(math.sqrt, squares))[:k]
        found.append(reduce(add, nearest) / len(nearest) if nearest else math.inf)
    return found


@pytest.fixture(params=["by force", "by tree"])
def engine(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Use brute force or the tree for all sizes."""
    monkeypatch.setattr("qdrl.archives.novelty._TREE_REFERENCES", 1 if request.param == "by tree" else 10**9)
    monkeypatch.setattr("qdrl.archives.novelty._TREE_ROWS", 1)


@pytest.mark.usefixtures("engine")
@given(questions())
def test_novelty_equals_the_mean_distance_to_the_k_nearest_neighbours_bitwise(question: tuple) -> None:
    rows, references, k, own = question
    assert novelty(rows, references, k, own=own).tolist() == by_hand(rows, references, k, own)


@pytest.mark.usefixtures("engine")
@settings(max_examples=15)
@given(st.integers(0, 2**32), st.integers(1, 5), st.integers(1, 40), st.sampled_from([2, 10, 10**9]))
def test_novelty_of_many_rows_agrees_with_scikit_learn(seed: int, axes: int, k: int, levels: int) -> None:
    draw = np.random.default_rng(seed)
    references, rows = (draw.integers(0, levels, (count, axes)) / levels for count in (300, 40))
    oracle, _ = NearestNeighbors(n_neighbors=k, algorithm="brute").fit(references).kneighbors(rows)
    np.testing.assert_allclose(novelty(rows, references, k), oracle.mean(axis=1), rtol=1e-6, atol=1e-7)
    among_themselves, _ = NearestNeighbors(n_neighbors=k).fit(references).kneighbors()  # excludes each point itself
    found = novelty(references, references, k, own=np.arange(300))
    np.testing.assert_allclose(found, among_themselves.mean(axis=1), rtol=1e-6, atol=1e-7)


@given(st.integers(0, 2**32), st.integers(1, 3), st.data())
def test_the_novelty_of_a_row_does_not_depend_on_other_rows_or_the_order_of_references(
    seed: int, axes: int, data: st.DataObject
) -> None:
    draw = np.random.default_rng(seed)
    references, rows = draw.normal(size=(600, axes)), draw.normal(size=(50, axes))  # enough rows for the tree
    whole = novelty(rows, references, 15)
    some = data.draw(st.lists(st.integers(0, 49), max_size=40))
    assert novelty(rows[some], references, 15).tolist() == whole[some].tolist()
    assert novelty(rows, references[draw.permutation(600)], 15).tolist() == whole.tolist()


@pytest.mark.usefixtures("engine")
def test_ties_within_rounding_are_decided_by_exact_distances_not_by_the_tree() -> None:
    draw = np.random.default_rng(50)  # SciPy sums eight squares in another order and returns the wrong neighbour
    references, rows = draw.integers(0, 6, (60, 8)) * 0.1, draw.integers(0, 6, (5, 8)) * 0.1
    assert novelty(rows, references, 1).tolist() == by_hand(rows, references, 1, np.full(5, -1))


def test_a_row_is_not_its_own_neighbour_but_an_equal_reference_is() -> None:
    references = np.array([[0.0], [0.0], [3.0], [7.0]])
    assert novelty([[0.0]], references, 2, own=[0]).tolist() == [1.5]  # the equal reference at 0, and 3
    assert novelty([[0.0]], references, 2, own=[-1]).tolist() == [0.0]
    assert novelty([[0.0]], references, 2).tolist() == [0.0]
    assert novelty(references, references, 1, own=np.arange(4)).tolist() == [0, 0, 3, 4]


@pytest.mark.usefixtures("engine")
def test_novelty_is_zero_among_more_than_k_equal_references() -> None:
    references = np.repeat([[0.1, 0.7], [5.0, 5.0]], 40, axis=0)
    assert novelty(references, references, 15, own=np.arange(80)).tolist() == [0.0] * 80


@pytest.mark.usefixtures("engine")
def test_fewer_than_k_neighbours_are_all_used_and_without_any_novelty_is_infinite() -> None:
    references = np.array([[1.0], [2.0]])
    assert novelty([[0.0]], references, 15).tolist() == [1.5]
    assert novelty(references, references, 15, own=[0, 1]).tolist() == [1.0, 1.0]
    assert novelty([[0.0]], references[:1], 15, own=[0]).tolist() == [math.inf]
    assert novelty([[0.0], [4.0]], references[:1], 15, own=[0, -1]).tolist() == [math.inf, 3.0]
    assert novelty([[0.0]], references[:0], 15).tolist() == [math.inf]
    assert novelty(references[:0], references, 15).tolist() == []


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"descriptors": [[math.nan, 0.0]]}, "descriptors: row 0 is not finite"),
        ({"references": [[0.0, 0.0], [0.0, math.inf]]}, "references: row 1 is not finite"),
        ({"descriptors": [[1.0]]}, r"descriptors \(rows, d\) and references \(n, d\), got \(1, 1\) and \(1, 2\)"),
        ({"descriptors": [1.0, 2.0]}, r"got \(2,\) and \(1, 2\)"),
        ({"k": 0}, "k must be at least 1, got 0"),
        ({"own": [0, 0]}, r"own must be \(1,\) integers, got \(2,\)"),
        ({"own": [0.0]}, r"own must be \(1,\) integers, got \(1,\) float64"),
        ({"own": [1]}, r"own must lie within -1\.\.0, got 1 to 1"),
        ({"own": [-2]}, r"own must lie within -1\.\.0, got -2"),
    ],
)
def test_invalid_arguments_of_novelty_are_errors_of_one_line(change: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message) as refusal:
        novelty(**{"descriptors": [[0.0, 0.0]], "references": [[1.0, 1.0]], "k": 3} | change)
    assert "\n" not in str(refusal.value)


def test_squared_distances_are_averaged_by_hand() -> None:
    references = [[1.0, 0.0], [0.0, 3.0], [9.0, 9.0]]
    assert novelty([[0.0, 0.0]], references, 2).tolist() == [(1 + 3) / 2]
    assert novelty([[0.0, 0.0]], references, 2, squared=True).tolist() == [(1 + 9) / 2]
    assert novelty([[1.0, 0.0]], references, 1, own=np.array([0]), squared=True).tolist() == [1 + 9]
