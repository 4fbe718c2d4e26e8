"""Run a function in a forked child: a crash, a hang or too much memory is attributed and survived, in milliseconds."""

import json
import os
import select
import signal
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

from qdrl.archives.inspection import check, limit_resources


def in_child(function: Callable[[], Any], seconds: float) -> tuple[int | None, str]:
    """Call a function in a child process.

    Returns:
        its exit code, negative for a signal, None when it was stopped after so many seconds; its result as JSON.
    """
    reader, writer = os.pipe()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # of forks beside threads; the child starts none
        child = os.fork()
    if child == 0:
        code = 70
        try:
            os.close(reader)
            _write(writer, json.dumps(function()).encode())
            code = 0
        finally:
            os._exit(code)
    os.close(writer)
    text, over = _read(reader, time.monotonic() + seconds)
    if over:
        os.kill(child, signal.SIGKILL)
    status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    return (None if over else status), text


def run_forked(path: Path, seconds: float) -> tuple[int | None, str]:
    """Stand in for `qdrl.archives.inspection.run_child`: the same checks and limits, without a new Python."""

    def checked() -> list[str]:
        limit_resources(path)
        return check(path)

    return in_child(checked, seconds)


def _write(descriptor: int, text: bytes) -> None:
    while text:
        text = text[os.write(descriptor, text) :]


def _read(descriptor: int, deadline: float) -> tuple[str, bool]:
    """Read until the other end closes; what was read, and whether that took too long."""
    parts = []
    try:
        while True:
            left = deadline - time.monotonic()
            if left <= 0 or not select.select([descriptor], [], [], left)[0]:
                return "", True
            if not (part := os.read(descriptor, 2**16)):
                return b"".join(parts).decode(errors="replace"), False
            parts.append(part)
    finally:
        os.close(descriptor)
