"""Starting real MPI jobs from tests."""

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import pytest

from qdrl.parallel.ranks import THREAD_VARIABLES

_LAUNCH_FAILURE = "PMIx server's listener thread failed to start"  # on a busy machine, before any rank exists
_LAUNCH_DELAYS = (1.0, 2.0, 4.0)  # seconds


def mpirun(
    ranks: int, arguments: Sequence[str | Path], timeout: float = 60, options: Sequence[str] = ()
) -> subprocess.CompletedProcess[str]:
    """Run `python <arguments>` on that many ranks, from the repository's root.

    Skips the test where there is no mpirun. A job that outlives its time is ended, ranks and all. A job that mpirun
    could not start, because its own listener thread failed, is started again.

    Args:
        ranks: how many processes.
        arguments: of this Python: `["-m", "qdrl", "evolve", ...]` or a script and its arguments.
        timeout: seconds.
        options: of mpirun itself.

    Returns:
        exit code, stdout and stderr of the job.

    Raises:
        subprocess.TimeoutExpired: the job did not end in time.
    """
    done = _run_to_the_end(ranks, arguments, timeout, options)
    for delay in _LAUNCH_DELAYS:
        if _LAUNCH_FAILURE not in done.stderr:
            break
        time.sleep(delay)
        done = _run_to_the_end(ranks, arguments, timeout, options)
    return done


def _run_to_the_end(
    ranks: int, arguments: Sequence[str | Path], timeout: float, options: Sequence[str]
) -> subprocess.CompletedProcess[str]:
    with start_mpirun(ranks, arguments, options) as job:
        try:
            stdout, stderr = job.communicate(timeout=timeout)
        except subprocess.TimeoutExpired:
            job.send_signal(signal.SIGTERM)  # mpirun then ends its ranks; killed, it would leave them behind
            try:
                job.communicate(timeout=10)
            except subprocess.TimeoutExpired:
                job.kill()
            raise
    return subprocess.CompletedProcess(job.args, job.returncode, stdout, stderr)


def run_until_killed(command: Sequence[str], run: Path, rows: int) -> None:
    """Start a run, or go on with one, and SIGKILL it once its metrics.csv has that many lines, the header included."""
    metrics, deadline = run / "metrics.csv", time.monotonic() + 60
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as job:
        while job.poll() is None and time.monotonic() < deadline:
            if metrics.exists() and len(metrics.read_text().splitlines()) >= rows:
                break
            time.sleep(0.005)
        job.send_signal(signal.SIGKILL)


def start_mpirun(ranks: int, arguments: Sequence[str | Path], options: Sequence[str] = ()) -> "subprocess.Popen[str]":
    """The same job, not waited for."""
    return subprocess.Popen(
        [_launcher(), "-n", str(ranks), "--oversubscribe", *options, sys.executable, *map(str, arguments)],
        cwd=Path(__file__).parents[2],
        env=_environment(),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def _launcher() -> str:
    beside = Path(sys.executable).parent / "mpirun"
    found = str(beside) if beside.exists() else shutil.which("mpirun")
    if found is None:
        pytest.skip("no mpirun; `pip install qdrl[mpi]` brings one")
    return found


def _environment() -> dict[str, str]:
    environment = dict(os.environ) | dict.fromkeys(THREAD_VARIABLES, "1")
    if os.geteuid() == 0:
        environment |= {"OMPI_ALLOW_RUN_AS_ROOT": "1", "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1"}
    return environment
