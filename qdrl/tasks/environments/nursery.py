"""The programs of the nursery and of its worker processes; see `qdrl.tasks.environments.isolation`."""

import ctypes
import os
import random
import signal
import socket
import struct
import sys
from multiprocessing.connection import Connection

import numpy as np

from qdrl.tasks.environments.runners import serve

MESSAGE = struct.Struct("<cq")  # kind of request, process id
NUMBER = struct.Struct("<q")
START, END = b"s", b"e"
_PR_SET_PDEATHSIG = 1


def main() -> None:
    """Serve requests on the socket whose file descriptor is the first argument, until its other end is closed.

    A START request carries a file descriptor. The nursery forks a worker that serves it, and replies with the worker's
    process id. For an END request the nursery waits until the worker has ended, and replies with the status of
    `os.waitpid`.
    """
    control = socket.socket(fileno=int(sys.argv[1]))
    while True:
        message, handles, _, _ = socket.recv_fds(control, MESSAGE.size, 1)
        if not message:
            return
        kind, pid = MESSAGE.unpack(message)
        if kind == END:
            control.sendall(NUMBER.pack(os.waitpid(pid, 0)[1]))
            continue
        child = os.fork()
        if child == 0:
            control.close()
            _work(handles[0])
        os.close(handles[0])
        control.sendall(NUMBER.pack(child))


def _work(handle: int) -> None:
    """Serve calls on a file descriptor as a worker, then exit the process."""
    os.setsid()
    os.set_inheritable(handle, False)
    _die_with_parent()
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the main process decides when a run ends
    random.seed()
    np.random.seed()  # noqa: NPY002 - user code may use this generator; forked workers would share its state
    connection = Connection(handle)
    code = 1
    try:
        serve(connection.recv(), connection.recv, connection.send)
        code = 0
    except (EOFError, ConnectionError):
        code = 0  # the main process has ended
    except BaseException as error:
        sys.excepthook(type(error), error, error.__traceback__)
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def _die_with_parent() -> None:
    """Ask Linux to end this process when the nursery ends, even while user code hangs."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
