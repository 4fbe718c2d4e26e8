"""Signals that ask a job to stop, and schedulers send before they kill it."""

import signal
import threading
from types import FrameType

STOP_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1)


class StopSignals:
    """Remembers the first stop signal while it is entered; a second SIGINT raises KeyboardInterrupt.

    Signal handlers can be set in a process's main thread only. In any other thread nothing is set, and signals keep
    their effect on the process.

    Args:
        enabled: False to leave the process's signal handlers alone.

    Attributes:
        received: name of the signal, None before it came.
    """

    def __init__(self, *, enabled: bool = True) -> None:
        self._enabled = enabled
        self.received: str | None = None
        self._before: dict[int, object] = {}

    def __enter__(self) -> "StopSignals":
        if self._enabled and threading.current_thread() is threading.main_thread():
            self._before = {number: signal.signal(number, self._remember) for number in STOP_SIGNALS}
        return self

    def __exit__(self, *_: object) -> None:
        for number, previous in self._before.items():
            signal.signal(number, previous)  # pyright: ignore[reportArgumentType] - what signal.signal returned
        self._before = {}

    def _remember(self, number: int, frame: FrameType | None) -> None:  # noqa: ARG002
        if self.received is not None and number == signal.SIGINT:
            raise KeyboardInterrupt
        self.received = signal.Signals(number).name
