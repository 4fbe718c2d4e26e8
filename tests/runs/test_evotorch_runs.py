"""Runs of EvoTorch's searchers: the same archive on any number of ranks, and after a kill."""

import shutil
from pathlib import Path

import numpy as np
import pytest

from qdrl.archives.hdf5 import content_digest, open_archive, validate
from qdrl.parallel.ranks import OneProcess
from qdrl.run.resume import load, resume
from qdrl.run.start import start
from tests.helpers.processes import mpirun, run_python
from tests.programs.evotorch import GENERATIONS, SEARCHERS, evolve, experiment

PROGRAM = ["-m", "tests.programs.evotorch"]


@pytest.fixture(scope="module")
def digests(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Digest of each searcher's archive, made by one process without MPI."""
    folder = tmp_path_factory.mktemp("alone")
    evolve(OneProcess(), folder)
    for searcher in SEARCHERS:
        assert validate(folder / searcher / "archive.h5") == []
        assert len(open_archive(folder / searcher / "archive.h5").history["skipped_updates"]) == GENERATIONS
    found = {searcher: content_digest(folder / searcher / "archive.h5") for searcher in SEARCHERS}
    assert len(set(found.values())) == len(SEARCHERS)
    return found


@pytest.fixture(scope="module")
def killed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a run of each searcher that SIGKILL ended; file `until` in each names a generation ahead of it."""
    folder = tmp_path_factory.mktemp("killed")
    run_python([*PROGRAM, "kill", folder], check=True)
    for searcher in SEARCHERS:
        generation = load(folder / searcher).algorithm.generation
        assert generation >= 4
        (folder / searcher / "until").write_text(str(generation + 5))
    return folder


@pytest.fixture(scope="module")
def ranks(killed: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folders `1` to `4` with every searcher's run on so many ranks, and `killed` with killed runs resumed on two."""
    folder = tmp_path_factory.mktemp("ranks")
    shutil.copytree(killed, folder / "killed")
    job = mpirun(4, [*PROGRAM, "split", folder], timeout=300)
    assert job.returncode == 0, job.stderr
    assert job.stdout == ""  # EvoTorch logs there unless told otherwise
    return folder


def whole(killed: Path, searcher: str, folder: Path) -> str:
    """Digest of the run that was not killed."""
    start(experiment(searcher, until(killed, searcher)), OneProcess(), folder=folder, progress=False)
    return content_digest(folder / "archive.h5")


def until(killed: Path, searcher: str) -> int:
    return int((killed / searcher / "until").read_text())


@pytest.mark.mpi
@pytest.mark.parametrize("count", [1, 2, 3, 4])
@pytest.mark.parametrize("searcher", SEARCHERS)
def test_archives_are_the_same_for_any_number_of_ranks(
    ranks: Path, digests: dict[str, str], searcher: str, count: int
) -> None:
    stored = ranks / str(count) / searcher / "archive.h5"
    assert content_digest(stored) == digests[searcher]
    assert open_archive(stored).meta["command"]["ranks"] == count


@pytest.mark.parametrize("searcher", SEARCHERS)
def test_a_killed_run_goes_on_to_the_archive_and_the_state_of_one_that_was_not(
    killed: Path, tmp_path: Path, searcher: str
) -> None:
    shutil.copytree(killed / searcher, tmp_path / "run")
    budget = [f"run.generations={until(killed, searcher)}", "run.checkpoint_seconds=60"]
    resume(tmp_path / "run", OneProcess(), overrides=budget, progress=False)
    assert whole(killed, searcher, tmp_path / "whole") == content_digest(tmp_path / "run" / "archive.h5")
    ours, theirs = (load(tmp_path / name).algorithm.state_dict()["searcher"] for name in ("run", "whole"))
    assert ours.keys() == theirs.keys()
    for name, value in ours.items():
        np.testing.assert_array_equal(value, theirs[name], err_msg=name)


@pytest.mark.mpi
@pytest.mark.parametrize("searcher", SEARCHERS)
def test_a_killed_run_goes_on_with_other_ranks_to_the_same_archive(
    killed: Path, ranks: Path, tmp_path: Path, searcher: str
) -> None:
    resumed = content_digest(ranks / "killed" / searcher / "archive.h5")
    assert resumed == whole(killed, searcher, tmp_path / "whole")
