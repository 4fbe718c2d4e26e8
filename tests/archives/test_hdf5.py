"""Archive files: writing, reading, queries, atomic replacement, validation and digests."""

import json
import signal
import subprocess
import sys
import time
import tracemalloc
from dataclasses import replace
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from qdrl.archives import inspection
from qdrl.archives.files import StoredArray
from qdrl.archives.hdf5 import (
    content_digest,
    file_format,
    open_archive,
    read_checkpoint,
    validate,
    write_archive,
    write_checkpoint,
)
from qdrl.archives.seals import USER_BLOCK, write_seal
from qdrl.archives.stored import StoredArchive
from qdrl.errors import UserError
from tests.archives.builders import damaged, replace_dataset, small_archive
from tests.helpers.forked import run_forked


@pytest.fixture(autouse=True)
def _inspected_in_a_fork(monkeypatch: pytest.MonkeyPatch) -> None:
    """Inspect damaged files in a fork, which is faster than the new process that `test_inspection` starts."""
    monkeypatch.setattr(inspection, "run_child", run_forked)


def assert_same(read: StoredArchive, written: StoredArchive) -> None:
    for name in ("axes", "kind", "shape", "neighbours", "fitness_name", "offsets", "emitters", "attributes", "meta"):
        assert getattr(read, name) == getattr(written, name), name
    np.testing.assert_array_equal(read.centroids, written.centroids)
    assert_same_arrays(read.elites, written.elites)
    assert_same_arrays(read.history, written.history)
    assert_same_arrays(read.normalizer or {}, written.normalizer or {})
    np.testing.assert_array_equal(read.all_genomes(), written.all_genomes())


def assert_same_arrays(read: dict[str, np.ndarray], written: dict[str, np.ndarray]) -> None:
    assert list(read) == list(written)
    for name, values in written.items():
        np.testing.assert_array_equal(read[name], values, err_msg=name)
        assert read[name].dtype == values.dtype, name


# Saving and loading


@pytest.mark.parametrize(("kind", "shape"), [("grid", (5,)), ("grid", (3, 4)), ("cvt", (20, 3)), ("novelty", (9, 2))])
@pytest.mark.parametrize("normalizer", [True, False])
def test_reading_a_written_archive_returns_the_same_content(
    tmp_path: Path, kind: str, shape: tuple[int, ...], normalizer: bool
) -> None:
    written = small_archive(kind=kind, shape=shape, elites=4, normalizer=normalizer)
    write_archive(tmp_path / "a.h5", written)
    assert_same(open_archive(tmp_path / "a.h5"), written)
    assert validate(tmp_path / "a.h5") == []
    assert file_format(tmp_path / "a.h5") == "qdrl-archive 1.2"


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    elites=st.integers(0, 20),
    parameters=st.integers(1, 40),
    generations=st.integers(0, 5),
    seed=st.integers(0, 2**32),
    text=st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), max_size=20),
    extreme=st.sampled_from([0.0, -0.0, 5e-324, -1e308, 1e308]),
)
def test_any_archive_is_unchanged_after_writing_and_reading(
    tmp_path: Path, elites: int, parameters: int, generations: int, seed: int, text: str, extreme: float
) -> None:
    written = small_archive(elites=elites, parameters=parameters, generations=generations, seed=seed)
    written = replace(written, fitness_name=text, meta=written.meta | {"config": {"name": text}})
    written.elites["fitness"][:1] = extreme
    write_archive(tmp_path / "a.h5", written)
    assert_same(open_archive(tmp_path / "a.h5"), written)


def test_missing_columns_are_read_as_their_default_values(tmp_path: Path) -> None:
    written = small_archive(elites=3)
    for name in ("emitter", "parent_cell", "n_evaluations", "fitness_std", "descriptor_std"):
        del written.elites[name]
    write_archive(tmp_path / "a.h5", written)
    elites = open_archive(tmp_path / "a.h5").elites
    assert elites["n_evaluations"].tolist() == [1, 1, 1]
    assert elites["parent_cell"].tolist() == [-1, -1, -1]
    assert np.isnan(elites["descriptor_std"]).all()


def test_one_genome_is_read_without_the_others(path: Path) -> None:
    with h5py.File(path) as file:
        dataset: Any = file["elites/genome"]
        assert dataset.chunks == (1, dataset.shape[1])
    read, written = open_archive(path), small_archive()
    assert read.genomes is None
    np.testing.assert_array_equal(read.genome(row=3), written.genome(row=3))
    assert read.parameters == 6


def test_genome_takes_a_cell_by_position_and_a_row_by_keyword(path: Path) -> None:
    written = small_archive()
    for archive in (open_archive(path), written):
        for row, cell in enumerate(archive.elites["cell"]):
            np.testing.assert_array_equal(archive.genome(cell), archive.all_genomes()[row])
            np.testing.assert_array_equal(archive.genome(row=row), archive.genome(int(cell)))
        assert archive.best_cell == archive.elites["cell"][archive.elites["fitness"].argmax()]
        empty = int(np.setdiff1d(np.arange(archive.cells), archive.elites["cell"])[0])
        with pytest.raises(UserError, match=f"cell {empty} is empty; the nearest occupied one is"):
            archive.genome(empty)
        with pytest.raises(UserError, match="cell 20 does not exist; cells run from 0 to 19"):
            archive.genome(20)
        wrong_arguments: tuple[dict[str, Any], ...] = ({}, {"cell": 1, "row": 1}, {"cell": 1.0}, {"row": "1"})
        for wrong in wrong_arguments:
            with pytest.raises(TypeError, match=r"a cell or row=|cannot be interpreted as an integer"):
                archive.genome(**wrong)
        archive.genome(row=0)[:] = 0  # a copy
        assert archive.genome(row=0).any()


def test_the_repr_of_a_stored_archive_is_one_line(path: Path) -> None:
    axes = "over axis 0 [0, 1], axis 1 [m] [-1, 2]"
    assert repr(open_archive(path)) == f"StoredArchive(7 of 20 cells, grid of toy {axes}, {path})"
    assert repr(replace(small_archive(), meta={})) == (
        f"StoredArchive(7 of 20 cells, grid of an unnamed task {axes}, in memory)"
    )


def test_a_genome_that_is_not_finite_is_an_error_when_it_is_read(path: Path) -> None:
    with damaged(path) as file:
        genomes = file["elites/genome"][:]
        genomes[2, 1] = np.nan
        replace_dataset(file, "elites/genome", genomes)
    write_seal(path)  # as if a program had written it like this
    archive = open_archive(path)
    assert np.isfinite(archive.genome(row=1)).all()
    with pytest.raises(UserError, match=f"genome of cell {archive.elites['cell'][2]} has values that are not finite"):
        archive.genome(row=2)
    assert validate(path) == ["/elites/genome: not finite in rows [2]"]


def test_reading_one_elite_and_the_digest_of_a_large_file_needs_little_memory(tmp_path: Path) -> None:
    path, elites, parameters = tmp_path / "large.h5", 2000, 4000
    small = small_archive(kind="cvt", shape=(elites, 2), elites=elites, parameters=1)
    genomes = np.random.default_rng(0).random((elites, parameters), np.float32)
    write_archive(path, replace(small, genomes=genomes))
    tracemalloc.start()
    try:
        archive = open_archive(path)
        read, digest = archive.genome(1234), content_digest(path)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert np.array_equal(read, genomes[1234])
    assert peak < genomes.nbytes / 6
    with damaged(path) as file:
        file["elites/genome"][elites - 1, parameters - 1] += 1
    assert content_digest(path) != digest


def test_genomes_of_a_file_that_was_replaced_after_opening_are_an_error(path: Path) -> None:
    before = open_archive(path)
    write_archive(path, small_archive(seed=1))
    with pytest.raises(UserError, match="have changed since it was read"):
        before.genome(row=0)


def test_reading_a_checkpoint_returns_its_archive_and_state(tmp_path: Path) -> None:
    state = {"generation": 7, "critic": {"weights": np.arange(6.0).reshape(2, 3), "name": "td3"}, "empty": {}}
    write_checkpoint(tmp_path / "c.h5", small_archive(), state)
    archive, read = read_checkpoint(tmp_path / "c.h5")
    assert_same(archive, small_archive())
    np.testing.assert_array_equal(read["critic"].pop("weights"), state["critic"].pop("weights"))
    assert read == state
    assert validate(tmp_path / "c.h5") == []


def test_large_arrays_of_a_checkpoint_are_read_on_access(tmp_path: Path) -> None:
    replay = np.random.default_rng(0).normal(size=(2**15, 5))
    write_checkpoint(tmp_path / "c.h5", small_archive(), {"replay": {"reward": replay}})
    read = read_checkpoint(tmp_path / "c.h5")[1]["replay"]["reward"]
    assert isinstance(read, StoredArray)
    assert (read.shape, len(read)) == (replay.shape, 2**15)
    np.testing.assert_array_equal(np.asarray(read), replay)
    assert np.asarray(read, np.float32).dtype == np.float32
    with pytest.raises(ValueError, match="needs a copy"):
        np.asarray(read, copy=False)
    (tmp_path / "c.h5").unlink()
    with pytest.raises(UserError, match="no such file"):
        np.asarray(read)


def test_the_error_for_a_missing_row_names_it(path: Path) -> None:
    archive = open_archive(path)
    assert np.array_equal(archive.genome(row=-1), archive.all_genomes()[-1])
    with pytest.raises(IndexError, match=f"row 1000000 of an archive of {len(archive)} elites"):
        archive.genome(row=10**6)


def test_an_archive_without_state_is_not_read_as_a_checkpoint(path: Path) -> None:
    with pytest.raises(UserError, match="not a checkpoint"):
        read_checkpoint(path)


# Queries


def test_the_error_for_an_empty_cell_of_a_file_names_the_nearest_occupied_one() -> None:
    archive = small_archive(shape=(10,), elites=2)
    archive.elites["cell"][:] = [2, 9]
    archive.elites["descriptor"][:] = archive.centroids[[2, 9]]
    assert archive.row_of(9) == 1
    with pytest.raises(UserError, match="cell 4 is empty; the nearest occupied one is 2"):
        archive.row_of(4)
    with pytest.raises(UserError, match="cells run from 0 to 9"):
        archive.row_of(10)


def test_the_error_for_a_dropped_entry_names_the_oldest_stored_one() -> None:
    archive = small_archive(kind="novelty", shape=(9, 2), elites=4)
    assert [archive.row_of(cell) for cell in range(5, 9)] == [0, 1, 2, 3]
    with pytest.raises(UserError, match="entry 4 was dropped; the oldest stored entry is 5"):
        archive.row_of(4)
    with pytest.raises(UserError, match="cells run from 0 to 8"):
        archive.row_of(9)
    with pytest.raises(UserError, match="the archive is empty"):
        small_archive(kind="novelty", shape=(0, 2), elites=0).row_of(0)


def test_a_novelty_archive_has_a_mean_novelty_and_no_coverage() -> None:
    archive = small_archive(kind="novelty", shape=(4, 1), elites=4)
    archive.elites["descriptor"][:] = [[0.0], [1.0], [3.0], [7.0]]  # mean distances to three: 11, 9, 9, 17 thirds
    assert archive.mean_novelty() == pytest.approx((11 + 9 + 9 + 17) / 12)
    assert np.isnan(archive.statistics().coverage)
    assert archive.statistics().elites == 4
    assert np.isnan(small_archive(kind="novelty", shape=(1, 1), elites=1).mean_novelty())
    with pytest.raises(ValueError, match="mean novelty needs an archive of kind 'novelty', this one is 'grid'"):
        small_archive().mean_novelty()


def test_the_nearest_elites_are_found_in_units_of_the_bounds() -> None:
    archive = small_archive(shape=(2, 2), elites=2)  # axis 0 spans 1, axis 1 spans 3
    archive.elites["descriptor"][:] = [[0.4, 0.0], [0.0, 0.9]]
    assert archive.nearest(np.zeros(2), 5).tolist() == [1, 0]


# Atomic writing


def test_a_failed_write_leaves_the_old_file_and_no_temporary_one(path: Path) -> None:
    good = path.read_bytes()
    with pytest.raises(TypeError):
        write_checkpoint(path, small_archive(seed=1), {"done": 1, "impossible": object()})
    assert path.read_bytes() == good
    assert list(path.parent.iterdir()) == [path]


@pytest.mark.parametrize(
    ("place", "wrong"),
    [
        ("/elites/genome", {"genomes": np.zeros((3, 6), np.float32)}),
        ("/archive/centroids", {"centroids": np.zeros((20, 3))}),
        ("/normalizer/var", {"normalizer": {"mean": np.zeros(3)}}),
        ("/history", {"history": {"generation": np.arange(3), "coverage": np.zeros(2)}}),
    ],
)
def test_an_archive_that_would_be_invalid_is_not_written(path: Path, place: str, wrong: dict[str, Any]) -> None:
    good = path.read_bytes()
    with pytest.raises(ValueError, match=f"not written, because the file would be invalid: {place}"):
        write_archive(path, replace(small_archive(), **wrong))
    assert path.read_bytes() == good
    assert list(path.parent.iterdir()) == [path]


def test_a_kill_during_writing_leaves_a_valid_file(path: Path) -> None:
    script = f"""
from qdrl.archives.hdf5 import write_archive
from tests.archives.builders import small_archive
archives = [small_archive(seed=seed, parameters=50_000) for seed in range(2)]
while True:
    for archive in archives:
        write_archive({str(path)!r}, archive)
        print(flush=True)
"""
    for delay in (0.0, 0.003, 0.01):
        with subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE) as writer:
            assert writer.stdout is not None
            writer.stdout.readline()
            time.sleep(delay)
            writer.send_signal(signal.SIGKILL)
        assert validate(path) == []
        seed = open_archive(path).attributes["seed"]
        assert_same(open_archive(path), small_archive(seed=seed, parameters=50_000))
    write_archive(path, small_archive())
    assert list(path.parent.iterdir()) == [path]  # the next write removes the temporary file of the kill


# Damaged files


def test_a_truncated_file_is_an_error_of_one_line(path: Path) -> None:
    whole = path.read_bytes()
    superblock = USER_BLOCK + 48  # from here on, HDF5 can read the original length of the file
    for length in [0, 1, 7, USER_BLOCK, USER_BLOCK + 8, superblock, *range(1000, len(whole), 4001), len(whole) - 1]:
        path.write_bytes(whole[:length])
        with pytest.raises(UserError) as refusal:
            open_archive(path)
        reason = str(refusal.value).removeprefix(f"{path}: ")
        if length >= superblock:
            assert reason.startswith(f"is truncated: {length} of {len(whole)} bytes; ")
        else:
            words = "is damaged: " if length > USER_BLOCK else "is not an HDF5 file; " if length else "is empty; "
            assert reason.startswith(words)
        assert "\n" not in reason
        assert validate(path) == [reason]


@pytest.mark.parametrize("column", ["genome", "fitness"])
def test_validate_finds_a_flipped_bit(path: Path, column: str) -> None:
    stored = small_archive()
    values = stored.all_genomes() if column == "genome" else stored.elites[column]
    content = bytearray(path.read_bytes())
    content[content.index(values[2:3].tobytes())] ^= 1
    path.write_bytes(content)
    problems = validate(path)
    assert len(problems) == 1
    assert problems[0].startswith(f"/elites/{column}: damaged: ")


def test_a_missing_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no such file"):
        open_archive(tmp_path / "none.h5")
    assert validate(tmp_path / "none.h5") == ["no such file"]


def test_files_of_other_programs_are_refused(tmp_path: Path) -> None:
    text, other = tmp_path / "notes.h5", tmp_path / "other.h5"
    text.write_text("not HDF5 at all")
    with h5py.File(other, "w") as file:
        file["x"] = 1
    with pytest.raises(UserError, match="is not an HDF5 file; give a file that qdrl wrote"):
        open_archive(text)
    with pytest.raises(UserError, match="not a qdrl archive"):
        open_archive(other)


def test_a_later_minor_version_is_read_and_a_later_major_one_is_not(path: Path) -> None:
    with damaged(path) as file:
        file.attrs["format_version"] = "1.7"
        file["a_later_addition"] = 1
    assert len(open_archive(path)) == 7
    with damaged(path) as file:
        file.attrs["format_version"] = "2.0"
    with pytest.raises(UserError, match=r"format_version is 2\.0; this qdrl reads 1\.2"):
        open_archive(path)


def delete(name: str) -> Any:
    return lambda file: file.__delitem__(name)


def put(name: str, values: Any) -> Any:
    return lambda file: replace_dataset(file, name, values)


def overwrite(name: str, index: Any, value: Any) -> Any:
    return lambda file: file[name].__setitem__(index, value)


def attribute(place: str, name: str, value: Any) -> Any:
    return lambda file: file[place].attrs.__setitem__(name, value)


DAMAGES = [
    ("/: attribute format is 'zip'", attribute("/", "format", "zip")),
    ("/: format_version is 9.1", attribute("/", "format_version", "9.1")),
    ("/elites/fitness: missing", delete("elites/fitness")),
    ("/elites/genome: missing", delete("elites/genome")),
    ("/meta/policy: missing", delete("meta/policy")),
    ("/history: missing", delete("history")),
    ("/archive/centroids: missing", delete("archive")),
    ("/normalizer/at/mean: missing", delete("normalizer/at/mean")),
    ("/archive: attribute qd_offset missing", lambda file: file["archive"].attrs.__delitem__("qd_offset")),
    ("/archive: kind is 'hexagons', none of grid, cvt, novelty", attribute("archive", "kind", "hexagons")),
    ("/archive: lower, upper and descriptor_units", attribute("archive", "lower", np.zeros(3))),
    ("/archive: lower [2.0, -1.0] must be finite and below", attribute("archive", "lower", np.array([2.0, -1]))),
    ("/archive: shape [20] does not give 20 cells", attribute("archive", "shape", np.array([20]))),
    ("/archive/centroids: shape (20, 3), expected (20, 2)", put("archive/centroids", np.zeros((20, 3)))),
    ("/archive/centroids: not finite", overwrite("archive/centroids", (0, 0), np.nan)),
    ("/elites/cell: must be ascending", overwrite("elites/cell", slice(None), np.arange(7)[::-1])),
    ("/elites/cell: must be ascending, each once, within 0..19", overwrite("elites/cell", 6, 20)),
    ("/elites/fitness: shape (6,), expected (7,)", put("elites/fitness", np.zeros(6))),
    ("/elites/fitness: not finite in rows [2]", overwrite("elites/fitness", 2, np.inf)),
    ("/elites/descriptor: shape (7, 3), expected (7, 2)", put("elites/descriptor", np.zeros((7, 3)))),
    ("/elites/descriptor: not finite in rows [0]", overwrite("elites/descriptor", (0, 1), np.nan)),
    ("/elites/generation: dtype float64, expected integers", put("elites/generation", np.zeros(7))),
    ("/elites/emitter: must lie within 0..1", overwrite("elites/emitter", 0, 2)),
    ("/elites/genome: shape (7,), expected (7, 7)", put("elites/genome", np.zeros(7, np.float32))),
    ("/elites/genome: not finite in rows [5]", overwrite("elites/genome", (5, 3), np.nan)),
    ("/meta/task: not JSON", put("meta/task", "{'name': ")),
    ("/meta/mjcf: does not match its sha256", overwrite("meta/mjcf", (), "<mujoco model='another'/>")),
    ("/history: metrics must have one length", put("history/coverage", np.zeros(2))),
    ("/normalizer/var: shape (4,), expected (3,)", put("normalizer/var", np.ones(4))),
]


@pytest.mark.parametrize(("place", "damage"), DAMAGES, ids=[place for place, _ in DAMAGES])
def test_validate_names_the_place_of_each_fault(path: Path, place: str, damage: Any) -> None:
    with damaged(path) as file:
        damage(file)
    problems = validate(path)
    assert len(problems) == 1
    assert problems[0].startswith(place)
    assert "\n" not in problems[0]
    if not place.startswith("/elites/genome: not finite"):  # opening does not read the genomes
        with pytest.raises(UserError) as refusal:
            open_archive(path)
        assert str(refusal.value) == f"{path}: {problems[0]}"


NOVELTY_DAMAGES = [
    ("/archive: attribute neighbours must be 1 or more", lambda file: file["archive"].attrs.__delitem__("neighbours")),
    ("/archive: attribute neighbours must be 1 or more", attribute("archive", "neighbours", 0)),
    ("/archive/centroids: shape (9, 2), expected (0, 2)", put("archive/centroids", np.zeros((9, 2)))),
    ("/archive: shape [3, 3] does not give 9 cells", attribute("archive", "shape", np.array([3, 3]))),
    ("/elites/cell: must be ascending, each once, within 0..8", overwrite("elites/cell", 6, 9)),
]


@pytest.mark.parametrize(("place", "damage"), NOVELTY_DAMAGES, ids=range(len(NOVELTY_DAMAGES)))
def test_validate_names_the_faults_of_a_novelty_archive(tmp_path: Path, place: str, damage: Any) -> None:
    path = tmp_path / "novelty.h5"
    write_archive(path, small_archive(kind="novelty", shape=(9, 2)))
    with damaged(path) as file:
        damage(file)
    problems = validate(path)
    assert len(problems) == 1
    assert problems[0].startswith(place)


def test_an_archive_of_format_1_0_is_read_unchanged(path: Path) -> None:
    with damaged(path) as file:
        file.attrs["format_version"] = "1.0"
    assert_same(open_archive(path), small_archive())
    assert file_format(path) == "qdrl-archive 1.0"


def test_validate_lists_all_problems_of_a_file(path: Path) -> None:
    with damaged(path) as file:
        file["elites/genome"][1] = np.inf
        file["elites/fitness"][4] = np.nan
        replace_dataset(file, "meta/config", "no JSON")
    places = [problem.split(":")[0] for problem in validate(path)]
    assert places == ["/elites/fitness", "/meta/config", "/elites/genome"]


# Digest


def test_the_digest_does_not_depend_on_time_machine_or_speed(path: Path, tmp_path: Path) -> None:
    again = small_archive()
    again.history["seconds"][:] *= 3
    again.attributes.update(created_utc="2031-01-01T00:00:00Z", git_commit="another", qdrl_version="0.2.0")
    again.meta.update(command={"arguments": ["elsewhere"]}, packages={"numpy": "3.0"})
    write_archive(tmp_path / "again.h5", again)
    assert content_digest(tmp_path / "again.h5") == content_digest(path)


def flip_genome_bit(archive: StoredArchive) -> None:
    archive.all_genomes().view(np.int32)[3, 2] ^= 1


def flip_fitness_bit(archive: StoredArchive) -> None:
    archive.elites["fitness"].view(np.int64)[0] ^= 1


def change_history(archive: StoredArchive) -> None:
    archive.history["clipped"][1] += 1


def change_normalizer(archive: StoredArchive) -> None:
    assert archive.normalizer is not None
    archive.normalizer["mean"][0] += 1e-12


@pytest.mark.parametrize("change", [flip_genome_bit, flip_fitness_bit, change_history, change_normalizer])
def test_the_digest_changes_with_every_bit_of_the_content(path: Path, tmp_path: Path, change: Any) -> None:
    other = small_archive()
    change(other)
    write_archive(tmp_path / "other.h5", other)
    assert content_digest(tmp_path / "other.h5") != content_digest(path)


# Imports


def test_reading_an_archive_imports_neither_torch_nor_mpi(path: Path) -> None:
    script = f"""
import json, sys
from qdrl import open_archive
open_archive({str(path)!r}).all_genomes()
print(json.dumps([name for name in ("torch", "mpi4py", "mujoco", "matplotlib") if name in sys.modules]))
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert json.loads(done.stdout) == []
