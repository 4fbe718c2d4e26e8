"""Episodes that failed: what is known about one, and how a run reports them."""

import logging
import traceback
from collections.abc import Callable
from typing import Any, Literal, TypeVar

_LOGGER = logging.getLogger("qdrl")
_MOST_LINES = 20  # about episodes that hung or died
_Result = TypeVar("_Result")

Kind = Literal["raised", "timeout", "died"]


class UnusableError(ValueError):
    """User code returned something that an evaluation cannot use; the message says what was expected."""


class EpisodeFailure(Exception):  # noqa: N818 - an outcome of an evaluation, not an error of the program
    """An episode that ended without a result.

    Args:
        kind: "raised" by user code or refused by a check, "timeout" or "died" with its process.
        reason: one line.
        details: a traceback, where there is one.
    """

    def __init__(self, kind: Kind, reason: str, details: str = "") -> None:
        super().__init__(kind, reason, details)
        self.kind, self.reason, self.details = kind, reason, details


def attempt(what: str, call: Callable[..., _Result], *arguments: Any) -> _Result:
    """Call user code.

    Args:
        what: the name of that code in messages.
        call: the code.
        arguments: of the call.

    Raises:
        EpisodeFailure: the code raised anything, SystemExit, GeneratorExit and KeyboardInterrupt included.
    """
    try:
        return call(*arguments)
    except UnusableError as error:
        raise EpisodeFailure("raised", f"{what} {error}") from error
    except BaseException as error:  # a user's code may raise whatever it likes
        message = " ".join(str(error).split())
        reason = f"{what} raised {type(error).__name__}{': ' if message else ''}{message}"
        raise EpisodeFailure("raised", reason, traceback.format_exc()) from error


class FailureLog:
    """Logs failed episodes: of those that raise the first with its traceback, those that hang or die one by one.

    Attributes:
        first: the line of the first failure; None before there was one.
    """

    def __init__(self) -> None:
        self.first: str | None = None
        self._raised, self._lines = False, 0

    def add(self, failure: EpisodeFailure, *, environment: str, seed: int, steps: int) -> None:
        """Report an episode that failed.

        Args:
            failure: what happened.
            environment: the environment's name.
            seed: the evaluation's seed.
            steps: control steps completed before it failed.
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
