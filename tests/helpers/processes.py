"""Start Python programs from tests: alone or under mpirun, in forks of a process that has imported torch or fresh.

`python -m MODULE` takes 3 seconds for imports in a new interpreter, and almost none in a fork of the process described
in `tests/programs/fork_server.py`. Forks are the default. Tests use new interpreters if they depend on the start
itself, the environment at import time or the seed of Python's hashes.
"""

import atexit
import fcntl
import os
import select
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from types import TracebackType
from typing import IO

import pytest

from qdrl.parallel.launcher import THREAD_VARIABLES
from tests.programs import fork_server

ROOT = Path(__file__).parents[2]
_LAUNCH_FAILURE = "PMIx server's listener thread failed to start"  # on a busy machine, before any rank exists
_LAUNCH_DELAYS = (1.0, 2.0, 4.0)  # seconds
_POLL_SECONDS = 0.005
_LOCK = Path(tempfile.gettempdir()) / f"qdrl-tests-{os.getuid()}.lock"  # several mpirun at once fail to start

Arguments = Sequence[str | Path]


class ForkedJob:
    """A forked child of the fork server, with the methods of `subprocess.Popen` that tests need.

    Args:
        arguments: arguments of Python: `["-m", MODULE, ...]`.
        folder: working directory; by default that of this process.
        environment: changes to this process's environment.
    """

    def __init__(
        self, arguments: Arguments, folder: Path | None = None, environment: Mapping[str, str] | None = None
    ) -> None:
        self.args = [str(argument) for argument in arguments]
        self.returncode: int | None = None
        self._output: list[IO[bytes]] = [tempfile.TemporaryFile() for _ in range(2)]  # noqa: SIM115 - closed at the end
        with Path(os.devnull).open() as nothing:
            self._connection, self.pid = fork_server.request(
                _socket_of_the_server(),
                self.args,
                (nothing.fileno(), *(file.fileno() for file in self._output)),
                folder=str(folder or Path.cwd()),
                environment=_environment() | dict(environment or {}),
            )

    def __enter__(self) -> "ForkedJob":
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: BaseException | TracebackType | None) -> None:
        if kind is not None and self.poll() is None:
            self.send_signal(signal.SIGKILL)
        self.wait()
        for file in self._output:
            file.close()

    def send_signal(self, number: int) -> None:
        """Send a signal, unless the child has ended."""
        if self.poll() is None:
            os.kill(self.pid, number)

    def poll(self) -> int | None:
        """Return the exit code, negative for a signal; None while the child runs."""
        if self.returncode is None and select.select([self._connection], [], [], 0)[0]:
            self.returncode = fork_server.exit_code(self._connection)
        return self.returncode

    def wait(self, timeout: float | None = None) -> int:
        """Wait for the end; raise `subprocess.TimeoutExpired` after `timeout` seconds."""
        if self.returncode is None and not select.select([self._connection], [], [], timeout)[0]:
            raise subprocess.TimeoutExpired(self.args, timeout or 0.0)
        code = self.poll()
        assert code is not None
        return code

    def communicate(self, timeout: float | None = None) -> tuple[str, str]:
        """Wait for the end; return what was written to stdout and stderr."""
        self.wait(timeout)
        printed, errors = self._output
        return _content(printed), _content(errors)

    @property
    def errors(self) -> str:
        """Return the output on stderr so far."""
        return _content(self._output[1])


def run_python(
    arguments: Arguments,
    *,
    folder: Path | None = None,
    environment: Mapping[str, str] | None = None,
    check: bool = False,
    timeout: float | None = None,
) -> subprocess.CompletedProcess[str]:
    """Run `python -m ...` in a forked child to its end.

    Args:
        arguments: arguments of Python: `["-m", MODULE, ...]`.
        folder: working directory; by default that of this process.
        environment: changes to this process's environment; variables that are read during imports have no effect.
        check: whether an exit code other than 0 fails the test.
        timeout: seconds.

    Returns:
        exit code, stdout and stderr.

    Raises:
        subprocess.TimeoutExpired: the child did not end in time.
    """
    with ForkedJob(arguments, folder, environment) as job:
        printed, errors = job.communicate(timeout)
        done = subprocess.CompletedProcess(job.args, job.wait(), printed, errors)
    assert not check or done.returncode == 0, f"exit code {done.returncode}: {done.stderr}"
    return done


def run_qdrl(*arguments: str | Path, **options: object) -> subprocess.CompletedProcess[str]:
    """Run `python -m qdrl ARGUMENTS`; options are those of `run_python`."""
    return run_python(["-m", "qdrl", *arguments], **options)  # pyright: ignore[reportArgumentType]


def run_until_killed(arguments: Arguments, run: Path, rows: int) -> None:
    """Start `python ARGUMENTS`, which writes a run folder, and SIGKILL it at a line of the run's metrics.csv.

    Args:
        arguments: arguments of Python: `["-m", "qdrl", "evolve", ...]`.
        run: the run folder.
        rows: number of lines at which to kill, the header included.
    """
    metrics, deadline = run / "metrics.csv", time.monotonic() + 60
    with ForkedJob(arguments) as job:
        while job.poll() is None and time.monotonic() < deadline:
            if metrics.exists() and len(metrics.read_text().splitlines()) >= rows:
                break
            time.sleep(_POLL_SECONDS)
        job.send_signal(signal.SIGKILL)


def mpirun(
    ranks: int, arguments: Arguments, timeout: float = 60, options: Sequence[str] = (), *, fresh: bool = False
) -> subprocess.CompletedProcess[str]:
    """Run `python ARGUMENTS` on that many ranks, from the repository's root.

    Skips the test if there is no mpirun. After `timeout` the job is ended with all its ranks. If mpirun cannot start
    the job because its listener thread failed, the job is started again.

    Args:
        ranks: number of processes.
        arguments: arguments of Python: `["-m", "qdrl", "evolve", ...]` or a script and its arguments.
        timeout: seconds.
        options: options of mpirun.
        fresh: whether each rank is a new interpreter; scripts always use new interpreters.

    Returns:
        exit code, stdout and stderr of the job.

    Raises:
        subprocess.TimeoutExpired: the job did not end in time.
    """
    done = _run_to_the_end(ranks, arguments, timeout, options, fresh)
    for delay in _LAUNCH_DELAYS:
        if _LAUNCH_FAILURE not in done.stderr:
            break
        time.sleep(delay)
        done = _run_to_the_end(ranks, arguments, timeout, options, fresh)
    return done


def _run_to_the_end(
    ranks: int, arguments: Arguments, timeout: float, options: Sequence[str], fresh: bool
) -> subprocess.CompletedProcess[str]:
    with start_mpirun(ranks, arguments, options, fresh=fresh) as job:
        try:
            stdout, stderr = job.communicate(timeout=timeout)
        except subprocess.TimeoutExpired:
            job.send_signal(signal.SIGTERM)  # mpirun ends its ranks; after SIGKILL they would remain
            try:
                job.communicate(timeout=10)
            except subprocess.TimeoutExpired:
                job.kill()
            raise
    return subprocess.CompletedProcess(job.args, job.returncode, stdout, stderr)


def start_mpirun(
    ranks: int, arguments: Arguments, options: Sequence[str] = (), *, fresh: bool = False
) -> "subprocess.Popen[str]":
    """Start the same job once no job of another test runs, and do not wait for its end."""
    launcher = _launcher()
    python = [sys.executable]
    if arguments[0] == "-m" and not fresh:
        python = [sys.executable, "-I", "-S", fork_server.__file__, _socket_of_the_server()]
    with _LOCK.open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        return subprocess.Popen(
            [launcher, "-n", str(ranks), "--oversubscribe", *options, *python, *map(str, arguments)],
            cwd=ROOT,
            env=_environment(),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            pass_fds=[lock.fileno()],  # mpirun holds the lock until it ends
        )


def wait_for(path: Path, job: "ForkedJob | subprocess.Popen[str]", seconds: float = 60) -> None:
    """Wait until a job has written something into a file."""
    deadline = time.monotonic() + seconds
    while not (path.exists() and path.stat().st_size):
        if job.poll() is not None or time.monotonic() > deadline:
            errors = job.errors if isinstance(job, ForkedJob) else job.stderr.read() if job.stderr else ""
            raise AssertionError(f"no {path.name}: {errors}")
        time.sleep(_POLL_SECONDS)


@cache
def _socket_of_the_server() -> str:
    """Start the fork server of this process, which ends with the process, and return its socket."""
    folder = tempfile.mkdtemp(prefix="qdrl-")  # pytest's folders may have names too long for a socket
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    path = f"{folder}/socket"
    server = subprocess.Popen(
        [sys.executable, "-m", "tests.programs.fork_server", "serve", path],
        cwd=ROOT,
        env=_environment(),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    atexit.register(_end, server)
    assert server.stdout is not None
    assert server.stdout.readline() == "ready\n"
    return path


def _end(server: "subprocess.Popen[str]") -> None:
    assert server.stdin is not None
    assert server.stdout is not None
    server.stdin.close()
    server.wait()
    server.stdout.close()


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


def _content(file: IO[bytes]) -> str:
    """Read a file without moving its position, which is shared with a child that may be writing."""
    return os.pread(file.fileno(), os.fstat(file.fileno()).st_size, 0).decode(errors="replace")
