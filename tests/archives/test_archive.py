"""Archives with cells: insertion with pyribs as the oracle, fields, state, statistics and sampling."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from ribs.archives import CVTArchive, GridArchive
from scipy.stats import chisquare
from torch import Tensor

from qdrl.archives.archive import FIELDS, Archive, Geometry
from qdrl.archives.cvt import CentroidalVoronoi
from qdrl.archives.grid import Grid
from qdrl.archives.statistics import Offsets, Statistics

QD_OFFSET = -3.5
PARAMETERS = 3
CENTROIDS = np.random.default_rng(8).uniform([-1, 0], [1, 2], (40, 2))  # equal spans: pyribs supports no others
SHAPE = (4, 3)


def grid_archive() -> Archive:
    return Archive(Grid([-1, 0], [1, 5], SHAPE), PARAMETERS, offsets=Offsets(QD_OFFSET))


def cvt_archive() -> Archive:
    return Archive(CentroidalVoronoi(CENTROIDS, [-1, 0], [1, 2]), PARAMETERS, offsets=Offsets(QD_OFFSET))


def row_archive(cells: int = 10) -> Archive:
    """Return an archive whose cell k covers descriptors from k to k + 1."""
    return Archive(Grid([0], [cells], [cells]), PARAMETERS)


def in_cells(*cells: float) -> Tensor:
    return torch.tensor([[cell + 0.5] for cell in cells], dtype=torch.float64)


def floats(*values: float) -> Tensor:
    return torch.tensor(values, dtype=torch.float64)


def genomes(*values: float) -> Tensor:
    return torch.tensor(values)[:, None].expand(-1, PARAMETERS) + torch.arange(PARAMETERS) / 8


def assert_same(left: Archive, right: Archive) -> None:
    ours, theirs = left.state_dict(), right.state_dict()
    assert ours.keys() == theirs.keys()
    for name, value in ours.items():
        assert value.dtype == theirs[name].dtype
        assert np.array_equal(value, theirs[name], equal_nan=True), name


@dataclass(frozen=True)
class Batch:
    """Rows of a generation; every genome is unique, so that an elite identifies its row."""

    fitness: np.ndarray
    descriptor: np.ndarray
    genomes: np.ndarray

    def part(self, start: int, stop: int) -> "Batch":
        return Batch(self.fitness[start:stop], self.descriptor[start:stop], self.genomes[start:stop])


@st.composite
def batches(draw: st.DrawFn) -> list[Batch]:
    """Return batches with ties, signed zeros, duplicates, and descriptors on borders and out of bounds."""
    borders = st.tuples(st.sampled_from([-1, -0.5, 0, 0.5, 1.0]), st.sampled_from([0, 5 / 3, 10 / 3, 5.0]))
    anywhere = st.tuples(st.floats(-2, 2), st.floats(-3, 8))
    row = st.tuples(st.integers(-3, 3).map(float) | st.just(-0.0) | st.floats(-1e6, 1e6), borders | anywhere)
    drawn = draw(st.lists(st.lists(row, min_size=1, max_size=25), min_size=1, max_size=4))
    made, count = [], 0
    for rows in drawn:
        identity = count + np.arange(len(rows), dtype=np.float32)
        count += len(rows)
        made.append(
            Batch(
                np.array([fitness for fitness, _ in rows]),
                np.array([descriptor for _, descriptor in rows]),
                identity[:, None] + np.arange(PARAMETERS, dtype=np.float32) / 8,
            )
        )
    return made


@st.composite
def dense_batches(draw: st.DrawFn) -> list[Batch]:
    """Return larger batches from a seed, with many rows per cell."""
    random = np.random.default_rng(draw(st.integers(0, 2**32)))
    return [
        Batch(
            np.round(random.normal(size=rows), 1),
            random.uniform([-1.2, -1], [1.2, 6], (rows, 2)),
            random.random((rows, PARAMETERS), np.float32),
        )
        for rows in (1, 300, 77)
    ]


def add(archive: Archive, batch: Batch, **fields: Tensor | int) -> np.ndarray:
    tensors = (torch.from_numpy(part) for part in (batch.genomes, batch.fitness, batch.descriptor))
    return archive.add(*tensors, **fields).status.numpy()


def grid_of_pyribs() -> GridArchive:
    return GridArchive(
        solution_dim=PARAMETERS,
        dims=SHAPE,
        ranges=[(-1, 1), (0, 5)],
        qd_score_offset=QD_OFFSET,
        solution_dtype=np.float32,
        objective_dtype=np.float64,
        measures_dtype=np.float64,
    )


def cvt_of_pyribs(nearest_neighbors: str) -> CVTArchive:
    return CVTArchive(
        solution_dim=PARAMETERS,
        centroids=CENTROIDS,
        ranges=[(-1, 1), (0, 2)],
        qd_score_offset=QD_OFFSET,
        nearest_neighbors=nearest_neighbors,  # pyright: ignore[reportArgumentType]
        solution_dtype=np.float32,
        objective_dtype=np.float64,
        measures_dtype=np.float64,
    )


ORACLES: dict[str, tuple[Callable[[], Archive], Callable[[], GridArchive | CVTArchive]]] = {
    "grid": (grid_archive, grid_of_pyribs),
    "cvt, brute force": (cvt_archive, lambda: cvt_of_pyribs("brute_force")),
    "cvt, kd-tree": (cvt_archive, lambda: cvt_of_pyribs("scipy_kd_tree")),
}


@pytest.mark.parametrize("name", ORACLES)
@given(sequence=batches() | dense_batches())
def test_the_same_batches_give_the_same_elites_as_in_pyribs(name: str, sequence: list[Batch]):
    make_ours, make_theirs = ORACLES[name]
    ours, theirs = make_ours(), make_theirs()
    for batch in sequence:
        status = add(ours, batch)
        assert status.tolist() == theirs.add(batch.genomes, batch.fitness, batch.descriptor)["status"].tolist()
    state, data = ours.state_dict(), theirs.data()
    order = np.argsort(data["index"])
    pairs = {"cell": "index", "fitness": "objective", "descriptor": "measures", "genome": "solution"}
    for our_name, their_name in pairs.items():
        assert np.array_equal(state[our_name], data[their_name][order]), our_name
    statistics = ours.statistics()
    assert statistics.elites == theirs.stats.num_elites
    assert statistics.coverage == theirs.stats.coverage
    assert statistics.max_fitness == theirs.stats.obj_max
    # pyribs updates sums incrementally, which loses digits if numbers are large.
    assert statistics.qd_score == pytest.approx(float(theirs.stats.qd_score), rel=1e-9, abs=1e-6)


@pytest.mark.parametrize("make", [grid_archive, cvt_archive])
@given(batches() | dense_batches(), st.data())
def test_splitting_or_joining_batches_in_order_changes_nothing(
    make: Callable[[], Archive], sequence: list[Batch], data: st.DataObject
):
    whole = Batch(*(np.concatenate([getattr(b, name) for b in sequence]) for name in Batch.__dataclass_fields__))
    rows = len(whole.fitness)
    cuts = sorted(data.draw(st.sets(st.integers(1, rows - 1), max_size=8))) if rows > 1 else []
    joined, split, one_by_one = make(), make(), make()
    add(joined, whole)
    for start, stop in zip([0, *cuts], [*cuts, rows], strict=True):
        add(split, whole.part(start, stop))
    for row in range(rows):
        add(one_by_one, whole.part(row, row + 1))
    assert_same(joined, split)
    assert_same(joined, one_by_one)


@given(dense_batches(), st.randoms(use_true_random=False))
def test_the_order_of_rows_matters_only_between_rows_of_equal_fitness(sequence: list[Batch], random):
    batch = sequence[1]
    order = list(range(len(batch.fitness)))
    random.shuffle(order)
    straight, shuffled = grid_archive(), grid_archive()
    add(straight, batch)
    add(shuffled, Batch(batch.fitness[order], batch.descriptor[order], batch.genomes[order]))
    assert torch.equal(straight.fitness, shuffled.fitness)


def test_only_a_strictly_better_row_replaces_an_elite():
    archive = row_archive()
    archive.add(genomes(1, 2), floats(5, 5), in_cells(0, 1), evaluation_seed=11)
    insertion = archive.add(genomes(3, 4, 5), floats(5, 5.1, 4), in_cells(0, 1, 0), evaluation_seed=22)
    assert insertion.accepted.tolist() == [1]
    assert insertion.cell.tolist() == [0, 1, 0]
    assert insertion.status.tolist() == [0, 1, 0]
    assert archive.state_dict()["genome"][:, 0].tolist() == [1, 4]
    assert archive.state_dict()["fitness"].tolist() == [5, 5.1]
    assert archive.state_dict()["evaluation_seed"].tolist() == [11, 22]


def test_among_rows_of_equal_fitness_the_lowest_row_is_inserted():
    archive = row_archive()
    insertion = archive.add(genomes(1, 2, 3, 4), floats(1, 7, 7, 7), in_cells(3, 3, 3, 3))
    assert insertion.accepted.tolist() == [1]
    assert archive.state_dict()["genome"][:, 0].tolist() == [2]


def test_fitness_of_plus_and_minus_zero_is_equal():
    for zeros in ((0.0, -0.0), (-0.0, 0.0)):
        archive = row_archive()
        assert archive.add(genomes(1, 2), floats(*zeros), in_cells(0, 0)).accepted.tolist() == [0]
        assert archive.add(genomes(3), floats(zeros[1]), in_cells(0)).accepted.tolist() == []


def test_statuses_are_relative_to_the_archive_before_the_batch():
    archive = row_archive()
    archive.add(genomes(1), floats(5), in_cells(0))
    insertion = archive.add(genomes(2, 3, 4, 5, 6), floats(6, 7, 1, 2, 4), in_cells(0, 0, 1, 1, 0))
    assert insertion.status.tolist() == [1, 1, 2, 2, 0]  # although rows 0 and 2 lose to other rows of the batch
    assert insertion.accepted.tolist() == [1, 3]


def test_invalid_rows_are_never_inserted_whatever_their_values():
    archive = row_archive()
    nan, inf = torch.nan, torch.inf
    fitness = floats(nan, 9, inf, 1, 9, -inf)
    descriptor = torch.tensor([[0.5], [nan], [0.5], [0.5], [0.5], [inf]], dtype=torch.float64)
    valid = torch.tensor([False, False, False, True, False, False])
    insertion = archive.add(genomes(*range(6)), fitness, descriptor, valid=valid)
    assert insertion.accepted.tolist() == [3]
    assert insertion.cell.tolist() == [-1, -1, -1, 0, -1, -1]
    assert insertion.status.tolist() == [0, 0, 0, 2, 0, 0]
    assert archive.state_dict()["fitness"].tolist() == [1]


@given(dense_batches(), st.integers(0, 2**32))
def test_omitting_rows_equals_marking_them_invalid(sequence: list[Batch], seed: int):
    batch = sequence[1]
    valid = np.random.default_rng(seed).random(len(batch.fitness)) < 0.5
    marked, left_out = grid_archive(), grid_archive()
    broken = np.where(valid, batch.fitness, np.nan)
    marked.add(
        torch.from_numpy(batch.genomes),
        torch.from_numpy(broken),
        torch.from_numpy(batch.descriptor),
        valid=torch.from_numpy(valid),
    )
    add(left_out, Batch(batch.fitness[valid], batch.descriptor[valid], batch.genomes[valid]))
    assert_same(marked, left_out)


@pytest.mark.parametrize(
    ("fitness", "place"), [(torch.nan, 0), (torch.inf, 0), (-torch.inf, 0), (1, torch.nan), (1, -torch.inf)]
)
def test_a_valid_row_that_is_not_finite_is_an_error_that_names_it(fitness: float, place: float):
    archive = row_archive()
    with pytest.raises(ValueError, match="row 1 has a fitness or descriptor that is not finite or exceeds 1e"):
        archive.add(genomes(1, 2), floats(0, fitness), in_cells(0, place), valid=torch.tensor([True, True]))
    assert len(archive) == 0


@given(batches())
def test_the_genome_function_is_called_once_for_accepted_rows_in_order(sequence: list[Batch]):
    given_whole, asked = grid_archive(), grid_archive()
    for batch in sequence:
        questions: list[Tensor] = []

        def take(rows: Tensor, batch: Batch = batch, questions: list[Tensor] = questions) -> Tensor:
            questions.append(rows)
            return torch.from_numpy(batch.genomes)[rows]

        add(given_whole, batch)
        insertion = asked.add(take, torch.from_numpy(batch.fitness), torch.from_numpy(batch.descriptor))
        assert len(questions) == (1 if len(insertion.accepted) else 0)
        for rows in questions:
            assert rows.tolist() == insertion.accepted.tolist() == sorted(set(rows.tolist()))
    assert_same(given_whole, asked)


def broken_exchange(rows: Tensor) -> Tensor:
    raise ConnectionError("a rank is gone")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"genomes": broken_exchange}, "a rank is gone"),
        (
            {"genomes": lambda rows: torch.zeros(len(rows), PARAMETERS + 1)},
            r"requested genomes of shape \(2, 3\), got \(2, 4\)",
        ),
        ({"genomes": lambda rows: torch.zeros(5, PARAMETERS)}, r"requested genomes of shape \(2, 3\)"),
        (
            {"genomes": genomes(1, 2, 3)},
            r"expected genomes \(rows, 3\), fitness \(rows,\) .* got genomes \(3, 3\), fitness \(2,\)",
        ),
        ({"genomes": torch.zeros(2, 4)}, r"expected genomes \(rows, 3\).* got genomes \(2, 4\)"),
        ({"fitness": floats(9)}, r"expected .*fitness \(rows,\) and descriptor \(rows, 1\)"),
        ({"descriptor": torch.zeros(2, 2)}, r"expected .*fitness \(rows,\) and descriptor \(rows, 1\)"),
        ({"valid": torch.tensor([True])}, r"valid must be \(2,\) bool"),
        ({"valid": torch.tensor([1, 1])}, r"valid must be \(2,\) bool, got \(2,\) torch.int64"),
        ({"generation": torch.tensor([1, 2, 3])}, r"generation must be one number or \(2,\) of them, got \(3,\)"),
        ({"colour": 3}, "unknown fields .'colour'.; known: evaluation_seed, generation, emitter, parent_cell"),
    ],
)
def test_a_failed_insertion_leaves_the_archive_unchanged(change: dict, message: str):
    archive, untouched = row_archive(), row_archive()
    for each in (archive, untouched):
        each.add(genomes(1), floats(5), in_cells(0), generation=1)
    arguments = {"genomes": genomes(2, 3), "fitness": floats(6, 6), "descriptor": in_cells(0, 4)} | change
    with pytest.raises((ValueError, ConnectionError), match=message):
        archive.add(**arguments)
    assert_same(archive, untouched)


def test_fields_are_stored_with_an_elite_and_not_inherited_from_the_replaced_one():
    archive = row_archive()
    seeds = torch.tensor([2**62 + 1, 2**62 + 2])
    archive.add(
        genomes(1, 2),
        floats(5, 5),
        in_cells(0, 1),
        evaluation_seed=seeds,
        generation=7,
        emitter=1,
        parent_cell=9,
        n_evaluations=5,
        fitness_std=floats(0.5, 1.5),
        descriptor_std=floats(0.25, 0.75)[:, None],
    )
    archive.add(genomes(3), floats(6), in_cells(1))
    state = archive.state_dict()
    assert {name: state[name].tolist() for name, (dtype, _) in FIELDS.items() if not dtype.is_floating_point} == {
        "evaluation_seed": [2**62 + 1, 0],
        "generation": [7, 0],
        "emitter": [1, 0],
        "parent_cell": [9, -1],
        "n_evaluations": [5, 1],
    }
    np.testing.assert_array_equal(state["fitness_std"], [0.5, np.nan])
    np.testing.assert_array_equal(state["descriptor_std"], [[0.25], [np.nan]])


def test_genomes_are_copied_whatever_their_dtype_and_gradients():
    archive = row_archive()
    source = genomes(1, 2).double().requires_grad_()
    archive.add(source, floats(5, 5), in_cells(0, 1))
    with torch.no_grad():
        source.fill_(-1)
    assert archive.state_dict()["genome"].dtype == np.float32
    assert archive.state_dict()["genome"][:, 0].tolist() == [1, 2]
    assert not archive.genomes.requires_grad


def test_genomes_longer_than_a_block_are_copied_completely():
    # Longer than a block of copying, and not a multiple of it.
    archive = Archive(Grid([0], [100], [100]), 9001)
    batch = torch.from_numpy(np.random.default_rng(0).standard_normal((100, 9001), np.float32))
    places = torch.from_numpy(np.random.default_rng(1).permutation(100))
    archive.add(batch, torch.zeros(100), places[:, None] + 0.5)
    assert torch.equal(archive.genomes_of(places), batch)


def test_empty_batches_and_archives_have_statistics():
    archive = row_archive(cells=4)
    insertion = archive.add(torch.zeros(0, PARAMETERS), torch.zeros(0), torch.zeros(0, 1))
    assert [len(part) for part in vars(insertion).values()] == [0, 0, 0]
    statistics = archive.statistics()
    assert (len(archive), statistics.elites, statistics.coverage, statistics.qd_score) == (0, 0, 0.0, 0.0)
    assert np.isnan([statistics.max_fitness, statistics.mean_fitness]).all()


def test_statistics_are_those_of_the_current_elites():
    archive = Archive(Grid([0], [4], [4]), PARAMETERS, offsets=Offsets(-10))
    archive.add(genomes(1, 2), floats(1, 2), in_cells(0, 2))
    assert archive.statistics() == Statistics(2, 0.5, qd_score=23, fitness_sum=3, max_fitness=2, mean_fitness=1.5)
    archive.add(genomes(3, 4), floats(-4, 5), in_cells(1, 2))
    assert archive.statistics() == Statistics(3, 0.75, qd_score=32, fitness_sum=2, max_fitness=5, mean_fitness=2 / 3)
    assert archive.occupied_cells.tolist() == [0, 1, 2]


def test_the_qd_score_adds_an_offset_for_every_step_of_each_elite():
    archive = Archive(Grid([0], [4], [4]), PARAMETERS, offsets=Offsets(-1, step_offset=0.5))
    archive.add(genomes(1, 2, 3), floats(1, 2, -9), in_cells(0, 2, 2), steps=[10, 4, 100])
    assert archive.fields["steps"][archive.occupied_cells].tolist() == [10, 4]
    found = archive.statistics()
    assert found.qd_score == (1 + 1 + 0.5 * 10) + (2 + 1 + 0.5 * 4)
    assert found.fitness_sum == 1 + 2
    with pytest.raises(ValueError, match=r"steps must be given, .*: offset 0\.5 per step and -1 per elite"):
        archive.add(genomes(4), floats(9), in_cells(1))
    assert archive.statistics() == found


def test_an_offset_that_fitness_contains_is_part_of_the_score_and_not_of_the_sum_without_it():
    archive = Archive(Grid([0], [4], [4]), PARAMETERS, offsets=Offsets(included_offset=0.5))
    archive.add(genomes(1, 2), floats(6, 4), in_cells(0, 2), steps=[10, 4])
    assert archive.statistics().qd_score == 6 + 4
    assert archive.statistics().fitness_sum == (6 - 5) + (4 - 2)
    with pytest.raises(ValueError, match=r"fitness contains 0\.5 per step"):
        archive.add(genomes(4), floats(9), in_cells(1))


@pytest.mark.parametrize("make", [grid_archive, cvt_archive])
@given(before=batches(), after=batches())
def test_a_restored_archive_continues_like_the_saved_one(
    make: Callable[[], Archive], before: list[Batch], after: list[Batch]
):
    straight = make()
    for generation, batch in enumerate(before):
        add(straight, batch, generation=generation, parent_cell=generation - 1)
    saved = straight.state_dict()
    for column in saved.values():
        column.flags.writeable = False  # as read from some files
    resumed = make()
    add(resumed, dense_example())  # loading must remove these elites
    resumed.load_state_dict(saved)
    assert_same(straight, resumed)
    for archive in (straight, resumed):
        for batch in after:
            add(archive, batch)
    assert_same(straight, resumed)
    assert straight.statistics() == resumed.statistics()


def dense_example() -> Batch:
    random = np.random.default_rng(0)
    return Batch(random.random(99), random.random((99, 2)) * 5, random.random((99, PARAMETERS), np.float32))


def test_a_saved_state_is_a_copy_ordered_by_cell():
    archive = row_archive()
    archive.add(genomes(1, 2), floats(5, 6), in_cells(7, 2))
    state = archive.state_dict()
    archive.add(genomes(3), floats(9), in_cells(2))
    assert state["cell"].tolist() == [2, 7]
    assert state["genome"][:, 0].tolist() == [2, 1]
    assert state["fitness"].tolist() == [6, 5]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"genome": np.zeros((1, 4), np.float32)}, r"genome must have shape \(1, 3\) for this archive, got \(1, 4\)"),
        ({"descriptor": np.zeros((1, 2))}, r"descriptor must have shape \(1, 1\)"),
        ({"cell": np.array([10])}, "cells 10 to 10 do not fit 10 cells"),
        ({"cell": np.array([-1])}, "cells -1 to -1 do not fit 10 cells"),
    ],
)
def test_a_state_that_does_not_fit_is_an_error_and_changes_nothing(change: dict, message: str):
    archive, untouched = row_archive(), row_archive()
    for each in (archive, untouched):
        each.add(genomes(1), floats(5), in_cells(0))
    with pytest.raises(ValueError, match=message):
        archive.load_state_dict(archive.state_dict() | change)
    assert_same(archive, untouched)


def test_sampling_is_uniform_over_the_occupied_cells():
    archive = row_archive(cells=40)
    occupied = [0, 3, 4, 17, 18, 30, 39]
    archive.add(genomes(*range(7)), floats(*(10.0**k for k in range(7))), in_cells(*occupied))
    cells = archive.sample(np.random.default_rng(0), 14_000)
    assert (cells.dtype, cells.shape) == (torch.int64, (14_000,))
    drawn, counts = np.unique(cells.numpy(), return_counts=True)
    assert drawn.tolist() == occupied
    assert chisquare(counts).pvalue > 0.001
    assert torch.equal(cells, archive.sample(np.random.default_rng(0), 14_000))
    assert torch.equal(archive.genomes_of(cells), archive.genomes[cells])


def test_a_new_elite_can_be_sampled_immediately():
    archive = row_archive()
    archive.add(genomes(1), floats(1), in_cells(4))
    archive.sample(np.random.default_rng(0), 3)
    archive.add(genomes(1), floats(1), in_cells(6))
    assert set(archive.sample(np.random.default_rng(0), 50).tolist()) == {4, 6}


def test_sampling_from_an_empty_archive_is_an_error():
    with pytest.raises(ValueError, match="cannot sample from an empty archive"):
        row_archive().sample(np.random.default_rng(0), 1)


@pytest.mark.gpu
@pytest.mark.parametrize("geometry", [grid_archive().geometry, cvt_archive().geometry], ids=lambda g: g.kind)
def test_an_archive_on_a_gpu_has_the_same_elites_as_on_the_cpu(geometry: Geometry):
    host, other = Archive(geometry, PARAMETERS), Archive(geometry, PARAMETERS, device="cuda")
    for seed in range(3):
        random = np.random.default_rng(seed)
        batch = (
            torch.from_numpy(random.random((500, PARAMETERS), np.float32)),
            torch.from_numpy(np.round(random.normal(size=500), 1)),
            torch.from_numpy(random.uniform(-2, 6, (500, 2))),
        )
        valid = torch.from_numpy(random.random(500) < 0.9)
        host.add(*batch, valid=valid, generation=seed)
        other.add(*(part.to("cuda") for part in batch), valid=valid, generation=seed)
    assert other.genomes.device.type == "cuda"
    assert_same(host, other)
