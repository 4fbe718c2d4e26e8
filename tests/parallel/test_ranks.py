"""Ranks: one process, and real MPI jobs."""

import ast
import os
import subprocess
import sys
import time
from itertools import chain
from pathlib import Path

import numpy as np
import pytest
import torch

from qdrl.errors import UserError
from qdrl.parallel.launcher import THREAD_VARIABLES, abort, launched_rank, launched_size, limit_threads, local_size
from qdrl.parallel.ranks import OneProcess, connect
from tests.helpers.processes import mpirun
from tests.programs.ranks import COUNTS, PARAMETERS, evaluation_of, requested_rows

LAUNCHER_VARIABLES = ("OMPI_COMM_WORLD_RANK", "PMIX_RANK", "PMI_RANK", "MV2_COMM_WORLD_RANK")


@pytest.fixture
def no_launcher(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in (*LAUNCHER_VARIABLES, "QDRL_LAUNCHER", *SRUN):
        monkeypatch.delenv(name, raising=False)


def test_without_a_launcher_one_process_does_all_rows_and_shares_with_itself(no_launcher: None):
    ranks = connect()
    assert isinstance(ranks, OneProcess)
    assert (ranks.rank, ranks.size, ranks.first) == (0, 1, True)
    assert ranks.rows(7) == range(7)
    evaluation = evaluation_of(range(7), moments=True)
    assert ranks.share(evaluation, 7) is evaluation
    assert ranks.any(True)
    assert not ranks.any(False)
    assert ranks.from_first("x") == "x"
    assert ranks.gather("x") == ["x"]


@pytest.mark.parametrize("name", LAUNCHER_VARIABLES)
def test_the_rank_is_read_from_the_launcher(name: str, no_launcher: None, monkeypatch: pytest.MonkeyPatch):
    assert launched_rank() is None
    monkeypatch.setenv(name, "3")
    assert launched_rank() == 3


@pytest.mark.parametrize(
    ("environment", "expected"),
    [
        ({}, None),
        ({"OMPI_COMM_WORLD_SIZE": "4", "SLURM_PROCID": "0", "SLURM_STEP_NUM_TASKS": "1"}, 4),
        ({"PMI_SIZE": "3"}, 3),
        ({"PMIX_RANK": "2", "SLURM_PROCID": "2", "SLURM_STEP_NUM_TASKS": "8"}, 8),
        ({"SLURM_PROCID": "0", "SLURM_STEP_NUM_TASKS": "1"}, None),  # a batch script, not a rank
    ],
)
def test_the_number_of_ranks_is_read_from_the_launcher(
    environment: dict[str, str], expected: int | None, no_launcher: None, monkeypatch: pytest.MonkeyPatch
):
    for name in ("OMPI_COMM_WORLD_SIZE", "PMI_SIZE", "SLURM_PROCID", "SLURM_STEP_NUM_TASKS"):
        monkeypatch.delenv(name, raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    assert launched_size() == expected


@pytest.mark.parametrize(("node", "expected"), [("0", 4), ("1", 4), ("2", 3), ("3", 1)])
def test_the_number_of_ranks_of_a_node_is_read_from_slurm(
    node: str, expected: int, no_launcher: None, monkeypatch: pytest.MonkeyPatch
):
    for name in ("OMPI_COMM_WORLD_LOCAL_SIZE", "MPI_LOCALNRANKS"):
        monkeypatch.delenv(name, raising=False)
    for name, value in {"SLURM_PROCID": "7", "SLURM_NODEID": node, "SLURM_STEP_TASKS_PER_NODE": "4(x2),3"}.items():
        monkeypatch.setenv(name, value)
    assert local_size() == 1  # no launcher: a single process
    monkeypatch.setenv("PMIX_RANK", "7")
    assert local_size() == expected


SRUN = {"SLURM_JOB_ID": "7", "SLURM_STEP_ID": "0", "SLURM_PROCID": "0", "SLURM_STEP_NUM_TASKS": "2"}


def test_tasks_that_srun_started_without_pmi_are_refused(no_launcher: None, monkeypatch: pytest.MonkeyPatch):
    for name, value in SRUN.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(UserError, match=r"srun started 2 tasks .*`srun --mpi=pmix`.* mpirun.* QDRL_LAUNCHER=none"):
        connect()
    monkeypatch.setenv("QDRL_LAUNCHER", "none")  # separate runs, on purpose
    assert isinstance(connect(), OneProcess)


@pytest.mark.parametrize(
    "environment",
    [
        SRUN | {"SLURM_STEP_NUM_TASKS": "1"},
        {"SLURM_JOB_ID": "7", "SLURM_PROCID": "0", "SLURM_NTASKS": "8"},  # a batch script: its job has more tasks
        {"SLURM_JOB_ID": "7", "SLURM_STEP_NUM_TASKS": "8"},
        {"PMI_RANK": "", "PMIX_RANK": "none"},
    ],
)
def test_one_task_and_a_batch_script_run_alone(
    environment: dict[str, str], no_launcher: None, monkeypatch: pytest.MonkeyPatch
):
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    assert isinstance(connect(), OneProcess)


def test_without_mpi4py_one_rank_runs_alone_and_several_are_refused(
    no_launcher: None, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    monkeypatch.setitem(sys.modules, "mpi4py", None)
    monkeypatch.delitem(sys.modules, "qdrl.parallel.mpi", raising=False)
    monkeypatch.setenv("PMI_RANK", "0")
    monkeypatch.setenv("PMI_SIZE", "1")
    assert isinstance(connect(), OneProcess)
    assert capsys.readouterr().err.count("\n") == 1
    monkeypatch.setenv("PMI_SIZE", "4")
    with pytest.raises(UserError, match=r"4 ranks were launched but MPI cannot be used .*pip install 'qdrl\[mpi\]'"):
        connect()
    with pytest.raises(SystemExit):  # nothing to abort: the launcher gets the exit code
        abort(RuntimeError("first"), 0)
    assert "RuntimeError: first" in capsys.readouterr().err


@pytest.mark.mpi
def test_ranks_that_mpi_does_not_connect_are_an_error(no_launcher: None, monkeypatch: pytest.MonkeyPatch):
    program = "from qdrl.parallel.ranks import connect; connect()"
    environment = {"PMI_RANK": "1", "PMI_SIZE": "2"}
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=False, env=os.environ | environment
    )
    assert "2 ranks were launched but mpi4py's MPI sees 1" in done.stderr


def test_every_numeric_library_gets_one_thread():
    environment: dict[str, str] = {}
    assert limit_threads(environment) == dict.fromkeys(THREAD_VARIABLES, "1")
    assert environment == dict.fromkeys(THREAD_VARIABLES, "1")


def test_a_thread_count_that_the_user_set_stays():
    environment = {"OMP_NUM_THREADS": "8", "HOME": "/"}
    limits = limit_threads(environment)
    assert limits["OMP_NUM_THREADS"] == "8"
    assert limits["MKL_NUM_THREADS"] == "1"
    assert "HOME" not in limits


def test_one_process_loads_no_mpi_and_no_numeric_library_before_threads_are_limited(no_launcher: None):
    program = (
        "import sys; from qdrl.parallel.launcher import limit_threads; limit_threads();"
        "from qdrl.parallel.ranks import connect; connect();"
        "print([name for name in ('mpi4py', 'torch', 'numpy') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


@pytest.fixture(scope="module", params=[2, 3, 4], ids=lambda size: f"{size} ranks")
def exchanged(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Return the files that the ranks of a job saved, without their suffix."""
    folder = tmp_path_factory.mktemp("exchange")
    done = mpirun(request.param, ["-m", "tests.programs.ranks", "exchange", folder])
    assert done.returncode == 0, done.stderr
    return [folder / str(rank) for rank in range(request.param)]


@pytest.mark.mpi
def test_every_rank_has_the_bits_of_one_process_after_sharing(exchanged: list[Path]):
    for saved in exchanged:
        with np.load(saved.with_suffix(".npz")) as seen:
            for count in COUNTS:  # including zero rows and fewer rows than ranks
                for moments in (False, True):
                    _assert_seen(seen, f"{count}/{moments}/", count, moments=moments)


def _assert_seen(seen: np.lib.npyio.NpzFile, prefix: str, count: int, *, moments: bool) -> None:
    alone = evaluation_of(range(count), moments=moments)
    expected = {name: column.numpy() for name, column in alone.columns().items()}
    expected["rows"] = np.arange(count)
    for name, rows in requested_rows(count).items():
        expected[f"genomes of {name}"] = alone.own_genomes(rows).numpy()
        assert expected[f"genomes of {name}"].shape == (len(rows), PARAMETERS)
    assert {name for name in seen if name.startswith(prefix)} == {prefix + name for name in expected}
    for name, value in expected.items():
        got = seen[prefix + name]
        assert (got.dtype, got.shape) == (value.dtype, value.shape), name
        assert got.tobytes() == value.tobytes(), name  # NaN of failed rows too


@pytest.mark.mpi
def test_ranks_split_rows_into_even_blocks_and_share_flags_and_values(exchanged: list[Path]):
    size = len(exchanged)
    results = [ast.literal_eval(saved.with_suffix(".txt").read_text()) for saved in exchanged]
    assert [t[:3] for t in results] == [(rank, size, rank == 0) for rank in range(size)]
    for count in range(20):
        blocks = [t[3][count] for t in results]
        assert list(chain(*blocks)) == list(range(count))
        assert max(map(len, blocks)) - min(map(len, blocks)) <= 1
    assert all(t[4:] == (False, [True] * size, 100) for t in results)


@pytest.mark.mpi
def test_a_failure_on_one_rank_ends_the_job_at_once_with_that_ranks_traceback(tmp_path: Path):
    done = mpirun(3, ["-m", "tests.programs.ranks", "fail", tmp_path])
    lasted = time.time() - float((tmp_path / "failed_at").read_text())
    assert done.returncode != 0
    assert lasted < 5
    assert "qdrl: rank 1 failed; the whole job is aborted" in done.stderr
    assert 'in fail\n    raise ArithmeticError("the physics of rank one broke")' in done.stderr
    assert "ArithmeticError: the physics of rank one broke" in done.stderr
    assert not list(tmp_path.glob("*went on"))


@pytest.mark.mpi
def test_a_job_that_hangs_is_ended_with_its_ranks(tmp_path: Path):
    program = "import os, pathlib, sys, time; pathlib.Path(sys.argv[1], str(os.getpid())).touch(); time.sleep(60)"
    with pytest.raises(subprocess.TimeoutExpired):
        mpirun(2, ["-c", program, tmp_path], timeout=2)
    pids = [path.name for path in tmp_path.iterdir()]
    assert len(pids) == 2
    give_up = time.monotonic() + 5
    while left := [pid for pid in pids if Path("/proc", pid).exists()]:
        assert time.monotonic() < give_up, f"processes {left} are still alive"
        time.sleep(0.05)


def test_rows_that_failed_have_no_fitness():
    evaluation = evaluation_of(range(6), moments=False)
    assert torch.equal(evaluation.failed, torch.isnan(evaluation.fitness))
