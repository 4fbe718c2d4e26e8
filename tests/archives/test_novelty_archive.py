"""Novelty archives, with a plain list as the oracle."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from qdrl.archives.admission import Adaptation, All, Probability, Rule, Threshold
from qdrl.archives.base import FIELDS
from qdrl.archives.novelty_archive import NoveltyArchive
from qdrl.archives.statistics import Offsets
from qdrl.errors import UserError
from qdrl.streams import Streams

PARAMETERS = 3


def growing(rule: Rule | None = None, capacity: int | None = None, **options) -> NoveltyArchive:
    options = {"k": 2, "offsets": Offsets(-1.0), **options}
    return NoveltyArchive([0.0], [10.0], PARAMETERS, rule=rule, capacity=capacity, **options)


def batch(*numbers: int) -> dict[str, Any]:
    """Return rows whose columns all depend on the row's number."""
    number = torch.tensor(numbers, dtype=torch.float64)
    return {
        "genomes": number.float()[:, None] + torch.arange(PARAMETERS) / 8,
        "fitness": number * 10,
        "descriptor": number[:, None] / 100,
        "evaluation_seed": number.long() + 2**62,
        "parent_cell": number.long() - 1,
    }


def numbers_of(archive: NoveltyArchive) -> list[int]:
    """Return the numbers of the stored rows; check that every column has the values of these rows."""
    state = archive.state_dict()
    found = state["genome"][:, 0].astype(int).tolist()
    expected = {name: column.numpy() for name, column in batch(*found).items()}
    assert np.array_equal(state["genome"], expected.pop("genomes"))
    for name, column in expected.items():
        assert np.array_equal(state[name], column, equal_nan=True), name
    return found


def assert_same(left: NoveltyArchive, right: NoveltyArchive) -> None:
    ours, theirs = left.state_dict(), right.state_dict()
    assert ours.pop("rule") == theirs.pop("rule")
    assert ours.keys() == theirs.keys()
    for name, value in ours.items():
        assert value.dtype == theirs[name].dtype
        assert np.array_equal(value, theirs[name], equal_nan=True), name


def test_valid_rows_are_appended_in_order_and_numbered() -> None:
    archive = growing()
    first = archive.add(**batch(7, 3), generation=4, emitter=1)
    second = archive.add(**batch(5, 8, 9), valid=torch.tensor([True, False, True]))
    assert numbers_of(archive) == [7, 3, 5, 9]
    assert (first.accepted.tolist(), first.cell.tolist(), first.status.tolist()) == ([0, 1], [0, 1], [2, 2])
    assert (second.accepted.tolist(), second.cell.tolist(), second.status.tolist()) == ([0, 2], [2, -1, 3], [2, 0, 2])
    assert archive.occupied_cells.tolist() == [0, 1, 2, 3]
    assert archive.fields["generation"].tolist() == [4, 4, 0, 0]
    assert archive.fitness.tolist() == [70, 30, 50, 90]
    assert archive.descriptor[:, 0].tolist() == [0.07, 0.03, 0.05, 0.09]
    assert archive.genomes[:, 0].tolist() == [7, 3, 5, 9]


@given(
    st.lists(st.lists(st.booleans(), max_size=90), max_size=6),
    st.none() | st.integers(1, 100),
    st.randoms(use_true_random=False),
)
def test_a_novelty_archive_stores_the_newest_valid_rows_like_a_list(
    batches: list[list[bool]], capacity: int | None, random
) -> None:
    archive, entered = growing(capacity=capacity), []
    for rows in batches:
        numbers = [random.randrange(1000) for _ in rows]
        new = [number for number, valid in zip(numbers, rows, strict=True) if valid][-(capacity or len(rows)) :]
        insertion = archive.add(**batch(*numbers), valid=torch.tensor(rows, dtype=torch.bool))
        places = insertion.cell[insertion.accepted].tolist()
        assert places == list(range(len(entered), len(entered) + len(new)))
        entered += new
    held = entered[-capacity:] if capacity else entered
    assert numbers_of(archive) == held
    assert len(archive) == archive.statistics().elites == len(held)
    assert archive.geometry.cells == len(entered)
    cells = archive.occupied_cells
    assert cells.tolist() == list(range(len(entered) - len(held), len(entered)))
    order = torch.randperm(len(cells), generator=torch.Generator().manual_seed(0))
    assert torch.equal(archive.genomes_of(cells[order]), archive.genomes[order])
    assert torch.equal(archive.descriptors_of(cells[order]), archive.descriptor[order])
    assert_same(restored(archive), archive)


def restored(archive: NoveltyArchive) -> NoveltyArchive:
    """Return another archive, whose entries were replaced by the state of this one."""
    other = growing(capacity=archive.capacity)
    other.add(**batch(*range(70)))
    other.load_state_dict(archive.state_dict())
    return other


def test_parents_are_drawn_uniformly_from_the_stored_entries() -> None:
    archive = growing(capacity=4)
    for numbers in ((0, 1, 2), (3, 4, 5)):
        archive.add(**batch(*numbers))
    cells, counts = archive.sample(np.random.default_rng(0), 4000).unique(return_counts=True)
    assert cells.tolist() == [2, 3, 4, 5]
    assert (counts - 1000).abs().max() < 5 * np.sqrt(4000 * 0.25 * 0.75)
    with pytest.raises(ValueError, match="cannot sample from an empty archive"):
        growing().sample(np.random.default_rng(0), 1)


def test_statistics_of_a_novelty_archive_have_no_coverage() -> None:
    archive = growing()
    assert np.isnan([archive.statistics().coverage, archive.statistics().max_fitness]).all()
    archive.add(**batch(1, 2))
    now = archive.statistics()
    assert np.isnan(now.coverage)
    assert (now.elites, now.qd_score, now.max_fitness, now.mean_fitness) == (2, 32, 20, 15)
    assert archive.geometry.centroids.shape == (0, 1)
    assert (archive.geometry.kind, archive.geometry.shape, archive.geometry.neighbours) == ("novelty", (2,), 2)


def test_the_error_for_a_dropped_entry_names_the_stored_ones() -> None:
    archive = growing(capacity=3)
    for numbers in ((0, 1, 2), (3, 4)):
        archive.add(**batch(*numbers))
    for wrong in (1, 5, -1):
        with pytest.raises(ValueError, match=f"entry {wrong} is not stored; stored entries: 2 to 4"):
            archive.genomes_of(torch.tensor([2, wrong]))
        with pytest.raises(ValueError, match=f"entry {wrong} is not stored"):
            archive.descriptors_of(torch.tensor([wrong]))
    with pytest.raises(ValueError, match="entry 0 is not stored; stored entries: none"):
        growing().genomes_of(torch.tensor([0]))


def test_the_rule_compares_rows_with_the_stored_entries_only() -> None:
    archive = growing(Threshold(0.15, neighbours=1), capacity=2)
    assert archive.add(**batch(0, 10, 20)).accepted.tolist() == [0, 2]  # at 0, 0.1, 0.2
    assert archive.add(**batch(1, 40)).accepted.tolist() == [1]  # close to the entry at 0, which is dropped afterwards
    assert archive.add(**batch(1, 21)).accepted.tolist() == [0]
    assert numbers_of(archive) == [40, 1]


def test_the_genome_function_is_called_for_admitted_rows_only() -> None:
    archive, asked = growing(Probability(0.5, Streams(1))), []

    def take(rows: Tensor) -> Tensor:
        asked.append(rows.tolist())
        return batch(*range(20))["genomes"][rows]

    rows = batch(*range(20))
    rows["genomes"] = take
    insertion = archive.add(**rows)
    assert asked == [insertion.accepted.tolist()]
    assert 0 < len(asked[0]) < 20
    assert numbers_of(archive) == asked[0]
    archive.add(**rows, valid=torch.zeros(20, dtype=torch.bool))
    assert len(asked) == 1


def lost(rows: Tensor) -> Tensor:
    raise ConnectionError("a rank is gone")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"genomes": lost}, "a rank is gone"),
        ({"genomes": lambda rows: torch.zeros(1, 1)}, r"requested genomes of shape \(\d+, 3\), got \(1, 1\)"),
        ({"genomes": torch.zeros(3, 4)}, r"expected genomes \(rows, 3\).* got genomes \(3, 4\)"),
        ({"fitness": torch.full((30,), torch.nan)}, "row 0 has a fitness or descriptor that is not finite"),
        ({"descriptor": torch.zeros(30, 2)}, r"expected .*fitness \(rows,\) and descriptor \(rows, 1\)"),
        ({"valid": torch.ones(30)}, r"valid must be \(30,\) bool"),
        ({"colour": 3}, "unknown fields"),
    ],
)
def test_a_failed_insertion_leaves_archive_and_rule_unchanged(change: dict, message: str) -> None:
    archive, untouched = (growing(Probability(0.5, Streams(1))) for _ in range(2))
    for each in (archive, untouched):
        each.add(**batch(1, 2, 3, 4))
    with pytest.raises((ValueError, ConnectionError), match=message):
        archive.add(**batch(*range(30)) | change)
    assert_same(archive, untouched)
    for each in (archive, untouched):
        each.add(**batch(*range(30)))
    assert_same(archive, untouched)


RULES: dict[str, Callable[[], Rule]] = {
    "all": All,
    "probability": lambda: Probability(0.3, Streams(2)),
    "threshold": lambda: Threshold(0.2, adaptation=Adaptation(lower_after=1)),
}


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("capacity", [None, 5])
def test_a_restored_archive_continues_like_the_saved_one(rule: str, capacity: int | None) -> None:
    draw = np.random.default_rng(0)
    straight, resumed = (growing(RULES[rule](), capacity) for _ in range(2))
    for generation in range(6):
        rows = draw.integers(0, 1000, 40).tolist()
        if generation == 3:
            resumed.load_state_dict(straight.state_dict())
        for each in (straight, resumed) if generation >= 3 else (straight,):
            each.add(**batch(*rows), generation=generation)
    assert len(straight) > 2
    assert_same(straight, resumed)


def test_a_state_without_a_rule_restores_the_entries_and_a_new_rule() -> None:
    archive, other = growing(Probability(0.9, Streams(1))), growing(Probability(0.9, Streams(1)))
    for _ in range(3):
        archive.add(**batch(1, 2, 3))
    columns = archive.state_dict()
    del columns["rule"]
    other.load_state_dict(columns)
    assert numbers_of(other) == numbers_of(archive)
    assert other.rule.state_dict() == {"batch": 0}


def test_a_batch_larger_than_the_capacity_adds_its_last_rows_only() -> None:
    archive = growing(capacity=2)
    insertion = archive.add(**batch(*range(5)))
    assert (insertion.accepted.tolist(), insertion.cell.tolist()) == ([3, 4], [-1, -1, -1, 0, 1])
    assert numbers_of(archive) == [3, 4]


def test_a_state_with_dropped_entries_continues_in_an_archive_without_capacity() -> None:
    small, large = growing(capacity=50), growing()
    for first in (0, 40, 80):
        small.add(**batch(*range(first, first + 40)))
    large.load_state_dict(small.state_dict())
    large.add(**batch(*range(200, 400)))
    assert numbers_of(large) == [*range(70, 120), *range(200, 400)]
    assert large.occupied_cells.tolist() == list(range(70, 320))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"genome": np.zeros((2, 4), np.float32)}, r"genome must have shape \(2, 3\) for this archive, got \(2, 4\)"),
        ({"descriptor": np.zeros((2, 2))}, r"descriptor must have shape \(2, 1\)"),
        ({"cell": np.array([4, 6])}, r"must be consecutive, got \[4, 6\]"),
        ({"cell": np.array([-1, 0])}, r"must be consecutive, got \[-1, 0\]"),
        ({name: np.zeros(3) for name in ("cell", *FIELDS)} | {"cell": np.arange(3)}, "do not fit a capacity of 2"),
    ],
)
def test_a_state_that_does_not_fit_is_an_error_and_changes_nothing(change: dict, message: str) -> None:
    archive, untouched = growing(capacity=2), growing(capacity=2)
    for each in (archive, untouched):
        each.add(**batch(1, 2))
    with pytest.raises(ValueError, match=message):
        archive.load_state_dict(archive.state_dict() | change)
    assert_same(archive, untouched)


def test_a_saved_state_is_a_copy() -> None:
    archive = growing(capacity=2)
    archive.add(**batch(1, 2))
    state = archive.state_dict()
    archive.add(**batch(3, 4))
    assert state["fitness"].tolist() == [10, 20]


def test_genomes_may_be_int64_numbers_of_lineages() -> None:
    archive = NoveltyArchive([0.0], [1.0], 1, dtype=torch.int64)
    archive.add(torch.tensor([[2**60 + 1]]), torch.zeros(1), torch.zeros(1, 1))
    assert archive.genomes_of(archive.occupied_cells).tolist() == [[2**60 + 1]]


@pytest.mark.gpu
def test_an_archive_on_a_gpu_stores_the_same_entries_as_on_the_cpu() -> None:
    there, here = (growing(RULES["threshold"](), 70, device=device) for device in ("cuda", "cpu"))
    for _ in range(3):
        rows = np.random.default_rng(0).integers(0, 10_000, 200).tolist()
        for each in (there, here):
            each.add(**batch(*rows))
    assert there.genomes_of(there.occupied_cells).device.type == "cuda"
    assert_same(there, here)
    here.load_state_dict(there.state_dict())
    assert_same(there, here)


@pytest.mark.parametrize("options", [{"k": 0}, {"capacity": 0}])
def test_invalid_settings_are_errors(options: dict) -> None:
    with pytest.raises(ValueError, match="k and capacity must be at least 1"):
        NoveltyArchive([0.0], [1.0], 1, **options)
    with pytest.raises(UserError, match="must be finite and below"):
        NoveltyArchive([2.0], [1.0], 1)
