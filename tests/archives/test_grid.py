"""Grid cells, with pyribs as the oracle."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from ribs.archives import GridArchive

from qdrl.archives.grid import Grid
from qdrl.errors import UserError


@st.composite
def grids(draw: st.DrawFn) -> Grid:
    dimensions = draw(st.integers(1, 4))
    shape = draw(st.lists(st.integers(1, 13), min_size=dimensions, max_size=dimensions))
    lower = draw(st.lists(st.floats(-100, 100), min_size=dimensions, max_size=dimensions))
    width = draw(st.lists(st.floats(0.01, 100), min_size=dimensions, max_size=dimensions))
    return Grid(lower, [low + w for low, w in zip(lower, width, strict=True)], shape)


@st.composite
def grids_and_descriptors(draw: st.DrawFn) -> tuple[Grid, np.ndarray]:
    """Return descriptors on borders, next to borders, inside and far outside."""
    grid = draw(grids())
    axes = []
    for low, high, count in zip(grid.lower, grid.upper, grid.shape, strict=True):
        border = st.integers(-1, count + 1).map(lambda k, low=low, w=high - low, n=count: low + k * w / n)
        beside = border.flatmap(lambda b: st.sampled_from([math.nextafter(b, -math.inf), math.nextafter(b, math.inf)]))
        axes.append(border | beside | st.floats(low, high) | st.floats(-1e4, 1e4))
    return grid, np.array(draw(st.lists(st.tuples(*axes), min_size=1, max_size=30)))


def cells_of_pyribs(grid: Grid, descriptor: np.ndarray) -> np.ndarray:
    ranges = list(zip(grid.lower.tolist(), grid.upper.tolist(), strict=True))
    return GridArchive(solution_dim=1, dims=grid.shape, ranges=ranges).index_of(descriptor)


@given(grids_and_descriptors())
def test_the_cell_of_a_descriptor_is_that_of_pyribs(case: tuple[Grid, np.ndarray]):
    grid, descriptor = case
    got = grid.cell_of(torch.from_numpy(descriptor))
    assert got.dtype == torch.int64
    assert got.tolist() == cells_of_pyribs(grid, descriptor).tolist()


def test_a_descriptor_just_below_a_border_by_rounding_is_in_the_upper_cell():
    grid = Grid([0], [1], [10])
    assert grid.cell_of(torch.tensor([[0.1 + 0.2], [0.3], [0.3 - 1e-9], [0.29]], dtype=torch.float64)).tolist() == [
        3,
        3,
        3,
        2,
    ]


def test_a_descriptor_outside_the_bounds_is_in_the_nearest_edge_cell():
    grid = Grid([0, -1], [1, 1], [4, 3])
    far = torch.tensor([[-1e300, 0.0], [1e300, 1e300], [0.5, -9.0], [1.0, 1.0]], dtype=torch.float64)
    assert grid.cell_of(far).tolist() == [1, 11, 6, 11]


@given(grids())
def test_the_centre_of_every_cell_is_in_it_and_cells_are_numbered_row_major(grid: Grid):
    centres = torch.from_numpy(grid.centroids)
    assert centres.shape == (grid.cells, len(grid.shape)) == (math.prod(grid.shape), len(grid.shape))
    assert grid.cell_of(centres).tolist() == list(range(grid.cells))
    last_axis_first_row = centres[: grid.shape[-1], -1]
    assert (last_axis_first_row.diff() > 0).all()


@given(grids_and_descriptors(), st.integers(0, 29))
def test_the_cell_of_a_row_does_not_depend_on_other_rows_and_descriptors_are_unchanged(
    case: tuple[Grid, np.ndarray], row: int
):
    grid, descriptor = case
    tensor = torch.from_numpy(descriptor.copy())
    row %= len(tensor)
    assert grid.cell_of(tensor)[row] == grid.cell_of(tensor[row : row + 1])[0]
    assert np.array_equal(tensor.numpy(), descriptor)


def test_cells_of_no_rows_are_empty():
    assert Grid([0, 0], [1, 1], [2, 2]).cell_of(torch.zeros(0, 2, dtype=torch.float64)).shape == (0,)


@pytest.mark.parametrize(
    ("lower", "upper", "shape", "message"),
    [
        ([0, 0], [1], [2, 2], "bounds need the same number of axes"),
        ([], [], [], "bounds need the same number of axes"),
        ([0, 2], [1, 2], [2, 2], "axis 1: lower bound 2 must be finite and below upper bound 2"),
        ([0], [math.inf], [2], "axis 0"),
        ([math.nan], [1], [2], "axis 0"),
        ([0, 0], [1, 1], [2], "a grid over 2 axes needs 2 positive cell counts"),
        ([0, 0], [1, 1], [2, 0], "a grid over 2 axes needs 2 positive cell counts"),
    ],
)
def test_invalid_grids_are_errors_that_name_the_fault(lower: list, upper: list, shape: list, message: str):
    with pytest.raises(UserError, match=message):
        Grid(lower, upper, shape)
