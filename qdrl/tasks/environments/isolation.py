"""Environments in worker processes: a crash or hang there does not affect this process.

Workers are forked from a nursery: a new Python process that has imported numpy and gymnasium, and has no MPI, threads
or open files of this process. Starting a worker takes about 10 ms; starting the nursery takes half a second, once.
"""

import json
import os
import signal
import socket
import subprocess
import sys
import time
import weakref
from contextlib import suppress
from dataclasses import dataclass
from multiprocessing.connection import Connection
from typing import Any

from qdrl.tasks.environments.episode import EpisodePlan
from qdrl.tasks.environments.failures import EpisodeFailure
from qdrl.tasks.environments.nursery import END, MESSAGE, NUMBER, START
from qdrl.tasks.environments.runners import Allowance

_CLOSING_SECONDS = 2.0
_LAUNCHERS = ("OMPI_", "PMIX_", "PMI_", "PRTE_", "MV2_", "MPI_LOCAL", "HYDI_", "HYDRA_")
_PROGRAM = (
    "import json, sys; sys.path[:] = json.loads(sys.argv[2]); from qdrl.tasks.environments.nursery import main; main()"
)


@dataclass(frozen=True)
class Worker:
    """A worker process.

    Attributes:
        pid: Id of the process and of its process group.
        connection: Connection that carries calls to the worker and results back.
    """

    pid: int
    connection: Connection

    def kill(self) -> None:
        """Kill the worker and the processes that it started."""
        for end in (os.killpg, os.kill):  # a newly forked worker has no process group yet
            with suppress(ProcessLookupError):
                end(self.pid, signal.SIGKILL)


class Nursery:
    """The process from which workers are forked; it is started together with the first worker."""

    def __init__(self) -> None:
        self._control: socket.socket | None = None

    def start(self) -> Worker:
        """Start a worker and return it.

        Raises:
            EpisodeFailure: The nursery cannot be started.
        """
        ours, theirs = socket.socketpair()
        with theirs:
            try:
                pid = self._ask_for_worker(theirs.fileno())
            except OSError:  # the nursery was killed: its workers died with it
                self._control = None
                try:
                    pid = self._ask_for_worker(theirs.fileno())
                except OSError as error:
                    ours.close()
                    raise EpisodeFailure("died", f"no worker process can be started: {error}") from error
        return Worker(pid, Connection(ours.detach()))

    def fate(self, worker: Worker) -> str:
        """Wait until a worker has ended, and return its exit code or signal in words."""
        try:
            status = os.waitstatus_to_exitcode(self._ask(MESSAGE.pack(END, worker.pid)))
        except OSError:
            return "its worker process was lost"
        if status >= 0:
            return f"its worker process ended with exit code {status}"
        return f"its worker process was ended by signal {-status} ({signal.Signals(-status).name})"

    def close(self) -> None:
        """End the nursery and the remaining workers."""
        if self._control is not None:
            self._control.close()
            self._control = None

    def _ask_for_worker(self, handle: int) -> int:
        return self._ask(MESSAGE.pack(START, 0), handle)

    def _ask(self, message: bytes, *handles: int) -> int:
        control = self._control = self._control or _launch(self)
        socket.send_fds(control, [message], handles)
        reply = control.recv(NUMBER.size, socket.MSG_WAITALL)
        if len(reply) != NUMBER.size:
            raise ConnectionError("the process that starts workers has ended")
        return NUMBER.unpack(reply)[0]


class ProcessRunner:
    """A runner of calls in a worker process; see `qdrl.tasks.environments.runners.Runner`.

    Args:
        plan: Specification of the environment.
        seconds: Wall-clock limit of all calls of an episode together, in seconds; None for no limit.
        nursery: Nursery that starts the worker.

    Raises:
        EpisodeFailure: No worker can be started.
    """

    def __init__(self, plan: EpisodePlan, seconds: float | None, nursery: Nursery) -> None:
        self._nursery, self._allowance = nursery, Allowance(seconds)
        self._worker = nursery.start()
        self._call, self._submitted, self._ended = "open", 0.0, False
        self._send(plan)

    def submit(self, call: str, *arguments: Any) -> None:
        """Start a call."""
        self._call, self._submitted = call, time.monotonic()
        self._send((call, arguments))

    def result(self) -> Any:
        """Return what the call returned."""
        limit = self._allowance.of(self._call)
        left = None if limit is None else max(0.0, limit + self._submitted - time.monotonic())
        try:
            if not self._worker.connection.poll(left):
                self._end()
                raise self._allowance.exceeded(self._call)
            answer, seconds = self._worker.connection.recv()
        except (EOFError, ConnectionError):
            raise EpisodeFailure("died", f"{self._end()} in '{self._call}'") from None
        if isinstance(answer, EpisodeFailure):
            raise answer
        self._allowance.spend(self._call, seconds)
        return answer

    def close(self) -> None:
        """Close the environment."""
        if self._ended:
            return
        self._send(None)
        with suppress(EOFError, OSError):
            deadline = time.monotonic() + _CLOSING_SECONDS
            while self._worker.connection.poll(max(0.0, deadline - time.monotonic())):
                self._worker.connection.recv()
        self._end()

    def _send(self, message: Any) -> None:
        with suppress(ConnectionError):  # `result` detects a dead worker
            self._worker.connection.send(message)

    def _end(self) -> str:
        """Kill the worker and return its exit code or signal in words."""
        self._ended = True
        self._worker.kill()
        fate = self._nursery.fate(self._worker)
        self._worker.connection.close()
        return fate


def _launch(owner: Nursery) -> socket.socket:
    """Start a nursery and return the socket to it; the nursery ends when the socket is closed or this process ends."""
    ours, theirs = socket.socketpair()
    environment = {name: value for name, value in os.environ.items() if not name.startswith(_LAUNCHERS)}
    with theirs:
        process = subprocess.Popen(  # noqa: S603 - this Python with a fixed program
            [sys.executable, "-P", "-c", _PROGRAM, str(theirs.fileno()), json.dumps(sys.path)],
            pass_fds=[theirs.fileno()],
            env=environment,
            stdin=subprocess.DEVNULL,
            start_new_session=True,
        )
    weakref.finalize(owner, _finish, ours, process)
    return ours


def _finish(control: socket.socket, process: "subprocess.Popen[bytes]") -> None:
    control.close()
    try:
        process.wait(_CLOSING_SECONDS)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
