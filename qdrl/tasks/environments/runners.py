"""Where an episode's calls run: in the caller's thread, or in a thread that is abandoned when it takes too long.

`qdrl.tasks.environments.isolation` adds a worker process.
"""

import time
from collections.abc import Callable
from queue import Empty, SimpleQueue
from threading import Thread
from typing import Any, Protocol

from qdrl.tasks.environments.episode import Episode, EpisodePlan
from qdrl.tasks.environments.failures import EpisodeFailure

_OPENING_SECONDS = 120.0  # an environment may load for longer than an episode takes
_CLOSING_SECONDS = 2.0


class Runner(Protocol):
    """Runs the calls of one `Episode`, named "open", "reset", "step" and "describe", one after the other."""

    def submit(self, call: str, *arguments: Any) -> None:
        """Begin a call; calls of several runners may then run at the same time."""
        ...

    def result(self) -> Any:
        """Return what the call returned.

        Raises:
            EpisodeFailure: the call failed; of this runner only `close` may be called any more.
        """
        ...

    def close(self) -> None:
        """Close the environment and give back what it takes."""
        ...


class Allowance:
    """Wall-clock time that an episode's calls may take together.

    Args:
        seconds: of an episode; no limit when None.
    """

    def __init__(self, seconds: float | None) -> None:
        self._seconds = seconds
        self._left: float | None = seconds

    def of(self, call: str) -> float | None:
        """Return the seconds that a call may take."""
        if self._seconds is None:
            return None
        if call == "reset":
            self._left = self._seconds
        return _OPENING_SECONDS if call == "open" else self._left

    def spend(self, call: str, seconds: float) -> None:
        """Account for a call.

        Raises:
            EpisodeFailure: the allowance is used up.
        """
        if self._left is not None and call != "open":
            self._left -= seconds
            if self._left < 0:
                raise self.exceeded(call)

    def exceeded(self, call: str) -> EpisodeFailure:
        """Return the failure of an episode whose allowance a call has used up."""
        if call == "open":
            return EpisodeFailure("timeout", f"making the environment took more than {_OPENING_SECONDS:g} s")
        limit = f"compute.episode_seconds = {self._seconds:g}"
        return EpisodeFailure("timeout", f"the episode exceeded {limit} in '{call}'; its environment is replaced")


class DirectRunner:
    """Runs calls in the caller's thread, without a limit of time; see `Runner`.

    A KeyboardInterrupt goes through: it is the user's Ctrl-C.

    Args:
        plan: of the episode.
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
    """Runs calls in a thread of its own, and abandons the thread when a call takes too long; see `Runner`.

    Python cannot end a thread: an abandoned one ends when its call returns, or with the process. A call that holds
    the interpreter's lock cannot be left either; worker processes have neither limit.

    Args:
        plan: of the episode.
        seconds: wall-clock time that an episode's calls may take together.
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
        # The call starts in `result`: users' code is seldom made for several threads at a time.
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
    """Run the calls of one episode until None is received instead of one.

    Args:
        plan: of the episode.
        receive: returns the next call, `(name, arguments)`.
        send: takes what it returned, or its `EpisodeFailure`, and the seconds that it took.
    """
    episode = Episode(plan)
    while (request := receive()) is not None:
        call, arguments = request
        started = time.monotonic()
        try:
            answer: Any = getattr(episode, call)(*arguments)
        except EpisodeFailure as failure:
            failure.__cause__ = failure.__traceback__ = None  # they hold frames, and the environment with them
            answer = failure
        send((answer, time.monotonic() - started))
        del answer, request, arguments
    episode.close()
