"""When and how a run saves archive.h5 and checkpoint.h5, and what happens when the disk refuses."""

import time
from collections.abc import Callable
from pathlib import Path

from qdrl.archives.atomic import reason_of
from qdrl.archives.hdf5 import write_archive, write_checkpoint
from qdrl.archives.stored import StoredArchive
from qdrl.errors import RunFailed
from qdrl.parallel.ranks import Ranks
from qdrl.run.build import Parts
from qdrl.run.contents import state_of
from qdrl.run.log import LOGGER, RunLog


def checkpoint_interval(seconds: float, share: float, save_seconds: float) -> float:
    """Return the seconds from the start of a save to the start of the next.

    Args:
        seconds: shortest interval, `run.checkpoint_seconds`; 0 for a save after every generation.
        share: largest share of time that saving may take, `run.checkpoint_share`.
        save_seconds: duration of the last save.
    """
    return max(seconds, save_seconds / share) if seconds else 0.0


class Checkpoints:
    """Saves of a run; the first rank writes, every rank knows whether it succeeded.

    Args:
        parts: the parts of the run.
        ranks: the ranks of the run.
        folder: the run folder.
        log: open on the rank that writes.
        stored: returns the run's archive in its current state.
    """

    def __init__(
        self, parts: Parts, ranks: Ranks, folder: Path, log: RunLog, stored: Callable[[], StoredArchive]
    ) -> None:
        self._parts = parts
        self._ranks = ranks
        self._folder = folder
        self._log = log
        self._stored = stored
        self._generation = 0  # the one that the last checkpoint continues with
        self._failed = 0  # saves since the last good one
        self._last = time.monotonic()
        self._save_seconds = 0.0  # of the last save

    def begin(self) -> None:
        """Start the interval and count the generation that the algorithm is in as saved."""
        self._generation, self._last = self._parts.algorithm.generation, time.monotonic()

    def is_due(self) -> bool:
        """Return whether this rank writes and wants to save now; the other ranks follow it."""
        due = time.monotonic() - self._last >= self._interval()
        return self._log.is_open and due and self._parts.algorithm.generation > self._generation

    def save(self, *, last: bool = False) -> None:
        """Write checkpoint and archive; a failure is a warning unless this is the run's last save. Collective.

        Raises:
            RunFailed: the last save failed.
            RankLost: a rank died; the files may be those of the save before.
        """
        self._last = time.monotonic()
        self._parts.algorithm.collect_state()
        if self._ranks.from_first(self._log.is_open and self._try_to_write(last=last)):
            self._generation, self._failed = self._parts.algorithm.generation, 0
        self._save_seconds = time.monotonic() - self._last

    def _interval(self) -> float:
        run = self._parts.experiment.run
        return checkpoint_interval(run.checkpoint_seconds, run.checkpoint_share, self._save_seconds)

    def _try_to_write(self, *, last: bool) -> bool:
        """Write the files and return True; report a failure and return False."""
        try:
            self._write()
        except (OSError, MemoryError) as error:
            self._report(error, last=last)
            return False
        if self._failed:
            LOGGER.warning(f"checkpoint written after {self._failed} failed attempts")
        return True

    def _write(self) -> None:
        stored = self._stored()
        state = state_of(self._parts, stored)
        # The archive follows the checkpoint: killed between the two, it is older, never ahead of what resumes.
        write_checkpoint(self._folder / "checkpoint.h5", stored, state)
        write_archive(self._folder / "archive.h5", stored)

    def _report(self, error: OSError | MemoryError, *, last: bool) -> None:
        """Warn at the first failure in a row; end the run with one line at the last save."""
        generation, self._failed = self._parts.algorithm.generation, self._failed + 1
        path = getattr(error, "filename", None) or self._folder
        kept = "there is no checkpoint yet"
        if (self._folder / "checkpoint.h5").is_file():
            kept = f"the last good checkpoint is of generation {self._generation}"
        reason = reason_of(error) if isinstance(error, OSError) else "out of memory"
        line = f"cannot save generation {generation}: {path}: {reason}; {kept}"
        if last:
            self._log.note(line)
            raise RunFailed(f"{line}; free disk space, then continue from there: qdrl resume {self._folder}")
        if self._failed == 1:
            seconds = self._interval()
            LOGGER.warning(f"{line}; trying again every {seconds:g} s" if seconds else f"{line}; trying again")
