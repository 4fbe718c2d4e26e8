"""What a run keeps: history, metrics.csv, log.txt, archive.h5 and checkpoint.h5, and when it ends.

Only the first rank writes. Every rank holds the same archive and history, so nothing has to be gathered for it.
"""

import csv
import io
import logging
import os
import signal
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from types import FrameType
from typing import Any

import numpy as np

from qdrl.algorithms.base import Algorithm, lineages_of
from qdrl.archives.base import AnyArchive
from qdrl.archives.files import write_text
from qdrl.archives.hdf5 import write_archive, write_checkpoint
from qdrl.archives.stored import StoredArchive
from qdrl.config import Experiment
from qdrl.errors import UserError
from qdrl.evaluation import Evaluation
from qdrl.lock import FolderLock
from qdrl.origin import origin
from qdrl.progress import Progress
from qdrl.ranks import THREAD_VARIABLES, Ranks
from qdrl.tasks.base import Task

LOGGER = logging.getLogger("qdrl")


@dataclass
class Parts:
    """What an experiment is made of, ready to run."""

    experiment: Experiment
    task: Task
    archive: AnyArchive
    algorithm: Algorithm


class Recorder:
    """Keeps a run's history and files, and decides when it ends; see `qdrl.engine.Record`.

    Args:
        parts: the run's parts.
        ranks: who runs it.
        folder: the run folder.
        progress: a live bar; decided by the terminal when left out.
    """

    def __init__(self, parts: Parts, ranks: Ranks, folder: Path, *, progress: bool | None = None) -> None:
        self.history: dict[str, list[float]] = {}
        self.created_utc = datetime.now(UTC).isoformat(timespec="seconds")
        self.finished = False
        self.lock = FolderLock(folder)
        self._parts = parts
        self._ranks = ranks
        self._folder = folder
        self._stop_asked = False
        self._saved = 0  # the generation that the last checkpoint goes on with
        self._started = self._last_checkpoint = time.monotonic()
        self._seconds_before = 0.0
        self._log_file: logging.FileHandler | None = None  # open on the rank that writes
        self._warnings = logging.StreamHandler(sys.stderr)
        self._warnings.setLevel(logging.WARNING)
        self._warnings.setFormatter(logging.Formatter("qdrl: %(message)s"))
        self._progress = Progress(parts.experiment.run, live=progress, alone=ranks.size == 1)

    def __enter__(self) -> "Recorder":
        self._seconds_before = self._latest("seconds")
        self._started = self._last_checkpoint = time.monotonic()
        self._saved = self._parts.algorithm.generation
        self._handlers = {
            number: signal.signal(number, self._ask_to_stop)
            for number in (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1)
        }
        self._progress.begin(self.history)
        self._write_if_first()
        return self

    def __exit__(self, kind: type[BaseException] | None, *rest: object) -> None:
        self._progress.end()
        try:
            if kind is None:
                self._save()
            if self._log_file is not None and kind is None:
                LOGGER.info("finished" if self.finished else "stopped when asked to; can be resumed")
        finally:
            # Last: schedulers repeat a signal, and it must not cut the save short.
            for number, handler in self._handlers.items():
                signal.signal(number, handler)
            if self._log_file is not None:
                for handler in (self._log_file, self._warnings):
                    LOGGER.removeHandler(handler)
                self._log_file.close()

    def proceed(self, algorithm: Algorithm) -> bool:
        budget = self._parts.experiment.run
        out_of_time = budget.minutes is not None and self._seconds() >= 60 * budget.minutes
        # Clocks differ between ranks: whoever says stop, all stop at the same generation.
        ended = self._ranks.any(out_of_time)
        self.finished = (
            ended
            or (budget.target_fitness is not None and self._best(np.empty(0)) >= budget.target_fitness)
            or (budget.generations is not None and algorithm.generation >= budget.generations)
            or (budget.evaluations is not None and self._latest("evaluations") >= budget.evaluations)
            or (budget.env_steps is not None and self._latest("env_steps") >= budget.env_steps)
            or (budget.frames is not None and self._latest("frames") >= budget.frames)
        )
        if self.finished or self._ranks.any(self._stop_asked):
            return False
        due = time.monotonic() - self._last_checkpoint >= self._parts.experiment.run.checkpoint_seconds
        if self._ranks.any(self._log_file is not None and due and algorithm.generation > self._saved):
            self._save()
        return True

    def add(self, algorithm: Algorithm, evaluation: Evaluation, counts: dict[str, float]) -> None:
        self._write_if_first()
        row = self._measure(algorithm, evaluation) | counts
        if "actor_evaluations" in row:  # they feed a critic and never enter the archive
            row["evaluations"] -= row["actor_evaluations"]
            row["actor_evaluations"] += self._latest("actor_evaluations")
        for name, value in (dict.fromkeys(self.history, np.nan) | row).items():
            self.history.setdefault(name, []).append(value)
        if self._log_file is None:
            return
        self._append_metrics(row)
        if line := self._progress.step(row):
            LOGGER.info(line)

    def warn(self, message: str) -> None:
        self._write_if_first()
        if self._log_file is not None:
            LOGGER.warning(message)

    def stored(self) -> StoredArchive:
        """The run's archive as it stands, ready to be written."""
        parts = self._parts
        elites = parts.archive.state_dict()
        genomes = elites.pop("genome")
        lineages = lineages_of(parts.algorithm, genomes)
        elites.pop("rule", None)  # only resuming needs it
        spec, geometry = parts.task.spec, parts.archive.geometry
        champion = getattr(parts.algorithm, "champion", None)
        normalizer = parts.task.state_dict(_generations(elites, champion))
        if normalizer is not None:
            normalizer.pop("deviation")  # only resuming needs it
        attributes, meta = origin(parts.experiment.seed, self.created_utc, ranks=self._ranks.size)
        return StoredArchive(
            axes=spec.axes,
            kind=geometry.kind,
            shape=geometry.shape,
            centroids=geometry.centroids,
            fitness_name=spec.fitness_name,
            qd_offset=spec.qd_offset,
            emitters=parts.algorithm.emitters,
            elites=elites,
            genomes=None if lineages else genomes,
            lineages=lineages,
            champion=champion,
            history={name: np.array(values) for name, values in self.history.items()},
            attributes=attributes,
            meta={
                **meta,
                "config": parts.experiment.resolved(),
                "task": spec.describe(),
                "policy": parts.task.describe_policy(),
                "mjcf": parts.task.mjcf,
            },
            normalizer=normalizer,
            actor=getattr(parts.algorithm, "actor", None),
            neighbours=getattr(geometry, "neighbours", None),
        )

    def _measure(self, algorithm: Algorithm, evaluation: Evaluation) -> dict[str, float]:
        """The generation's row of history. Same numbers on every rank, seconds apart."""
        statistics = algorithm.archive.statistics()
        inside = ~evaluation.failed
        descriptor = evaluation.descriptor[inside].cpu().numpy()
        geometry = algorithm.archive.geometry
        frames = self._parts.task.spec.frames_per_step
        outside = ((descriptor < geometry.lower) | (descriptor > geometry.upper)).any(axis=1)
        return {
            "generation": evaluation.generation,
            "evaluations": self._latest("evaluations") + len(evaluation.rows),
            "env_steps": self._latest("env_steps") + int(evaluation.steps.sum()),
            **({"frames": self._latest("frames") + frames * int(evaluation.steps.sum())} if frames > 1 else {}),
            "seconds": self._seconds(),
            "elites": statistics.elites,
            "coverage": statistics.coverage,
            "qd_score": statistics.qd_score,
            "max_fitness": statistics.max_fitness,
            "mean_fitness": statistics.mean_fitness,
            "best_evaluated": self._best(evaluation.fitness[inside].cpu().numpy()),
            "failed": self._latest("failed") + int(evaluation.failed.sum()),
            "clipped": self._latest("clipped") + int(outside.sum()),
        }

    def _best(self, fitness: np.ndarray) -> float:
        """The highest fitness that any evaluation ever gave, kept or not; NaN before the first."""
        before = self.history.get("best_evaluated", [np.nan])[-1]
        return float(np.fmax.reduce(fitness, initial=before))

    def _latest(self, name: str) -> float:
        values = self.history.get(name)
        return values[-1] if values else 0

    def _seconds(self) -> float:
        return self._seconds_before + time.monotonic() - self._started

    def _save(self) -> None:
        """Collective. Write checkpoint and archive."""
        parts = self._parts
        getattr(parts.algorithm, "collect_state", lambda: None)()
        self._last_checkpoint, self._saved = time.monotonic(), parts.algorithm.generation
        if self._log_file is None:
            return
        stored = self.stored()
        state: dict[str, Any] = {"algorithm": parts.algorithm.state_dict()}
        if (rule := getattr(parts.archive, "rule", None)) is not None:
            state["archive"] = {"rule": rule.state_dict()}
        if (task := parts.task.state_dict(_generations(stored.elites, stored.champion))) is not None:
            state["task"] = task
        # The archive follows the checkpoint: killed between the two, it is older, never ahead of what resumes.
        write_checkpoint(self._folder / "checkpoint.h5", stored, state)
        write_archive(self._folder / "archive.h5", stored)

    def _write_if_first(self) -> None:
        """Begin to write files on the first rank: at the start, or when the rank that wrote them was lost."""
        if not self._ranks.first or self._log_file is not None:
            return
        late = self._take_lock()
        try:
            self._log_file = logging.FileHandler(self._folder / "log.txt")
        except OSError as error:
            raise UserError(f"cannot write into run folder {self._folder}: {error.strerror}") from error
        self._log_file.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
        for handler in (self._log_file, self._warnings):
            LOGGER.addHandler(handler)
        LOGGER.setLevel(logging.INFO)
        self._progress.enable()
        self._write_metrics()
        threads = ", ".join(f"{name}={os.environ.get(name, 'unset')}" for name in THREAD_VARIABLES[:3])
        line = f"ranks {self._ranks.size}, from generation {self._parts.algorithm.generation}, {threads}"
        LOGGER.info(line)
        self._progress.say(f"qdrl: {line}")
        if late is not None:
            LOGGER.warning(late)

    def _take_lock(self) -> str | None:
        """Hold the folder, as `run` does from the start; in place of a lost rank, whose lock may outlive it, go on."""
        try:
            self.lock.take()
        except UserError as error:
            return f"{error}; the lost rank's lock may still stand: going on"
        return None

    def _write_metrics(self) -> None:
        """Bring metrics.csv to where the history is: a killed run may have left rows that are computed anew."""
        text = io.StringIO()
        if self.history:
            writer = csv.writer(text)
            writer.writerow(self.history)
            writer.writerows(zip(*self.history.values(), strict=True))
        write_text(self._folder / "metrics.csv", text.getvalue())

    def _append_metrics(self, row: dict[str, float]) -> None:
        path = self._folder / "metrics.csv"
        with path.open("a", newline="") as file:
            writer = csv.writer(file)
            if file.tell() == 0:
                writer.writerow(row)
            writer.writerow(row.values())

    def _ask_to_stop(self, number: int, frame: FrameType | None) -> None:  # noqa: ARG002
        if self._stop_asked and number == signal.SIGINT:
            raise KeyboardInterrupt
        self._stop_asked = True


def _generations(elites: Mapping[str, Any], champion: Mapping[str, Any] | None) -> np.ndarray:
    """Those whose observation statistics somebody in the file acts with."""
    own = [] if champion is None else champion["generation"]
    return np.unique(np.concatenate([elites["generation"], own]).astype(np.int64))
