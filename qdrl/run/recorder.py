"""Record a run: history, metrics.csv, log.txt and progress; decide when it is saved and when it ends.

Only the first rank writes. Every rank holds the same archive and history, so nothing has to be gathered for that.
"""

import os
import time
from contextlib import ExitStack
from pathlib import Path

from qdrl.algorithms.base import Algorithm
from qdrl.archives.atomic import clear_leftovers, reason_of
from qdrl.archives.stored import StoredArchive
from qdrl.errors import UserError
from qdrl.evaluation import Evaluation
from qdrl.parallel.launcher import THREAD_VARIABLES
from qdrl.parallel.ranks import Ranks, repeat_after_losses
from qdrl.run.budgets import spent_budgets
from qdrl.run.build import Parts
from qdrl.run.champion_test import champion_test
from qdrl.run.checkpoint import Checkpoints
from qdrl.run.contents import archive_of
from qdrl.run.estimate import estimate
from qdrl.run.history import Past
from qdrl.run.lock import FolderLock
from qdrl.run.log import LOGGER, RunLog
from qdrl.run.measurement import failure_of, history_row
from qdrl.run.metrics import MetricsFile
from qdrl.run.progress import Progress
from qdrl.run.stop_signals import StopSignals


class Recorder:
    """A run's history and files, and the decision when it ends; see `qdrl.engine.Record`.

    Args:
        parts: the parts of the run.
        ranks: the ranks of the run.
        folder: the run folder.
        past: the run before this job; left out for a new run.
        progress: whether to draw a live bar; only for a single process on a terminal when left out.
        handle_signals: whether signals stop the run, see `StopSignals`.

    Attributes:
        history: the metrics so far.
        begun: whether the engine has asked for the first generation.
        generations: the number of generations that this job has run.
        ended_by: what ended the run: spent budgets, a signal, the time of a job, failures.
        commit: commit of the source that runs, for the files.
        finished: whether a budget of the whole run is spent.
        tested: whether this job tested the champion.
        failure: why the run failed, None where it did not.
        lock: the folder's lock.
    """

    def __init__(
        self,
        parts: Parts,
        ranks: Ranks,
        folder: Path,
        past: Past | None = None,
        *,
        progress: bool | None = None,
        handle_signals: bool = True,
    ) -> None:
        self._past = past or Past()
        self.history = self._past.history
        self.begun = False
        self.generations = 0
        self.ended_by = ""
        self.commit = ""
        self.finished = False
        self.tested = False
        self.failure: str | None = None
        self.lock = FolderLock(folder)
        self._test_fitness = self._past.test_fitness
        self._parts = parts
        self._ranks = ranks
        self._folder = folder
        self._signals = StopSignals(enabled=handle_signals)
        self._started = time.monotonic()
        self._seconds_before = 0.0
        self._log = RunLog(folder / "log.txt")  # open on the rank that writes
        self._checkpoints = Checkpoints(parts, ranks, folder, self._log, self.stored)
        self._metrics = MetricsFile(folder / "metrics.csv", LOGGER.warning)
        self._progress = Progress(parts.experiment.run, live=progress, alone=ranks.size == 1)
        self._cleanup = ExitStack()

    def __enter__(self) -> "Recorder":
        self._seconds_before = self.history.latest("seconds")
        self._started = time.monotonic()
        self._checkpoints.begin()
        with ExitStack() as stack:
            stack.enter_context(self._signals)
            stack.callback(self._log.close)
            stack.callback(self._progress.end)
            self._progress.begin(self.history.columns)
            self._write_if_first()
            self._cleanup = stack.pop_all()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: object) -> None:
        self._progress.end()
        with self._cleanup:  # last: schedulers repeat a signal, and it must not cut the save short
            if kind is not None:
                self._log.note(f"ended by {kind.__name__}: {error}")
                return
            if self.generations or self.tested or not self._past.is_saved:
                self._save(last=True)
            if self.failure is not None:
                self._log.note(self.failure)
            elif self._log.is_open:
                LOGGER.info(f"{'finished' if self.finished else 'stopped'}: {self.ended_by}")

    def proceed(self, algorithm: Algorithm) -> bool:
        """Return whether to run another generation; save before it where a checkpoint is due. Collective."""
        run, ranks, self.begun = self._parts.experiment.run, self._ranks, True
        if self.failure is not None:
            self.ended_by = self.failure
            return False
        # Clocks differ between ranks: one that is out of time stops all of them at the same generation.
        run_over, job_over, signalled, save = ranks.any_of(
            _is_over(self._seconds(), run.minutes),
            _is_over(time.monotonic() - self._started, run.job_minutes),
            self._signals.received is not None,
            self._checkpoints.is_due(),
        )
        spent = spent_budgets(run, self.history, algorithm.generation, out_of_time=run_over)
        self.finished, self.ended_by = bool(spent), ", ".join(spent)
        if self.finished:
            return False
        if job_over:
            self.ended_by = f"run.job_minutes = {run.job_minutes:g}"
            return False
        if signalled:
            self.ended_by = self._signals.received or "a signal"
            return False
        if save:
            self._save()
        return True

    def add(self, algorithm: Algorithm, evaluation: Evaluation, counts: dict[str, float]) -> None:  # noqa: ARG002
        """Record a generation after `tell`.

        Raises:
            UserError: `tell` reported a metric that files cannot hold.
        """
        self._write_if_first()
        row = history_row(self._parts, evaluation, counts, self.history, self._seconds())
        new_columns = self.history.append(row)
        self.generations += 1
        self._test_fitness = None  # of the champion that an earlier job ended with
        self.failure = failure_of(evaluation, counts, self._parts.experiment.run.max_failed_share, self._parts.task)
        if not self._log.is_open:
            return
        self._metrics.follow(self.history, rewrite=new_columns)
        if line := self._progress.step(row):
            LOGGER.info(line)

    def warn(self, message: str) -> None:
        """Log a warning on the rank that writes."""
        self._write_if_first()
        if self._log.is_open:
            LOGGER.warning(message)

    def stored(self) -> StoredArchive:
        """Return the run's archive in its current state, ready to be written."""
        return archive_of(
            self._parts, self._past, ranks=self._ranks.size, commit=self.commit, test_fitness=self._test_fitness
        )

    def test_champion(self) -> None:
        """Evaluate the champion in held-out episodes where the run is finished and this was not done. Collective."""
        episodes, known = self._parts.experiment.run.test_episodes, self._test_fitness
        if not self.finished or not episodes or (known is not None and len(known) == episodes):
            return
        if (champion := self._parts.algorithm.champion) is None:
            name = self._parts.algorithm_name
            self.warn(f"run.test_episodes = {episodes}: there is no test, because algorithm '{name}' has no champion")
            return
        if self.generations:
            self._save()  # a job that is killed during the test loses no generation
        line = f"testing the champion over {episodes} held-out episodes"
        if self._log.is_open:
            LOGGER.info(line)
        self._progress.say(f"qdrl: {line}")
        self._test_fitness = repeat_after_losses(
            lambda: champion_test(self._parts, self._ranks, int(champion["generation"][0]), episodes),
            lambda loss: self.warn(f"{loss}; the champion's test is repeated"),
        )
        self.tested = True

    def _seconds(self) -> float:
        """Return the wall-clock time of the whole run."""
        return self._seconds_before + time.monotonic() - self._started

    def _save(self, *, last: bool = False) -> None:
        """Save; when the rank that writes is lost, the next first rank writes. Collective."""
        repeat_after_losses(
            lambda: self._checkpoints.save(last=last), lambda loss: self.warn(f"{loss}; the files are being rewritten")
        )

    def _write_if_first(self) -> None:
        """Begin to write files on the first rank: at the start, or when the rank that wrote them was lost."""
        if not self._ranks.first or self._log.is_open:
            return
        lock_error = self._take_lock()
        try:
            self._log.open()
        except OSError as error:
            raise UserError(f"cannot write into run folder {self._folder}: {reason_of(error)}") from error
        clear_leftovers(self._folder)
        self._progress.enable()
        self._metrics.follow(self.history, rewrite=True)  # a killed run may have left rows that are computed anew
        threads = ", ".join(f"{name}={os.environ.get(name, 'unset')}" for name in THREAD_VARIABLES[:3])
        parts = self._parts
        needed = estimate(parts.experiment, parts.task, rows=parts.most_rows, ranks=self._ranks.size)
        begun = f"ranks {self._ranks.size}, from generation {parts.algorithm.generation}, {threads}"
        for line in (begun, needed.in_a_line()):
            LOGGER.info(line)
            self._progress.say(f"qdrl: {line}")
        if lock_error is not None:
            LOGGER.warning(f"{lock_error}; continuing, because the lost rank may still hold the lock")

    def _take_lock(self) -> str | None:
        """Take the lock of a lost rank's folder, or return why not: that rank's lock may outlive it."""
        try:
            self.lock.take()
        except UserError as error:
            return str(error)
        return None


def _is_over(seconds: float, minutes: float | None) -> bool:
    return minutes is not None and seconds >= 60 * minutes
