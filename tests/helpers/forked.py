"""Run a function in a forked child: a crash, a hang or too much memory is attributed and survived, in milliseconds."""

import json
import os
import select
import signal
import time
import warnings
from collections.abc import Callable
from pathlib import Path

from qdrl.archives.inspection import check, limit_resources

Say = Callable[[str], None]
"""Sends text to the parent at once, so that what was said before a crash arrives."""


def in_child(function: Callable[[Say], None], seconds: float) -> tuple[int | None, str]:
    """Call a function in a child process.

    Returns:
        its exit code, negative for a signal, 70 for an exception, None when it was stopped after so many seconds; what
        it said.
    """
    reader, writer = os.pipe()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # of forks beside threads; the child starts none
        child = os.fork()
    if child == 0:
        code = 70
        try:
            os.close(reader)
            function(lambda text: _write(writer, text.encode()))
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

    def checked(say: Say) -> None:
        limit_resources(path)
        say(json.dumps(check(path)))

    return in_child(checked, seconds)


def _write(descriptor: int, text: bytes) -> None:
    while text:
        text = text[os.write(descriptor, text) :]


def _read(descriptor: int, deadline: float) -> tuple[str, bool]:
    """Read until the other end closes; what was read, and whether that took too long."""
    parts, over = [], False
    while not over:
        left = deadline - time.monotonic()
        over = left <= 0 or not select.select([descriptor], [], [], left)[0]
        if not over:
            if not (part := os.read(descriptor, 2**16)):
                break
            parts.append(part)
    os.close(descriptor)
    return b"".join(parts).decode(errors="replace"), over
