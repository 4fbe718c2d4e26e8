"""Runs with critics from the command line: after kills and a stop, and with killed ranks."""

import signal
import subprocess
import time
from pathlib import Path

import pytest

from qdrl.archives.hdf5 import content_digest
from tests.helpers.experiments import DCRL_HOPPER
from tests.helpers.processes import mpirun, run_qdrl, run_until_killed, start_mpirun


@pytest.mark.slow
@pytest.mark.mpi
def test_a_run_that_is_killed_twice_and_stopped_once_resumes_on_other_ranks_to_the_same_archive(tmp_path: Path) -> None:
    config, folder = tmp_path / "config.toml", tmp_path / "run"
    config.write_text(DCRL_HOPPER)
    run_qdrl("evolve", config, "--output", tmp_path / "alone", check=True)
    arguments = ["-m", "qdrl", "evolve", config, "--output", folder]
    for rows in (2, 4):
        run_until_killed(arguments, folder, rows)
        arguments = ["-m", "qdrl", "resume", folder]
    with start_mpirun(2, ["-m", "qdrl", "resume", folder], fresh=True) as job:  # stopped by a signal, on other ranks
        time.sleep(2)
        job.send_signal(signal.SIGUSR1)
        job.communicate(timeout=120)
    job = mpirun(3, ["-m", "qdrl", "resume", folder], timeout=120)
    assert job.returncode == 0, job.stderr
    assert content_digest(folder / "archive.h5") == content_digest(tmp_path / "alone" / "archive.h5")


DYING = "algorithm.name=tests.helpers.raising:DcrlDyingOnOneRank"


@pytest.mark.slow
@pytest.mark.mpi
@pytest.mark.parametrize("learners", [1, 2])
def test_a_job_survives_a_killed_rank_that_is_not_a_learner(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, learners: int
) -> None:
    digest = _alone(tmp_path, learners)
    monkeypatch.setenv("QDRL_TEST_DYING_RANK", "2")
    job = _dying(tmp_path, learners)
    assert job.returncode == 0, job.stderr
    assert "1 of 3 ranks died, 2 continue; generation 2 is repeated" in job.stderr
    assert content_digest(tmp_path / "run" / "archive.h5") == digest


@pytest.mark.slow
@pytest.mark.mpi
@pytest.mark.parametrize(
    ("learners", "dying", "moment"),
    [
        (2, 1, "train"),
        (1, 0, "ask"),
        (2, 1, "ask"),
        (3, 2, "train"),
    ],
)
def test_a_job_that_lost_a_learner_ends_and_resumes_to_the_same_archive(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, learners: int, dying: int, moment: str
) -> None:
    digest = _alone(tmp_path, learners)
    monkeypatch.setenv("QDRL_TEST_DYING_RANK", str(dying))
    monkeypatch.setenv("QDRL_TEST_DYING_MOMENT", moment)
    job = _dying(tmp_path, learners)
    assert job.returncode != 0
    assert "a learner rank was lost together with its part of the replay buffer: resume from" in job.stderr
    monkeypatch.delenv("QDRL_TEST_DYING_RANK")
    job = mpirun(2, ["-m", "qdrl", "resume", tmp_path / "run"], timeout=120)
    assert job.returncode == 0, job.stderr
    assert content_digest(tmp_path / "run" / "archive.h5") == digest


def _alone(folder: Path, learners: int) -> str:
    """Run in one process and return the digest of the archive."""
    config = folder / "config.toml"
    config.write_text(DCRL_HOPPER.replace("batch_size = 16", "batch_size = 18"))  # shared equally by 1, 2 and 3
    run_qdrl("evolve", config, "--output", folder / "alone", *_set(learners), check=True)
    return content_digest(folder / "alone" / "archive.h5")


def _dying(folder: Path, learners: int) -> subprocess.CompletedProcess[str]:
    arguments = ["-m", "qdrl", "evolve", folder / "config.toml", "--output", folder / "run", *_set(learners)]
    return mpirun(3, arguments, timeout=120, options=["--with-ft", "ulfm"])


def _set(learners: int) -> list[str]:
    return ["--set", DYING, "--set", f"algorithm.learners={learners}"]
