"""A watch process that ends the job when a rank dies while the job starts.

Under `mpirun --with-ft ulfm` collective calls notice a dead rank, but `MPI_Init` does not: when a rank dies before its
`MPI_Init` returns, all others wait in theirs for ever (Open MPI 5.0.11, 10 jobs of 10). `MPI_Init` also keeps Python's
interpreter lock, so no thread of a rank can watch. Each rank therefore starts a watch process, which runs until all
ranks have started. It ends the launcher, and with it the job on all nodes, when its own rank dies or when another rank
of its node is missing from the process table.

This file is also the program of the watch process. It runs by path, outside the package, and imports the standard
library only.
"""

import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

_RANK = "OMPI_COMM_WORLD_RANK"
_JOB = "PMIX_NAMESPACE"  # starts with the name of the launcher
_LOCAL_RANK, _LOCAL_SIZE = "OMPI_COMM_WORLD_LOCAL_RANK", "OMPI_COMM_WORLD_LOCAL_SIZE"
_LAUNCHERS = ("prterun", "prted")  # under mpirun, on its own node and on others
_STARTERS = ("ssh", "rsh", "srun")  # children of a launcher that are no ranks
_POLL_SECONDS = 0.25
_MISSING_SECONDS = 1.0  # how long a rank is missing before it counts as dead
_TURN_SECONDS = 1.0  # how much longer the watch of each next rank waits; the first to act ends the others
_GRACE_SECONDS = 5.0  # between SIGTERM and SIGKILL to the launcher
_READY = b"ready"


@contextmanager
def watched_start() -> Iterator[None]:
    """End the whole job when a rank of this node dies inside the block; do nothing without `mpirun --with-ft ulfm`.

    Without ULFM the launcher itself ends the job. A launcher other than `prterun` may serve several jobs and must not
    be ended.
    """
    survives = os.environ.get("OMPI_MCA_mpi_ft_enable") == "1"  # noqa: SIM112 - its name
    if not survives or _RANK not in os.environ or not os.environ.get(_JOB, "").startswith("prterun"):
        yield
        return
    command = [sys.executable, "-I", "-S", __file__, os.environ[_RANK]]
    watch = subprocess.Popen(  # noqa: S603 - this interpreter, this file
        command, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, start_new_session=True
    )
    try:
        yield
    finally:
        with suppress(OSError):
            watch.communicate(_READY)


def _main() -> None:
    """Watch until the rank reports that all ranks have started."""
    rank, process = int(sys.argv[1]), os.getppid()
    launcher = _launcher_above(process)
    size, turn = int(os.environ.get(_LOCAL_SIZE, "1")), int(os.environ.get(_LOCAL_RANK, "0"))
    ranks, complete_at = list[int](), time.monotonic()
    while not select.select([0], [], [], _POLL_SECONDS)[0]:
        if launcher is not None and len(ranks) < size:  # the process table is searched until all were found once
            ranks = _ranks_below(launcher)
        ranks = [process for process in ranks if _look_up(process)]
        if launcher is None or len(ranks) >= size:
            complete_at = time.monotonic()
        elif time.monotonic() - complete_at > _MISSING_SECONDS + turn * _TURN_SECONDS:
            _end_job("a rank", launcher)
    if os.read(0, len(_READY)) != _READY:  # the pipe closes when the rank ends
        _end_job(f"rank {rank}", launcher)


def _launcher_above(process: int) -> int | None:
    """Return the process that launched the ranks of this node: the nearest ancestor that is an MPI launcher."""
    while process > 1 and (found := _look_up(process)) is not None:
        name, parent = found
        if name in _LAUNCHERS:
            return process
        process = parent
    return None


def _ranks_below(launcher: int) -> list[int]:
    """Return the launcher's living children, except those that start ranks on other nodes."""
    processes = [int(path.name) for path in Path("/proc").glob("[0-9]*")]
    found = {process: _look_up(process) for process in processes}
    return [process for process, of in found.items() if of and of[1] == launcher and of[0] not in _STARTERS]


def _look_up(process: int) -> tuple[str, int] | None:
    """Return the name and the parent of a process; None where it is dead."""
    try:
        stat = Path(f"/proc/{process}/stat").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return None
    name, _, rest = stat.partition("(")[2].rpartition(")")
    state, parent = rest.split()[:2]
    return None if state in "ZX" else (name, int(parent))


def _end_job(lost: str, launcher: int | None) -> None:
    """Write the reason to stderr, then end the launcher with all ranks of the job, and this process."""
    with suppress(OSError):  # the reader of stderr may be gone
        sys.stderr.write(f"qdrl: {lost} died while the job started, so the job is ended; start it again\n")
        sys.stderr.flush()
    with suppress(OSError):
        if launcher is not None:
            os.kill(launcher, signal.SIGTERM)
            _wait_for_end_of(launcher)
            os.kill(launcher, signal.SIGKILL)
    os._exit(1)


def _wait_for_end_of(process: int) -> None:
    """Wait for the end of a process; return where it still runs after the grace period.

    Raises:
        ProcessLookupError: the process has ended.
    """
    deadline = time.monotonic() + _GRACE_SECONDS
    while time.monotonic() < deadline:
        os.kill(process, 0)
        time.sleep(_POLL_SECONDS)


if __name__ == "__main__":
    _main()
