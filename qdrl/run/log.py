"""A run's log: log.txt with every line, stderr with warnings. A full disk loses lines but never stops the run."""

import logging
import sys
from contextlib import suppress
from pathlib import Path

from qdrl.archives.atomic import reason_of

LOGGER = logging.getLogger("qdrl")


class RunLog:
    """The handlers of the `qdrl` logger while a run writes its folder.

    Args:
        path: log.txt.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._handlers: tuple[logging.Handler, ...] = ()
        self._level = LOGGER.level

    @property
    def is_open(self) -> bool:
        """Whether this process writes the run's files."""
        return bool(self._handlers)

    def open(self) -> None:
        """Add the handlers and set the level of the logger to INFO.

        Raises:
            OSError: the file cannot be opened.
        """
        file = _LogFile(self._path, encoding="utf-8")
        file.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
        warnings = _Stderr(sys.stderr)
        warnings.setLevel(logging.WARNING)
        warnings.setFormatter(logging.Formatter("qdrl: %(message)s"))
        self._handlers, self._level = (file, warnings), LOGGER.level
        for handler in self._handlers:
            LOGGER.addHandler(handler)
        LOGGER.setLevel(logging.INFO)

    def note(self, message: str) -> None:
        """Write a line to log.txt alone, as an error."""
        if self._handlers:
            self._handlers[0].handle(LOGGER.makeRecord(LOGGER.name, logging.ERROR, "", 0, message, (), None))

    def close(self) -> None:
        """Remove the handlers and restore the level of the logger."""
        if not self._handlers:
            return
        for handler in self._handlers:
            LOGGER.removeHandler(handler)
            handler.close()
        LOGGER.setLevel(self._level)
        self._handlers = ()


class _LogFile(logging.FileHandler):
    """A log file whose lines wait in memory while the disk is full."""

    _warned = False

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802 - logging's name
        error = sys.exc_info()[1]
        if not isinstance(error, OSError):
            super().handleError(record)
        elif not self._warned:
            self._warned = True
            with suppress(OSError):
                sys.stderr.write(f"qdrl: cannot write {self.baseFilename}: {reason_of(error)}\n")

    def close(self) -> None:
        with suppress(OSError):
            super().close()


class _Stderr(logging.StreamHandler):
    """Standard error, which may be a file on a full disk or a closed pipe."""

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802 - logging's name
        if not isinstance(sys.exc_info()[1], OSError):
            super().handleError(record)
