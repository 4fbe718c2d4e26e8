"""What a run keeps: history, metrics.csv, log.txt, archive.h5 and checkpoint.h5, and when it ends.

Only the first rank writes. Every rank holds the same archive and history, so nothing has to be gathered for it.
"""

import os
import signal
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from types import FrameType
from typing import Any

import numpy as np

from qdrl.algorithms.base import Algorithm, lineages_of
from qdrl.archives.base import AnyArchive
from qdrl.archives.files import clear_leftovers, reason_of
from qdrl.archives.hdf5 import write_archive, write_checkpoint
from qdrl.archives.snapshot import without_genomes
from qdrl.archives.stored import StoredArchive
from qdrl.archives.trees import check_storable
from qdrl.config import Experiment
from qdrl.errors import RunFailed, UserError
from qdrl.evaluation import Evaluation
from qdrl.parallel.ranks import THREAD_VARIABLES, Ranks, repeat_after_losses
from qdrl.provenance.software import origin, without_repeats
from qdrl.provenance.source_code import Sources
from qdrl.run.budgets import spent_budgets
from qdrl.run.estimate import estimate
from qdrl.run.history import History, checked_counts
from qdrl.run.lock import FolderLock
from qdrl.run.log import LOGGER, RunLog
from qdrl.run.metrics import MetricsFile
from qdrl.run.progress import Progress
from qdrl.tasks.base import Task

_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1)


@dataclass
class Parts:
    """What an experiment is made of, ready to run; `code` is the source of the user's own code at the start."""

    experiment: Experiment
    task: Task
    archive: AnyArchive
    algorithm: Algorithm
    code: Sources = field(default_factory=dict)


@dataclass(frozen=True)
class Past:
    """What a run was before this job; by default one that begins now.

    Attributes:
        history: the metrics so far.
        created_utc: when the run began.
        inexact_from: generations from which the run continued without a checkpoint.
        code_changed_from: generations from which the user's own code was another.
        earlier: packages and commits of the run's jobs before this one, see `/meta/command` in archives/README.md.
        is_saved: whether the files hold the run as it is before the first generation of this job.
    """

    history: History = field(default_factory=History)
    created_utc: str = field(default_factory=lambda: datetime.now(UTC).isoformat(timespec="seconds"))
    inexact_from: tuple[int, ...] = ()
    code_changed_from: tuple[int, ...] = ()
    earlier: tuple[dict[str, Any], ...] = ()
    is_saved: bool = False


class Recorder:
    """Keeps a run's history and files, and decides when it ends; see `qdrl.engine.Record`.

    Args:
        parts: the run's parts.
        ranks: who runs it.
        folder: the run folder.
        past: the run before this job; left out where it begins.
        progress: a live bar; decided by the terminal when left out.

    Attributes:
        history: the metrics so far.
        begun: whether the first generation was wanted.
        generations: how many this process has run.
        ended_by: what ended the run: budgets that are spent, a signal, the time of a job, failures.
        finished: whether a budget of the whole run ended it.
        failure: why the run failed, None where it did not.
        lock: the folder's lock.
    """

    def __init__(
        self, parts: Parts, ranks: Ranks, folder: Path, past: Past | None = None, *, progress: bool | None = None
    ) -> None:
        self._past = past or Past()
        self.history = self._past.history
        self.begun = False
        self.generations = 0
        self.ended_by = ""
        self.commit = ""
        self.finished = False
        self.failure: str | None = None
        self.lock = FolderLock(folder)
        self._parts = parts
        self._ranks = ranks
        self._folder = folder
        self._signal: int | None = None
        self._saved = 0  # the generation that the last checkpoint continues with
        self._failed_saves = 0  # since the last good one
        self._started = self._last_checkpoint = time.monotonic()
        self._seconds_before = 0.0
        self._log = RunLog(folder / "log.txt")  # open on the rank that writes
        self._metrics = MetricsFile(folder / "metrics.csv", LOGGER.warning)
        self._progress = Progress(parts.experiment.run, live=progress, alone=ranks.size == 1)
        self._cleanup = ExitStack()

    def __enter__(self) -> "Recorder":
        self._seconds_before = self.history.latest("seconds")
        self._started = self._last_checkpoint = time.monotonic()
        self._saved = self._parts.algorithm.generation
        with ExitStack() as stack:
            stack.enter_context(_stop_signals(self._ask_to_stop))
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
            if self.generations or not self._past.is_saved:
                self._save(last=True)
            if self.failure is not None:
                self._log.note(self.failure)
            elif self._log.is_open:
                LOGGER.info(f"{'finished' if self.finished else 'stopped'}: {self.ended_by}")

    def proceed(self, algorithm: Algorithm) -> bool:
        run, ranks, self.begun = self._parts.experiment.run, self._ranks, True
        if self.failure is not None:
            self.ended_by = self.failure
            return False
        # Clocks differ between ranks: one that is out of time stops all of them at the same generation.
        spent = spent_budgets(
            run, self.history, algorithm.generation, lambda minutes: ranks.any(self._seconds() >= 60 * minutes)
        )
        self.finished, self.ended_by = bool(spent), ", ".join(spent)
        if self.finished:
            return False
        if run.job_minutes is not None and ranks.any(time.monotonic() - self._started >= 60 * run.job_minutes):
            self.ended_by = f"run.job_minutes = {run.job_minutes:g}"
            return False
        if ranks.any(self._signal is not None):
            self.ended_by = "a signal" if self._signal is None else signal.Signals(self._signal).name
            return False
        due = time.monotonic() - self._last_checkpoint >= run.checkpoint_seconds
        if ranks.any(self._log.is_open and due and algorithm.generation > self._saved):
            self._save()
        return True

    def add(self, algorithm: Algorithm, evaluation: Evaluation, counts: dict[str, float]) -> None:
        self._write_if_first()
        own = self._measure(algorithm, evaluation)
        row = own | checked_counts(counts, own, self._algorithm_name())
        if "actor_evaluations" in {*row, *self.history.columns}:  # they feed a critic and never enter the archive
            now = row.get("actor_evaluations", 0)
            row["evaluations"] -= now
            row["actor_evaluations"] = now + self.history.latest("actor_evaluations")
        new_columns = self.history.append(row)
        self.generations += 1
        self.failure = self._failure_of(evaluation)
        if not self._log.is_open:
            return
        self._metrics.follow(self.history, rewrite=new_columns)
        if line := self._progress.step(row):
            LOGGER.info(line)

    def warn(self, message: str) -> None:
        self._write_if_first()
        if self._log.is_open:
            LOGGER.warning(message)

    def stored(self) -> StoredArchive:
        """Return the run's archive as it stands, ready to be written."""
        parts = self._parts
        genomes = parts.archive.genomes_of(parts.archive.occupied_cells).cpu().numpy()
        lineages = lineages_of(parts.algorithm, genomes)
        champion = getattr(parts.algorithm, "champion", None)
        stored = without_genomes(parts.archive, parts.task, () if champion is None else champion["generation"])
        attributes, meta = origin(
            parts.experiment.seed,
            self._past.created_utc,
            ranks=self._ranks.size,
            commit=self.commit,
            license=parts.experiment.license,
        )
        marks = {"inexact_from": self._past.inexact_from, "code_changed_from": self._past.code_changed_from}
        meta["command"] |= {name: list(generations) for name, generations in marks.items() if generations}
        now = {"git_commit": attributes["git_commit"], "packages": meta["packages"]}
        if earlier := without_repeats(self._past.earlier, now):
            meta["command"]["earlier"] = earlier
        return replace(
            stored,
            emitters=parts.algorithm.emitters,
            genomes=None if lineages else genomes,
            lineages=lineages,
            champion=champion,
            history=self.history.arrays(),
            attributes=attributes,
            meta=stored.meta | meta | {"config": parts.experiment.resolved(), "code": parts.code},
            actor=getattr(parts.algorithm, "actor", None),
        )

    def _measure(self, algorithm: Algorithm, evaluation: Evaluation) -> dict[str, float]:
        """Return the generation's row of history, identical on every rank except for `seconds`."""
        statistics = algorithm.archive.statistics()
        inside = ~evaluation.failed
        descriptor = evaluation.descriptor[inside].cpu().numpy()
        geometry = algorithm.archive.geometry
        frames = self._parts.task.spec.frames_per_step
        outside = ((descriptor < geometry.lower) | (descriptor > geometry.upper)).any(axis=1)
        return {
            "generation": evaluation.generation,
            "evaluations": self.history.latest("evaluations") + len(evaluation.rows),
            "env_steps": self.history.latest("env_steps") + int(evaluation.steps.sum()),
            **({"frames": self.history.latest("frames") + frames * int(evaluation.steps.sum())} if frames > 1 else {}),
            "seconds": self._seconds(),
            "elites": statistics.elites,
            "coverage": statistics.coverage,
            "qd_score": statistics.qd_score,
            "max_fitness": statistics.max_fitness,
            "mean_fitness": statistics.mean_fitness,
            "best_evaluated": self._best(evaluation.fitness[inside].cpu().numpy()),
            "failed": self.history.latest("failed") + int(evaluation.failed.sum()),
            "clipped": self.history.latest("clipped") + int(outside.sum()),
        }

    def _best(self, fitness: np.ndarray) -> float:
        """Return the highest fitness that any evaluation ever gave, kept or not; NaN before the first."""
        return float(np.fmax.reduce(fitness, initial=self.history.latest("best_evaluated", np.nan)))

    def _failure_of(self, evaluation: Evaluation) -> str | None:
        """Return why so many failed evaluations end the run, None where they do not; the same on every rank."""
        failed, rows = int(evaluation.failed.sum()), len(evaluation.rows)
        limit = self._parts.experiment.run.max_failed_share
        if rows == 0 or (failed < rows and failed <= limit * rows):
            return None
        what = f"all {rows} evaluations failed" if failed == rows else f"{failed} of {rows} evaluations failed"
        limit_said = "" if failed == rows else f", more than run.max_failed_share = {limit:g}"
        reason = getattr(self._parts.task, "first_failure", None)
        cause = f"; the first one: {reason} (traceback in log.txt)" if reason else ""
        return f"generation {evaluation.generation}: {what}{limit_said}{cause}"

    def _seconds(self) -> float:
        return self._seconds_before + time.monotonic() - self._started

    def _algorithm_name(self) -> str:
        return str(getattr(self._parts.experiment.algorithm, "name", "?"))

    def _save(self, *, last: bool = False) -> None:
        """Collective. Write checkpoint and archive; a failure is a warning, except at the run's end.

        When the rank that writes is lost, the next first rank writes.

        Raises:
            RunFailed: the last save failed.
        """
        repeat_after_losses(
            lambda: self._save_together(last=last), lambda loss: self.warn(f"{loss}; the files are written again")
        )

    def _save_together(self, *, last: bool) -> None:
        """Collective. Return when every rank knows whether the files are written.

        Raises:
            RankLost: a rank died; the files may be those of the save before.
        """
        getattr(self._parts.algorithm, "collect_state", lambda: None)()
        self._last_checkpoint = time.monotonic()
        if self._ranks.from_first(self._log.is_open and self._try_to_write(last=last)):
            self._saved, self._failed_saves = self._parts.algorithm.generation, 0

    def _try_to_write(self, *, last: bool) -> bool:
        """Write the files and return True; report a failure and return False."""
        try:
            self._write_files()
        except (OSError, MemoryError) as error:
            self._report_failed_save(error, last=last)
            return False
        if self._failed_saves:
            LOGGER.warning(f"checkpoint written again after {self._failed_saves} failed attempts")
        return True

    def _write_files(self) -> None:
        parts, stored = self._parts, self.stored()
        state: dict[str, Any] = {"algorithm": parts.algorithm.state_dict()}
        if (rule := getattr(parts.archive, "rule", None)) is not None:
            state["archive"] = {"rule": rule.state_dict()}
        if (task := parts.task.state_dict(_generations(stored.elites, stored.champion))) is not None:
            state["task"] = task
        check_storable(state["algorithm"], f"algorithm '{self._algorithm_name()}': state_dict")
        # The archive follows the checkpoint: killed between the two, it is older, never ahead of what resumes.
        write_checkpoint(self._folder / "checkpoint.h5", stored, state)
        write_archive(self._folder / "archive.h5", stored)

    def _report_failed_save(self, error: OSError | MemoryError, *, last: bool) -> None:
        """Warn at the first failure in a row; end the run with one line at the last save."""
        generation, self._failed_saves = self._parts.algorithm.generation, self._failed_saves + 1
        path = getattr(error, "filename", None) or self._folder
        kept = "there is no checkpoint yet"
        if (self._folder / "checkpoint.h5").is_file():
            kept = f"the last good checkpoint is of generation {self._saved}"
        reason = reason_of(error) if isinstance(error, OSError) else "out of memory"
        line = f"cannot save generation {generation}: {path}: {reason}; {kept}"
        if last:
            self._log.note(line)
            raise RunFailed(f"{line}; free space, then `qdrl resume {self._folder}` computes the rest again")
        if self._failed_saves == 1:
            seconds = self._parts.experiment.run.checkpoint_seconds
            LOGGER.warning(f"{line}; trying again every {seconds:g} s" if seconds else f"{line}; trying again")

    def _write_if_first(self) -> None:
        """Begin to write files on the first rank: at the start, or when the rank that wrote them was lost."""
        if not self._ranks.first or self._log.is_open:
            return
        late = self._take_lock()
        try:
            self._log.open()
        except OSError as error:
            raise UserError(f"cannot write into run folder {self._folder}: {reason_of(error)}") from error
        clear_leftovers(self._folder)
        self._progress.enable()
        self._metrics.follow(self.history, rewrite=True)  # a killed run may have left rows that are computed anew
        threads = ", ".join(f"{name}={os.environ.get(name, 'unset')}" for name in THREAD_VARIABLES[:3])
        line = f"ranks {self._ranks.size}, from generation {self._parts.algorithm.generation}, {threads}"
        LOGGER.info(line)
        self._progress.say(f"qdrl: {line}")
        parts = self._parts
        needed = estimate(parts.experiment, parts.task, rows=parts.algorithm.batch_size, ranks=self._ranks.size)
        LOGGER.info(needed.in_a_line())
        self._progress.say(f"qdrl: {needed.in_a_line()}")
        if late is not None:
            LOGGER.warning(late)

    def _take_lock(self) -> str | None:
        """Hold the folder, as `run` does from the start; in place of a lost rank, whose lock may outlive it, go on."""
        try:
            self.lock.take()
        except UserError as error:
            return f"{error}; the lost rank's lock may still stand: going on"
        return None

    def _ask_to_stop(self, number: int, frame: FrameType | None) -> None:  # noqa: ARG002
        if self._signal is not None and number == signal.SIGINT:
            raise KeyboardInterrupt
        self._signal = number


@contextmanager
def _stop_signals(handler: Callable[[int, FrameType | None], None]) -> Iterator[None]:
    """Let signals that ask a job to stop call a handler. Only a process's main thread may; others leave them alone."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.signal(number, handler) for number in _SIGNALS}
    try:
        yield
    finally:
        for number, previous in before.items():
            signal.signal(number, previous)


def _generations(elites: Mapping[str, Any], champion: Mapping[str, Any] | None) -> np.ndarray:
    """Return the generations whose observation statistics are needed to rerun a stored genome."""
    own = [] if champion is None else champion["generation"]
    return np.unique(np.concatenate([elites["generation"], own]).astype(np.int64))
