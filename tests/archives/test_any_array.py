"""Archives accept tensors, NumPy arrays and lists, and reject batches and cells that do not fit."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

from qdrl.archives.archive import Archive
from qdrl.archives.cvt import CentroidalVoronoi
from qdrl.archives.grid import Grid
from qdrl.archives.novelty_archive import NoveltyArchive

ROWS, PARAMETERS = 6, 3
AnyArchive = Archive | NoveltyArchive


def competing() -> Archive:
    return Archive(Grid([0, 0], [1, 1], (10, 10)), PARAMETERS)


def growing() -> NoveltyArchive:
    return NoveltyArchive([0, 0], [1, 1], PARAMETERS)


def read_only(array: np.ndarray) -> np.ndarray:
    array = array.copy()
    array.flags.writeable = False
    return array


FORMS: dict[str, Callable[[np.ndarray], Any]] = {
    "numpy": np.asarray,
    "read-only": read_only,
    "reversed view": lambda array: array[::-1].copy()[::-1],
    "big-endian": lambda array: array.astype(array.dtype.newbyteorder(">")),
    "lists": lambda array: array.tolist(),
    "rows in a list": list,
}
make_archive = pytest.mark.parametrize("make", [competing, growing])


def batch() -> dict[str, np.ndarray]:
    draw = np.random.default_rng(0)
    return {
        "genomes": draw.random((ROWS, PARAMETERS), np.float32),
        "fitness": draw.random(ROWS),
        "descriptor": draw.random((ROWS, 2)),
        "valid": np.arange(ROWS) != 2,
        "evaluation_seed": draw.integers(2**62, size=ROWS),
        "descriptor_std": draw.random((ROWS, 2)),
    }


def filled(make: Callable[[], AnyArchive], form: Callable[[np.ndarray], Any]) -> AnyArchive:
    archive = make()
    archive.add(**{name: form(values) for name, values in batch().items()})
    return archive


@make_archive
@pytest.mark.parametrize("form", FORMS)
def test_every_array_type_of_the_same_numbers_gives_the_same_archive(make: Callable[[], AnyArchive], form: str) -> None:
    expected, archive = filled(make, torch.from_numpy), filled(make, FORMS[form])
    for name, column in expected.state_dict().items():
        np.testing.assert_array_equal(archive.state_dict()[name], column, err_msg=name)
    cells = archive.occupied_cells.numpy()
    for wanted in (cells, cells.astype(np.int32), cells.tolist(), archive.occupied_cells):
        assert torch.equal(archive.genomes_of(wanted), expected.genomes_of(expected.occupied_cells))
        assert torch.equal(archive.descriptors_of(wanted), expected.descriptors_of(expected.occupied_cells))
    assert archive.genomes_of([]).shape == (0, PARAMETERS)


@make_archive
def test_a_function_may_return_genomes_as_a_numpy_array(make: Callable[[], AnyArchive]) -> None:
    rows = batch()
    genomes = rows["genomes"]
    archive = make()
    archive.add(lambda accepted: genomes[accepted.numpy()], rows["fitness"], rows["descriptor"])
    np.testing.assert_array_equal(np.sort(archive.state_dict()["genome"], axis=0), np.sort(genomes, axis=0))


@make_archive
@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"genomes": np.ones(3), "fitness": 1.0, "descriptor": np.ones(2), "valid": None},
            r"expected genomes \(rows, 3\), fitness \(rows,\) and descriptor \(rows, 2\), got genomes \(3,\), fitness"
            r" \(\), descriptor \(2,\); a single row is a batch of one: genome\[None\]",
        ),
        ({"genomes": [[1, 2, 3], [1, 2]]}, "genomes must be an array of numbers, got rows of different lengths"),
        ({"fitness": ["good"] * ROWS}, "fitness must be numbers, got an array of dtype <U4"),
        ({"descriptor": np.ones((ROWS, 3))}, r"descriptor \(rows, 2\), got .* descriptor \(6, 3\)"),
        ({"valid": np.ones(ROWS)}, r"valid must be \(6,\) bool, got \(6,\) torch.float64"),
        ({"generation": np.ones(2, int)}, r"generation must be one number or \(6,\) of them, got \(2,\)"),
    ],
)
def test_a_batch_of_wrong_shape_or_dtype_is_an_error_of_one_line(
    make: Callable[[], AnyArchive], change: dict[str, Any], message: str
) -> None:
    rows = {name: values for name, values in batch().items() if name not in ("evaluation_seed", "descriptor_std")}
    archive = make()
    with pytest.raises(ValueError, match=message) as refused:
        archive.add(**{**rows, **change})
    assert "\n" not in str(refused.value)
    assert len(archive) == 0


def test_the_error_for_an_empty_cell_names_the_nearest_occupied_cell() -> None:
    archive = competing()
    archive.add(np.ones((2, 3)), [1.0, 2.0], [[0.05, 0.05], [0.95, 0.95]])
    grown = CentroidalVoronoi(np.array([[1.0, 10], [9, 90], [5, 50]]), [0, 0], [10, 100])
    voronoi = Archive(grown, PARAMETERS)
    with pytest.raises(ValueError, match="cell 2 is empty, as is the whole archive"):
        voronoi.genomes_of([2])
    voronoi.add(np.ones((1, 3)), [1.0], [[9.0, 90.0]])
    for of in (
        archive.genomes_of,
        archive.descriptors_of,
        lambda cells: archive.replace_genomes(cells, np.ones((1, 3))),
    ):
        with pytest.raises(ValueError, match="cell 12 is empty; the nearest occupied one is 0"):
            of([12])
        with pytest.raises(ValueError, match="cell 98 is empty; the nearest occupied one is 99"):
            of(np.array([0, 98]))
        for wrong in (-1, 100):
            with pytest.raises(ValueError, match=f"cell {wrong} does not exist; cells are numbered 0 to 99"):
                of([wrong])
        for wrong in (0, [[0]], [0.0], [True]):
            with pytest.raises(ValueError, match=r"cells must be \(count,\) integers, got"):
                of(wrong)
    with pytest.raises(ValueError, match="cell 0 is empty; the nearest occupied one is 1"):
        voronoi.genomes_of([0])


def test_the_repr_of_an_archive_is_one_line() -> None:
    assert repr(filled(competing, np.asarray)) == (
        "Archive(5 of 100 cells, Grid(10 x 10 cells over [0, 1] x [0, 1]), 3 parameters, float32 on cpu)"
    )
    assert repr(filled(growing, np.asarray)) == (
        "NoveltyArchive(5 of 5 entries, over [0, 1] x [0, 1], k=15, 3 parameters, float32 on cpu)"
    )
    assert repr(CentroidalVoronoi(np.ones((4, 1)), [-0.5], [2])) == "CentroidalVoronoi(4 cells over [-0.5, 2])"
