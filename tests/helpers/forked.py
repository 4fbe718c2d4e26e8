"""Run a function in a forked child, which contains crashes, hangs and excessive memory use and starts fast."""

import json
import os
import select
import signal
import time
import warnings
from collections.abc import Callable
from pathlib import Path

from qdrl.archives.inspection import check, limit_resources

Send = Callable[[str], None]
"""Send text to the parent without buffering, so that text from before a crash arrives."""


def in_child(function: Callable[[Send], None], seconds: float) -> tuple[int | None, str]:
    """Call a function in a child process.

    Returns:
        the exit code, negative for a signal, 70 for an exception, None if the child was stopped after `seconds`; and
        the text that it sent.
    """
    reader, writer = os.pipe()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # forks with threads warn; the child starts none
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
    """Replace `qdrl.archives.inspection.run_child`: the same checks and limits, without a new interpreter."""

    def checked(send: Send) -> None:
        limit_resources(path)
        send(json.dumps(check(path)))

    return in_child(checked, seconds)


def _write(descriptor: int, text: bytes) -> None:
    while text:
        text = text[os.write(descriptor, text) :]


def _read(descriptor: int, deadline: float) -> tuple[str, bool]:
    """Read until the other end closes; return the text, and whether the deadline passed."""
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
