"""Jobs under `mpirun --with-ft ulfm` that lose a rank at the start, at the last save or at exit."""

import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner

from qdrl.archives.atomic import clear_leftovers
from qdrl.archives.hdf5 import content_digest, validate
from qdrl.cli import qdrl
from qdrl.config import load_experiment
from qdrl.errors import RankLost
from qdrl.parallel.ranks import OneProcess, repeat_after_losses
from qdrl.run.resume import load
from qdrl.run.start import start
from tests.helpers.experiments import DCRL_POINT
from tests.helpers.processes import mpirun

ULFM = ["--with-ft", "ulfm"]
ARM = """
name = "arm"
seed = 5
[task]
name = "arm"
[archive]
kind = "grid"
shape = [20, 20]
[algorithm]
name = "map_elites"
batch_size = 37
[run]
generations = 6
checkpoint_seconds = 0
"""
# A rank needs only the lines around MPI_Init to start; importing torch would take seconds.
START = """
import os, signal, sys
from qdrl.parallel.start_watch import watched_start
def die_at(moment):
    if os.environ["OMPI_COMM_WORLD_RANK"] == "1" and moment == sys.argv[1]:
        os.kill(os.getpid(), signal.SIGKILL)
die_at("launch")
with watched_start():
    die_at("connect")
    from mpi4py import MPI
print("started")
"""


def _write(folder: Path, text: str) -> tuple[Path, str]:
    """Write an experiment and return its file and the digest of its archive, made by one process."""
    config = folder / "config.toml"
    config.write_text(text)
    outcome = start(load_experiment(config), OneProcess(), folder=folder / "alone", progress=False)
    return config, content_digest(outcome.archive)


@pytest.mark.mpi
@pytest.mark.parametrize("moment", ["launch", "connect"])
def test_a_job_ends_with_one_line_when_a_rank_is_killed_while_mpi_starts(moment: str) -> None:
    job = mpirun(3, ["-c", START, moment], timeout=60, options=ULFM)
    assert job.returncode != 0
    assert "died while the job started, so the job is ended; start it again" in job.stderr
    assert "Traceback" not in job.stderr
    assert "started" not in job.stdout


@pytest.mark.mpi
def test_the_watch_process_ends_after_the_start_and_is_not_used_without_ulfm() -> None:
    for options in (ULFM, []):
        job = mpirun(2, ["-c", START, "never"], timeout=60, options=options)
        assert (job.returncode, job.stdout, job.stderr) == (0, "started\n" * 2, "")


@pytest.mark.mpi
@pytest.mark.parametrize(
    "moment",
    ["write", pytest.param("collect", marks=pytest.mark.slow), pytest.param("figures", marks=pytest.mark.slow)],
)
def test_the_next_first_rank_writes_the_last_files_and_draws_the_figures(
    moment: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config, digest = _write(tmp_path, ARM)
    monkeypatch.setenv("QDRL_TEST_DYING_MOMENT", moment)
    run = tmp_path / "run"
    arguments = ["-m", "qdrl", "evolve", config, "--output", run]
    arguments += ["--set", "algorithm.name=tests.helpers.raising:MapElitesDyingInTheLastSave"]
    job = mpirun(3, arguments, timeout=120, options=ULFM)
    assert job.returncode == 0, job.stderr
    assert "1 of 3 ranks died, 2 continue" in job.stderr
    assert content_digest(run / "archive.h5") == digest
    assert validate(run / "checkpoint.h5") == []
    assert load(run).algorithm.generation == 6
    assert sorted(path.name for path in (run / "figures").iterdir()) == ["curves.png", "heatmap.png"]
    assert not [path.name for path in run.iterdir() if path.name.endswith((".tmp", ".lock"))]
    assert str(run / "archive.h5") in job.stdout


@pytest.mark.mpi
@pytest.mark.slow  # a job with a critic, and another that resumes it
@pytest.mark.parametrize("moment", ["collect", "write"])
def test_a_job_that_cannot_write_its_last_files_fails_and_resumes_from_the_previous_save(
    moment: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config, digest = _write(tmp_path, DCRL_POINT)
    monkeypatch.setenv("QDRL_TEST_DYING_MOMENT", moment)
    run = tmp_path / "run"
    arguments = ["-m", "qdrl", "evolve", config, "--output", run]
    arguments += ["--set", "algorithm.name=tests.helpers.raising:DcrlDyingInTheLastSave"]
    job = mpirun(3, arguments, timeout=120, options=ULFM)
    assert job.returncode not in (0, 75)
    assert "a learner rank was lost together with its part of the replay buffer: resume from" in job.stderr
    assert "Traceback" not in job.stderr
    assert validate(run / "checkpoint.h5") == []
    resumed = CliRunner().invoke(qdrl, ["resume", str(run)], catch_exceptions=False)
    assert resumed.exit_code == 0, resumed.output
    assert content_digest(run / "archive.h5") == digest


@pytest.mark.mpi
def test_ranks_exit_with_their_code_when_one_of_them_is_killed_at_exit(tmp_path: Path) -> None:
    job = mpirun(3, ["-m", "tests.programs.ranks", "leave", tmp_path], timeout=60, options=ULFM)
    assert job.returncode == 75, job.stderr
    assert job.stdout == "left\n"  # buffered output is not lost


@pytest.mark.mpi
@pytest.mark.slow  # four ranks that import torch
def test_a_table_in_shared_memory_is_rebuilt_after_ranks_are_killed(tmp_path: Path) -> None:
    job = mpirun(4, ["-m", "tests.programs.ranks", "share_memory", tmp_path], timeout=120, options=ULFM)
    assert job.returncode == 0, job.stderr
    assert sorted(path.name for path in tmp_path.iterdir()) == ["0 of 2", "1 of 2"]


def test_collective_work_is_repeated_after_every_loss() -> None:
    losses, noted = iter([RankLost("rank 1"), RankLost("rank 2")]), list[str]()

    def work() -> int:
        for loss in losses:
            raise loss
        return 7

    assert repeat_after_losses(work, lambda loss: noted.append(str(loss))) == 7
    assert noted == ["rank 1", "rank 2"]


def test_temporary_files_of_a_killed_writer_are_removed_and_nothing_else(tmp_path: Path) -> None:
    for name in (".archive.h5.tmp", ".config.toml.tmp", "archive.h5", ".lock", "notes.tmp"):
        (tmp_path / name).touch()
    clear_leftovers(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == [".lock", "archive.h5", "notes.tmp"]


def test_a_process_ends_although_mpi_abort_hangs() -> None:
    program = """
import sys, time, types
import qdrl.parallel.launcher as launcher
launcher._ABORT_SECONDS = 0.2
world = types.SimpleNamespace(Get_size=lambda: 3, Abort=lambda code: time.sleep(60))
sys.modules["mpi4py.MPI"] = types.SimpleNamespace(Is_initialized=lambda: True, COMM_WORLD=world)
launcher.end_all_ranks(2)
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=30, check=False)
    assert (done.returncode, done.stderr) == (1, "")
