"""Runs with critics under real MPI: the same archive on any number of ranks, and after kills."""

import signal
import subprocess
import time
from pathlib import Path

import pytest

from qdrl.archives.hdf5 import content_digest, open_archive, validate
from tests.helpers.processes import mpirun, run_qdrl, run_until_killed, start_mpirun

NAMES = ("pga_map_elites", "dcg_map_elites", "dcrl_map_elites")
CONFIG = """
name = "critics"
seed = 4
[task]
name = "hopper_uni"
episode_length = 30
[policy]
hidden_sizes = [8, 8]
normalize_observations = true
[archive]
cells = 32
samples = 2000
[algorithm]
name = "{name}"
batch_size = 12
{split}
replay_capacity = 700
critic = {{ steps = 20, batch_size = 16, hidden_sizes = [16, 16] }}
gradient = {{ steps = 5, batch_size = 16 }}
[run]
generations = 6
checkpoint_seconds = 0
[compute]
worlds = 8
"""
LEARNERS = "dcrl_map_elites with 4 learners"
SPLIT = {
    LEARNERS: "gradient_rows = 3\nactor_rows = 3\nlearners = 4",
    "pga_map_elites": "gradient_rows = 5\nactor_rows = 1",
    "dcg_map_elites": "gradient_rows = 6\nprobe_rows = 12",
    "dcrl_map_elites": "gradient_rows = 3\nactor_rows = 3",
}


@pytest.fixture(scope="module", params=[*NAMES, LEARNERS])
def run(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """An experiment file and the digest of its archive, made by one process without MPI."""
    folder = tmp_path_factory.mktemp(request.param)
    config = folder / "config.toml"
    config.write_text(CONFIG.format(name=request.param.split()[0], split=SPLIT[request.param]))
    run_qdrl("evolve", config, "--output", folder / "alone", check=True)
    assert validate(folder / "alone" / "archive.h5") == []
    assert open_archive(folder / "alone" / "archive.h5").history["critic_steps"].tolist() == [20] * 6
    return config, content_digest(folder / "alone" / "archive.h5")


@pytest.mark.mpi
@pytest.mark.parametrize("ranks", [1, 2, 3, 4])
def test_the_archive_is_the_same_for_any_number_of_ranks(run: tuple[Path, str], tmp_path: Path, ranks: int) -> None:
    config, digest = run
    job = mpirun(ranks, ["-m", "qdrl", "evolve", config, "--output", tmp_path / "run"], timeout=120)
    assert job.returncode == 0, job.stderr
    assert content_digest(tmp_path / "run" / "archive.h5") == digest


@pytest.mark.mpi
def test_a_killed_run_resumes_on_other_ranks_to_the_same_archive(run: tuple[Path, str], tmp_path: Path) -> None:
    config, digest = run
    folder = tmp_path / "run"
    arguments = ["-m", "qdrl", "evolve", config, "--output", folder]
    for rows in (2, 4):
        run_until_killed(arguments, folder, rows)
        arguments = ["-m", "qdrl", "resume", folder]
    with start_mpirun(2, ["-m", "qdrl", "resume", folder]) as job:  # stopped when asked to, on other ranks
        time.sleep(2)
        job.send_signal(signal.SIGUSR1)
        job.communicate(timeout=120)
    job = mpirun(3, ["-m", "qdrl", "resume", folder], timeout=120)
    assert job.returncode == 0, job.stderr
    assert content_digest(folder / "archive.h5") == digest


DYING = "algorithm.name=tests.helpers.raising:DcrlDyingOnOneRank"


@pytest.mark.mpi
@pytest.mark.parametrize("learners", [1, 2])
def test_a_killed_rank_that_only_evaluated_is_survived(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, learners: int
) -> None:
    digest = _alone(tmp_path, learners)
    monkeypatch.setenv("QDRL_TEST_DYING_RANK", "2")
    job = _dying(tmp_path, learners)
    assert job.returncode == 0, job.stderr
    assert "1 of 3 ranks died, 2 go on; generation 2 is done again" in job.stderr
    assert content_digest(tmp_path / "run" / "archive.h5") == digest


@pytest.mark.mpi
@pytest.mark.parametrize(
    ("learners", "dying", "moment"), [(1, 0, "ask"), (2, 1, "ask"), (2, 1, "train"), (3, 2, "train")]
)
def test_without_a_learner_a_job_ends_and_resumes_to_the_same_archive(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, learners: int, dying: int, moment: str
) -> None:
    digest = _alone(tmp_path, learners)
    monkeypatch.setenv("QDRL_TEST_DYING_RANK", str(dying))
    monkeypatch.setenv("QDRL_TEST_DYING_MOMENT", moment)
    job = _dying(tmp_path, learners)
    assert job.returncode != 0
    assert "a rank that learned was lost, and its replay with it: resume from the last checkpoint" in job.stderr
    monkeypatch.delenv("QDRL_TEST_DYING_RANK")
    job = mpirun(2, ["-m", "qdrl", "resume", tmp_path / "run"], timeout=120)
    assert job.returncode == 0, job.stderr
    assert content_digest(tmp_path / "run" / "archive.h5") == digest


def _alone(folder: Path, learners: int) -> str:
    """A run of one process, and its archive's digest."""
    config = folder / "config.toml"
    batch = CONFIG.replace("batch_size = 16", "batch_size = 18")  # shared equally by 1, 2 and 3
    config.write_text(batch.format(name="dcrl_map_elites", split=SPLIT["dcrl_map_elites"]))
    run_qdrl("evolve", config, "--output", folder / "alone", *_set(learners), check=True)
    return content_digest(folder / "alone" / "archive.h5")


def _dying(folder: Path, learners: int) -> subprocess.CompletedProcess[str]:
    arguments = ["-m", "qdrl", "evolve", folder / "config.toml", "--output", folder / "run", *_set(learners)]
    return mpirun(3, arguments, timeout=120, options=["--with-ft", "ulfm"])


def _set(learners: int) -> list[str]:
    return ["--set", DYING, "--set", f"algorithm.learners={learners}"]
