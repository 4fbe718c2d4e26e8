"""Start, kill and end the jobs of `kills.py`."""

import os
import signal
import subprocess
import sys
import time
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

_BIN = Path(sys.executable).parent
_ENVIRONMENT = {"OMPI_ALLOW_RUN_AS_ROOT": "1", "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1"}


@dataclass
class Job:
    """A process, or mpirun with its ranks.

    Attributes:
        process: the process, mpirun, or a forked child.
        ranks: number of ranks; 0 for one process without MPI.
    """

    process: "subprocess.Popen[bytes] | Child"
    ranks: int = 0

    def kill(self, victims: Sequence[int]) -> bool:
        """Send SIGKILL to these ranks, or to the process if there are none; return whether all targets were alive."""
        if self.process.poll() is not None:
            return False
        pids = self.rank_processes() if victims else {}
        if not set(victims) <= set(pids):
            return False
        for pid in [pids[victim] for victim in victims] or [self.process.pid]:
            os.kill(pid, signal.SIGKILL)
        return True

    def end(self, seconds: float) -> int | None:
        """Wait for the exit code; after `seconds`, kill all processes of the job and return None."""
        try:
            return self.process.wait(seconds)
        except subprocess.TimeoutExpired:
            for pid in [*self.rank_processes().values(), self.process.pid]:
                os.kill(pid, signal.SIGKILL)
            self.process.wait(10)
            return None

    def rank_processes(self) -> dict[int, int]:
        """Return the process of every living rank."""
        if not self.ranks:
            return {}
        found = subprocess.run(
            ["pgrep", "-P", str(self.process.pid)], capture_output=True, encoding="utf-8", check=False
        )
        return {rank: int(pid) for pid in found.stdout.split() if (rank := _rank_of(pid)) is not None}


class Child:
    """A forked copy of this process, which imports nothing again; has the methods of `Popen` that `Job` needs."""

    def __init__(self, work: Callable[[], object], output: Path) -> None:
        self.pid = os.fork()
        self._code: int | None = None
        if self.pid == 0:
            _work_as_child(work, output)

    def poll(self) -> int | None:
        if self._code is None:
            pid, status = os.waitpid(self.pid, os.WNOHANG)
            self._code = os.waitstatus_to_exitcode(status) if pid else None
        return self._code

    def wait(self, seconds: float) -> int:
        deadline = time.monotonic() + seconds
        while (code := self.poll()) is None:
            if time.monotonic() > deadline:
                raise subprocess.TimeoutExpired("forked run", seconds)
            time.sleep(0.005)
        return code


def _work_as_child(work: Callable[[], object], output: Path) -> None:
    """Do the work with its output redirected to a file, then exit the process."""
    code = 1
    try:
        descriptor = os.open(output, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        os.dup2(descriptor, 1)
        os.dup2(descriptor, 2)
        work()
        code = 0
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def forked(work: Callable[[], object], output: Path) -> Job:
    """Start work in a forked copy of this process."""
    return Job(Child(work, output))


def qdrl(arguments: Sequence[str | Path], output: Path, *, ranks: int = 0, options: Sequence[str] = ()) -> Job:
    """Start `qdrl` in a new process, or on ranks under mpirun, with its output in a file."""
    launcher = [_BIN / "mpirun", "-n", str(ranks), "--oversubscribe", *options] if ranks else []
    command = [*launcher, sys.executable, "-m", "qdrl", *arguments]
    with output.open("ab") as file:
        process = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=file, stderr=file, env=_ENVIRONMENT | dict(os.environ)
        )
    return Job(process, ranks)


def _rank_of(pid: str) -> int | None:
    try:
        variables = Path("/proc", pid, "environ").read_bytes().split(b"\0")
    except OSError:
        return None
    name = b"OMPI_COMM_WORLD_RANK="
    return next((int(v.removeprefix(name)) for v in variables if v.startswith(name)), None)
