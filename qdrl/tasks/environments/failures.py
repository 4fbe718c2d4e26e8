"""Failed episodes: their exception, and how a run logs them."""

import logging
import traceback
from collections.abc import Callable
from typing import Any, Literal, TypeVar

_LOGGER = logging.getLogger("qdrl")
_MOST_LINES = 20  # log lines about timeouts and dead worker processes
_Result = TypeVar("_Result")

Kind = Literal["raised", "timeout", "died"]


class UnusableError(ValueError):
    """User code returned an unusable value; the message names the expected one."""


class EpisodeFailure(Exception):  # noqa: N818 - an outcome of an evaluation, not an error of the program
    """An episode that ended without a result.

    Args:
        kind: "raised" if user code raised or returned an unusable value, "timeout" if the time limit was exceeded,
            "died" if the worker process ended.
        reason: One line.
        details: Traceback; empty if there is none.
    """

    def __init__(self, kind: Kind, reason: str, details: str = "") -> None:
        super().__init__(kind, reason, details)
        self.kind, self.reason, self.details = kind, reason, details


def attempt(what: str, call: Callable[..., _Result], *arguments: Any) -> _Result:
    """Call user code and return its result.

    Args:
        what: Name of the code in messages.
        call: Function to call.
        arguments: Positional arguments of the call.

    Raises:
        EpisodeFailure: The code raised an exception, SystemExit, GeneratorExit and KeyboardInterrupt included.
    """
    try:
        return call(*arguments)
    except UnusableError as error:
        raise EpisodeFailure("raised", f"{what} {error}") from error
    except BaseException as error:  # user code may raise any exception
        message = " ".join(str(error).split())
        reason = f"{what} raised {type(error).__name__}{': ' if message else ''}{message}"
        raise EpisodeFailure("raised", reason, traceback.format_exc()) from error


class FailureLog:
    """Log of failed episodes.

    Of episodes of kind "raised" only the first is logged, with its traceback. Each timeout and each death of a worker
    process gets a line, up to a maximum.

    Attributes:
        first: Log line of the first failure; None if no episode has failed.
    """

    def __init__(self) -> None:
        self.first: str | None = None
        self._raised, self._lines = False, 0

    def add(self, failure: EpisodeFailure, *, environment: str, seed: int, steps: int) -> None:
        """Log a failed episode.

        Args:
            failure: The failure.
            environment: Name of the environment.
            seed: Seed of the evaluation.
            steps: Number of control steps completed before the failure.
        """
        line = f"{environment}: the evaluation with seed {seed} failed after {steps} steps: {failure.reason}"
        details = f"\n{failure.details.rstrip()}" if failure.details else ""
        if self.first is None:
            self.first = line
        if failure.kind != "raised":
            self._lines += 1
            if self._lines <= _MOST_LINES:
                _LOGGER.warning("%s", line)
        elif not self._raised:
            self._raised = True
            _LOGGER.warning("%s; further evaluations that raise are only counted%s", line, details)
