"""Runners of an episode's calls: in the caller's thread, or in a second thread with a time limit.

`qdrl.tasks.environments.isolation` has a runner that uses a worker process.
"""

import time
from collections.abc import Callable
from queue import Empty, SimpleQueue
from threading import Thread
from typing import Any, Protocol

from qdrl.tasks.environments.episode import Episode, EpisodePlan
from qdrl.tasks.environments.failures import EpisodeFailure

_OPENING_SECONDS = 120.0  # limit for making an environment, which may take longer than an episode
_CLOSING_SECONDS = 2.0


class Runner(Protocol):
    """A runner of the calls "open", "reset", "step" and "describe" of one `Episode`, one call at a time."""

    def submit(self, call: str, *arguments: Any) -> None:
        """Start a call; calls of several runners may run at the same time.

        Args:
            call: Name of the method of `Episode`.
            arguments: Arguments of the method.
        """
        ...

    def result(self) -> Any:
        """Wait for the call and return its result.

        Raises:
            EpisodeFailure: The call failed; afterwards only `close` may be called.
        """
        ...

    def close(self) -> None:
        """Close the environment and release its resources."""
        ...


class Allowance:
    """Remaining wall-clock time of an episode.

    Args:
        seconds: Wall-clock limit of all calls of an episode together, in seconds; None for no limit.
    """

    def __init__(self, seconds: float | None) -> None:
        self._seconds = seconds
        self._left: float | None = seconds

    def of(self, call: str) -> float | None:
        """Return the limit of a call in seconds; None for no limit."""
        if self._seconds is None:
            return None
        if call == "reset":
            self._left = self._seconds
        return _OPENING_SECONDS if call == "open" else self._left

    def spend(self, call: str, seconds: float) -> None:
        """Subtract the duration of a call.

        Args:
            call: Name of the call.
            seconds: Duration of the call in seconds.

        Raises:
            EpisodeFailure: The episode exceeded its limit.
        """
        if self._left is not None and call != "open":
            self._left -= seconds
            if self._left < 0:
                raise self.exceeded(call)

    def exceeded(self, call: str) -> EpisodeFailure:
        """Return the failure of an episode that exceeded its limit in a call."""
        if call == "open":
            return EpisodeFailure("timeout", f"making the environment took more than {_OPENING_SECONDS:g} s")
        limit = f"compute.episode_seconds = {self._seconds:g}"
        return EpisodeFailure("timeout", f"the episode exceeded {limit} in '{call}'; its environment is replaced")


class DirectRunner:
    """A runner of calls in the caller's thread, without a time limit; see `Runner`.

    A KeyboardInterrupt is raised again, because it is the user's Ctrl-C.

    Args:
        plan: Specification of the environment.
    """

    def __init__(self, plan: EpisodePlan) -> None:
        self._episode = Episode(plan)
        self._pending: tuple[str, tuple[Any, ...]] | None = None

    def submit(self, call: str, *arguments: Any) -> None:
        """Start a call."""
        self._pending = call, arguments

    def result(self) -> Any:
        """Return what the call returned."""
        assert self._pending is not None  # noqa: S101 - `submit` comes first
        call, arguments = self._pending
        try:
            return getattr(self._episode, call)(*arguments)
        except EpisodeFailure as failure:
            if isinstance(failure.__cause__, KeyboardInterrupt):
                raise failure.__cause__ from None
            raise

    def close(self) -> None:
        """Close the environment."""
        self._episode.close()


class ThreadRunner:
    """A runner of calls in a second thread, which is abandoned when the time limit is exceeded; see `Runner`.

    Python cannot end a thread. An abandoned thread ends when its call returns or when the process ends. A call that
    holds the global interpreter lock blocks this process despite the limit. Worker processes have neither restriction.

    Args:
        plan: Specification of the environment.
        seconds: Wall-clock limit of all calls of an episode together, in seconds; None for no limit.
    """

    def __init__(self, plan: EpisodePlan, seconds: float | None) -> None:
        self._requests: SimpleQueue[Any] = SimpleQueue()
        self._answers: SimpleQueue[Any] = SimpleQueue()
        self._allowance = Allowance(seconds)
        self._pending: tuple[str, tuple[Any, ...]] | None = None
        self._abandoned = False
        self._thread = Thread(target=serve, args=(plan, self._requests.get, self._answers.put), daemon=True)
        self._thread.start()

    def submit(self, call: str, *arguments: Any) -> None:
        """Start a call."""
        # The call starts in `result`: user code is rarely thread-safe.
        self._pending = call, arguments

    def result(self) -> Any:
        """Return what the call returned."""
        assert self._pending is not None  # noqa: S101 - `submit` comes first
        call, _ = self._pending
        limit = self._allowance.of(call)
        self._requests.put(self._pending)
        try:
            answer, seconds = self._answers.get(timeout=limit)
        except Empty:
            self._abandoned = True
            raise self._allowance.exceeded(call) from None
        if isinstance(answer, EpisodeFailure):
            raise answer
        self._allowance.spend(call, seconds)
        return answer

    def close(self) -> None:
        """Close the environment."""
        self._requests.put(None)
        if not self._abandoned:
            self._thread.join(_CLOSING_SECONDS)


def serve(plan: EpisodePlan, receive: Callable[[], Any], send: Callable[[Any], None]) -> None:
    """Run calls of one `Episode` until None is received.

    Args:
        plan: Specification of the environment.
        receive: Function that returns the next call `(name, arguments)`, or None.
        send: Function that takes the pair of result (or `EpisodeFailure`) and duration in seconds.
    """
    episode = Episode(plan)
    while (request := receive()) is not None:
        call, arguments = request
        started = time.monotonic()
        try:
            answer: Any = getattr(episode, call)(*arguments)
        except EpisodeFailure as failure:
            failure.__cause__ = failure.__traceback__ = None  # they reference frames, and so the environment
            answer = failure
        send((answer, time.monotonic() - started))
        del answer, request, arguments
    episode.close()
