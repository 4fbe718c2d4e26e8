"""Voronoi cells and the placement of their centroids, with numpy, scipy and scikit-learn as oracles."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.spatial import KDTree
from sklearn.cluster import KMeans

from qdrl.archives import cvt
from qdrl.archives.cvt import CentroidalVoronoi, place_centroids
from qdrl.errors import UserError


def unit_cells(centroids: np.ndarray) -> CentroidalVoronoi:
    dimensions = centroids.shape[1]
    return CentroidalVoronoi(centroids, [0.0] * dimensions, [1.0] * dimensions)


def quantisation_error(points: np.ndarray, centroids: np.ndarray) -> float:
    """Return the mean squared distance of the points to their nearest centroid."""
    return float(np.mean(KDTree(centroids).query(points)[0] ** 2))


@given(st.integers(0, 2**32), st.integers(1, 6), st.integers(1, 300), st.integers(1, 700))
def test_a_descriptor_is_in_the_cell_of_its_nearest_centroid(seed: int, dimensions: int, cells: int, rows: int):
    draw = np.random.default_rng(seed)
    centroids, descriptor = draw.random((cells, dimensions)), draw.uniform(-1, 2, (rows, dimensions))
    got = unit_cells(centroids).cell_of(torch.from_numpy(descriptor))
    assert got.dtype == torch.int64
    assert got.tolist() == KDTree(centroids).query(descriptor)[1].tolist()


def test_a_descriptor_equally_near_to_two_centroids_is_in_the_lower_cell():
    cells = unit_cells(np.array([[0.75, 0.5], [0.25, 0.5], [0.25, 0.5], [0.5, 0.0]]))
    ties = torch.tensor([[0.5, 0.5], [0.25, 0.5], [0.0, 0.5]], dtype=torch.float64)
    assert cells.cell_of(ties).tolist() == [0, 1, 1]


@given(st.integers(0, 2**32), st.integers(0, 999))
def test_the_cell_of_a_row_does_not_depend_on_other_rows(seed: int, row: int):
    draw = np.random.default_rng(seed)
    centroids = np.round(draw.random((700, 2)), 1)  # many exact ties
    descriptor = torch.from_numpy(np.round(draw.random((1000, 2)), 2))
    cells = unit_cells(centroids)
    assert cells.cell_of(descriptor)[row] == cells.cell_of(descriptor[row : row + 1])[0]


def test_cells_of_no_rows_are_empty():
    assert unit_cells(np.ones((3, 2))).cell_of(torch.zeros(0, 2, dtype=torch.float64)).shape == (0,)


@pytest.mark.parametrize(("dimensions", "cells"), [(1, 20), (2, 200), (3, 150), (5, 30)])
def test_placed_centroids_are_deterministic_distinct_and_inside_the_bounds(dimensions: int, cells: int):
    lower, upper = -np.arange(1.0, dimensions + 1), np.arange(dimensions) * 10.0 + 1

    def placed(seed: int) -> np.ndarray:
        generator = np.random.default_rng(seed)
        return place_centroids(generator, cells, lower.tolist(), upper.tolist(), samples=3000)

    centroids = placed(0)
    assert centroids.shape == (cells, dimensions)
    assert centroids.dtype == np.float64
    assert (centroids > lower).all()
    assert (centroids < upper).all()
    assert len(np.unique(centroids, axis=0)) == cells
    assert np.array_equal(centroids, placed(0))
    assert not np.array_equal(centroids, placed(1))


def test_placed_centroids_scale_with_the_units_of_the_axes():
    unit = place_centroids(np.random.default_rng(3), 50, [0, 0], [1, 1], samples=2000)
    scaled = place_centroids(np.random.default_rng(3), 50, [-1, 10], [1, 1010], samples=2000)
    assert np.allclose(scaled, [-1, 10] + unit * [2, 1000], rtol=1e-14)


@pytest.mark.parametrize("dimensions", [2, 3])
@pytest.mark.parametrize("iterations", [1, 5, 40])
def test_iterations_equal_lloyds_algorithm(dimensions: int, iterations: int):
    # 300 cells are enough for the shortcut by the triangle inequality, which must not change the result.
    def placed(iterations: int) -> np.ndarray:
        generator = np.random.default_rng(5)
        box = [0.0] * dimensions, [1.0] * dimensions
        return place_centroids(generator, 300, *box, samples=5000, iterations=iterations, tolerance=0)

    points = np.random.default_rng(5).random((5000, dimensions))  # the first draw of the generator
    expected = placed(0)
    assert np.isin(expected, points).all()  # k-means++ chooses samples
    for _ in range(iterations):
        nearest = KDTree(expected).query(points)[1]
        expected = np.stack([points[nearest == cell].mean(axis=0) for cell in range(300)])
    assert np.allclose(placed(iterations), expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize(("dimensions", "cells"), [(2, 256), (2, 37), (4, 256)])
def test_the_quantisation_error_is_close_to_that_of_scikit_learn(dimensions: int, cells: int):
    samples = np.random.default_rng(1).random((10_000, dimensions))  # the same as drawn by place_centroids
    box = [0.0] * dimensions, [1.0] * dimensions
    ours = place_centroids(np.random.default_rng(1), cells, *box, samples=10_000)
    theirs = KMeans(cells, n_init="auto", random_state=0, max_iter=100).fit(samples).cluster_centers_
    assert quantisation_error(samples, ours) < 1.02 * quantisation_error(samples, theirs)


def test_a_cell_without_samples_keeps_its_centroid():
    # With one cell per sample, the first iteration moves no centroid.
    centroids = place_centroids(np.random.default_rng(0), 64, [0], [1], samples=64)
    assert np.allclose(np.sort(centroids[:, 0]), np.sort(np.random.default_rng(0).random(64)), atol=1e-15)


@pytest.mark.parametrize("cells", [0, -1, 101])
def test_a_number_of_cells_outside_1_to_samples_is_an_error(cells: int):
    with pytest.raises(UserError, match=f"cells must be between 1 and the 100 samples, got {cells}"):
        place_centroids(np.random.default_rng(0), cells, [0], [1], samples=100)


@pytest.mark.parametrize("centroids", [np.zeros(3), np.zeros((3, 1)), np.zeros((0, 2)), np.full((3, 2), np.nan)])
def test_centroids_of_a_wrong_shape_or_not_finite_are_an_error(centroids: np.ndarray):
    with pytest.raises(UserError, match=r"centroids must be finite and of shape \(cells, 2\)"):
        CentroidalVoronoi(centroids, [0, 0], [1, 1])


def test_the_cell_of_a_descriptor_does_not_depend_on_the_units_of_the_axes():
    draw = np.random.default_rng(3)
    centroids, descriptor = draw.random((50, 2)), draw.random((2000, 2))
    stretch = np.array([8.0, 0.25])
    plain = CentroidalVoronoi(centroids, [0, 0], [1, 1]).cell_of(torch.from_numpy(descriptor))
    stretched = CentroidalVoronoi(centroids * stretch, [0, 0], stretch.tolist())
    assert torch.equal(stretched.cell_of(torch.from_numpy(descriptor * stretch)), plain)


def test_brute_force_is_used_if_neighbourhoods_would_cover_most_cells(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def refuse(*_: object) -> None:
        raise AssertionError("brute force is faster here")

    monkeypatch.setattr(cvt, "_neighbourhoods", refuse)
    for axes, cells in ((8, 1100), (4, 200), (6, 500)):
        place_centroids(np.random.default_rng(0), cells, [0] * axes, [1] * axes, samples=1200, iterations=1)


def test_the_search_in_neighbourhoods_equals_brute_force_and_uses_small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    sizes, squared_distance = [], cvt._squared_distance

    def spy(points: torch.Tensor, others: torch.Tensor) -> torch.Tensor:
        if others.ndim == 3:
            sizes.append(others.numel())
        return squared_distance(points, others)

    monkeypatch.setattr(cvt, "_squared_distance", spy)
    for axes, cells in ((2, 300), (4, 256), (5, 600)):
        draw = np.random.default_rng(axes)
        points = torch.from_numpy(draw.random((3000, axes)).round(2))  # rounded: ties
        centroids = points[draw.choice(3000, cells, replace=False)].clone()
        guess = cvt._nearest(points, centroids)
        moved = (centroids + 0.01 * torch.from_numpy(draw.standard_normal((cells, axes)))).round(decimals=2)
        assert torch.equal(cvt._nearest_from(guess, points, moved), cvt._nearest(points, moved))
    assert 0 < max(sizes) <= cvt.BLOCK_DISTANCES
