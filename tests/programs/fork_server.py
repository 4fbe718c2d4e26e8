"""Start Python programs by forking a process that has already imported torch and other slow packages.

A Python process that runs qdrl spends most of its time on imports. `serve` imports once and then forks one child for
each request. A child has the arguments, folder, environment, standard streams and processors of the requesting process.
It runs `python -m MODULE ARGUMENTS` and ends like a new interpreter.

`request` is the client. As a program (`python -I -S fork_server.py SOCKET -m MODULE ARGUMENTS`) this file is a proxy of
the child: it forwards signals to the child and ends with the same exit code or signal, so mpirun can start it in place
of an interpreter. It therefore imports the standard library only.
"""

import json
import os
import selectors
import signal
import socket
import struct
import sys
from collections.abc import Sequence
from contextlib import suppress
from typing import Any, NoReturn

_LIBRARIES = (
    "torch",
    "h5py",
    "scipy.spatial",
    "matplotlib.pyplot",
    "gymnasium",
    "imageio.v3",
    "mujoco",
    "mujoco.batch",
)
_LENGTH = struct.Struct("<I")
_STATUS = struct.Struct("<i")
_EVOTORCH = ("qdrl.algorithms.cmaes_searcher", "qdrl.algorithms.searchers")  # importing it logs to stdout
_LEFT_TO_CHILDREN = ("qdrl.__main__", *_EVOTORCH)
_PASSED_ON = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2, signal.SIGCONT)
Request = dict[str, Any]


def serve(path: str) -> Request:
    """Fork a child for each request, in an endless loop; return the request in each child."""
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(path)
    listener.listen(64)
    selector = selectors.DefaultSelector()
    selector.register(listener, selectors.EVENT_READ, None)
    selector.register(sys.stdin, selectors.EVENT_READ, None)
    connections: dict[int, socket.socket] = {}  # by the process id of the child
    sys.stdout.write("ready\n")
    sys.stdout.flush()
    while True:
        for key, _ in selector.select():
            if key.fileobj is sys.stdin:  # the process that started this server has ended
                for child in connections:
                    os.kill(child, signal.SIGKILL)
                os._exit(0)
            if key.fileobj is listener:
                connection, _ = listener.accept()
                request = _receive(connection)
                child = os.fork()
                if child == 0:
                    # Close the objects, not only their descriptors: the selector is part of a reference cycle, and its
                    # collection would later close any file that has the listener's number by then.
                    for opened in (selector, listener, connection, *connections.values()):
                        opened.close()
                    return request
                for descriptor in request["streams"]:
                    os.close(descriptor)
                connections[child] = connection
                connection.sendall(_STATUS.pack(child))
                selector.register(connection, selectors.EVENT_READ, child)
                selector.register(os.pidfd_open(child), selectors.EVENT_READ, child)
            elif key.fileobj is connections.get(key.data):  # closed: the proxy of the child was killed
                selector.unregister(key.fileobj)
                os.kill(key.data, signal.SIGKILL)
            elif isinstance(key.fileobj, int):
                connection = connections.pop(key.data)
                status = os.waitstatus_to_exitcode(os.waitpid(key.data, 0)[1])
                selector.unregister(key.fileobj)
                os.close(key.fileobj)
                with suppress(KeyError):
                    selector.unregister(connection)
                with suppress(OSError):
                    connection.sendall(_STATUS.pack(status))
                connection.close()


def request(path: str, arguments: Sequence[str], streams: Sequence[int], **changes: Any) -> tuple[socket.socket, int]:
    """Request the server to start `python ARGUMENTS`.

    Args:
        path: the server's socket.
        arguments: `["-m", MODULE, ...]`.
        streams: descriptors of the child's standard input, output and error.
        changes: `folder` and `environment` of the child if they differ from those of this process.

    Returns:
        a socket from which `exit_code` reads, and the child's process id.
    """
    folder = os.getcwd()  # noqa: PTH109 - importing pathlib would take a third of a proxy's time
    state = {"folder": folder, "environment": dict(os.environ), "processors": [*os.sched_getaffinity(0)]}
    content = json.dumps({"arguments": list(arguments)} | state | changes).encode()
    connection = socket.socket(socket.AF_UNIX)
    connection.connect(path)
    socket.send_fds(connection, [_LENGTH.pack(len(content))], streams)
    connection.sendall(content)
    return connection, _STATUS.unpack(_read(connection, _STATUS.size))[0]


def exit_code(connection: socket.socket) -> int:
    """Wait for the child; return its exit code, negative for a signal."""
    status = _STATUS.unpack(_read(connection, _STATUS.size))[0]
    connection.close()
    return status


def _receive(connection: socket.socket) -> Request:
    header, streams, _, _ = socket.recv_fds(connection, _LENGTH.size, 3)
    return json.loads(_read(connection, _LENGTH.unpack(header)[0])) | {"streams": streams}


def _read(connection: socket.socket, size: int) -> bytes:
    content = b""
    while len(content) < size:
        part = connection.recv(size - len(content))
        if not part:
            raise EOFError("the fork server has ended")
        content += part
    return content


def _become(request: Request) -> None:
    """Take over the request's streams, folder, environment and arguments, and run its module."""
    import runpy

    for standard, descriptor in enumerate(request["streams"]):
        os.dup2(descriptor, standard)
        os.close(descriptor)
    sys.stdin, sys.stdout = open(0, closefd=False), open(1, "w", closefd=False)  # noqa: SIM115
    sys.stderr = open(2, "w", buffering=1, errors="backslashreplace", closefd=False)  # noqa: SIM115
    sys.__stdin__, sys.__stdout__, sys.__stderr__ = sys.stdin, sys.stdout, sys.stderr
    os.chdir(request["folder"])
    os.environ.clear()
    os.environ.update(request["environment"])
    os.sched_setaffinity(0, request["processors"])
    option, module, *arguments = request["arguments"]
    assert option == "-m", option
    sys.argv = [module, *arguments]
    sys.path[0] = request["folder"]
    runpy.run_module(module, run_name="__main__", alter_sys=True)


def _run_proxy(path: str, arguments: Sequence[str]) -> NoReturn:
    """Request a child, forward signals to it, and end with its exit code or signal."""
    signal.pthread_sigmask(signal.SIG_BLOCK, _PASSED_ON)
    connection, child = request(path, arguments, (0, 1, 2))
    for number in _PASSED_ON:
        signal.signal(number, lambda number, _: os.kill(child, number))
    signal.pthread_sigmask(signal.SIG_UNBLOCK, _PASSED_ON)
    status = exit_code(connection)
    if status < 0:
        with suppress(OSError):
            signal.signal(-status, signal.SIG_DFL)
        os.kill(os.getpid(), -status)
    os._exit(status)


def _main() -> None:
    import gc
    import importlib
    import pkgutil

    import qdrl

    for library in _LIBRARIES:
        importlib.import_module(library)
    for module in pkgutil.walk_packages(qdrl.__path__, "qdrl."):
        if module.name not in _LEFT_TO_CHILDREN:
            importlib.import_module(module.name)
    from numba.core.registry import cpu_target

    contexts: list[Any] = [cpu_target.typing_context, cpu_target.target_context]
    for context in contexts:
        context.refresh()  # otherwise each child would do it when it loads its first kernel
    gc.freeze()
    _become(serve(sys.argv[2]))


if __name__ == "__main__":
    if sys.argv[1] == "serve":
        _main()
    else:
        _run_proxy(sys.argv[1], sys.argv[2:])
