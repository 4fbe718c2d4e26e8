"""A run: how it is built, starts in a folder of its own, and is resumed.

`runs/<experiment>/<UTC>_seed<k>/` holds config.toml, archive.h5, checkpoint.h5, metrics.csv, log.txt and figures/.
A folder that exists is never touched by a start.
"""

import os
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import tomli_w
import torch

from qdrl.algorithms import algorithm_class
from qdrl.algorithms.base import is_of_lineages
from qdrl.archives.admission import Adaptation, All, Probability, Rule, Threshold
from qdrl.archives.archive import Archive
from qdrl.archives.base import AnyArchive, Geometry
from qdrl.archives.cvt import CentroidalVoronoi, place_centroids
from qdrl.archives.files import keep_copy, reason_of, write_text
from qdrl.archives.grid import Grid
from qdrl.archives.novelty_archive import NoveltyArchive
from qdrl.archives.trees import check_storable
from qdrl.config import (
    CvtSettings,
    Experiment,
    GridSettings,
    NoveltySettings,
    changed,
    load_experiment,
    parse_experiment,
)
from qdrl.engine import evolve
from qdrl.errors import RankLost, RunFailed, UserError
from qdrl.estimate import estimate, refuse_what_cannot_fit
from qdrl.origin import git_commit
from qdrl.physics.devices import check_archive, device_of
from qdrl.plain import to_json
from qdrl.ranks import Ranks, launched_size
from qdrl.recorder import Parts, Recorder
from qdrl.resuming import Restored, read_checkpoint_of, restore_checkpoint, restore_run, stored_settings
from qdrl.streams import Streams
from qdrl.tasks import build_task
from qdrl.tasks.base import Task
from qdrl.tasks.episodic import EpisodicTask

_HOST = torch.device("cpu")


@dataclass(frozen=True)
class Outcome:
    """How a run, or a part of it, ended.

    Attributes:
        folder: the run folder.
        finished: whether a budget of the whole run is spent; otherwise it was stopped and can be resumed.
        ended_by: the budgets that are spent, as `run.key = value`; or the signal or job limit that stopped it.
        generations: how many were run; 0 where a resumed run had no budget left.
    """

    folder: Path
    finished: bool
    ended_by: str = ""
    generations: int = 0

    @property
    def archive(self) -> Path:
        """The archive file."""
        return self.folder / "archive.h5"


def build(experiment: Experiment, *, on_host: bool = False) -> Parts:
    """Make the task, the empty archive and the algorithm that an experiment describes; writes nothing.

    Args:
        experiment: what is described.
        on_host: keep archive and critics in the host's memory, whatever device the experiment names.

    Raises:
        UserError: the parts do not fit each other.
    """
    compute, run = experiment.compute, experiment.run
    task = build_task(experiment.task, policy=experiment.policy, **compute.model_dump())
    if run.frames is not None and task.spec.frames_per_step == 1:
        raise UserError(f"run.frames: task '{task.spec.name}' has no frames; set run.env_steps")
    settings = experiment.algorithm
    kind = algorithm_class(str(getattr(settings, "name", "")))
    needs = estimate(experiment, task, rows=_most_rows(settings), ranks=launched_size() or 1).needs
    refuse_what_cannot_fit(needs)
    device = _HOST if on_host or is_of_lineages(kind) else _device(experiment)
    archive = _archive(experiment, task, device, lineages=is_of_lineages(kind))
    return Parts(experiment, task, archive, kind(task, archive, Streams(experiment.seed), settings))


def start(experiment: Experiment, ranks: Ranks, *, folder: Path | None = None, progress: bool | None = None) -> Outcome:
    """Collective. Run an experiment from its beginning in a new folder.

    Args:
        experiment: what to run.
        ranks: who runs it.
        folder: the run folder; made under `experiment.run.folder` when left out.
        progress: a live bar; decided by the terminal when left out.

    Raises:
        UserError: the folder exists already, or the parts of the experiment do not fit or cannot be saved. Nothing is
            left of a run that could not begin.
        RunFailed: too many evaluations failed, or the last files cannot be written.
    """
    parts = build(experiment)
    _prepare(parts.task)
    _refuse_unstorable(parts)
    made = _make_folder(folder, experiment) if ranks.first else None
    made = ranks.from_first(made)
    if isinstance(made, str):
        raise UserError(made)
    recorder = Recorder(parts, ranks, made, progress=progress)
    try:
        return _run(parts, ranks, made, recorder)
    except UserError:
        if ranks.first and not recorder.begun:
            shutil.rmtree(made, ignore_errors=True)
        raise


def load(folder: str | Path) -> Parts:
    """Return a run as its last checkpoint left it: `parts.algorithm.ask()` proposes what comes next. Writes nothing.

    A run on a GPU is opened anywhere; evaluating with its task needs its device.

    Raises:
        UserError: the folder is no run, has no checkpoint, or the checkpoint is damaged.
    """
    folder = Path(folder)
    parts = build(_experiment_of(folder), on_host=True)
    restore_checkpoint(parts, *read_checkpoint_of(folder))
    return parts


def resume(
    folder: Path,
    ranks: Ranks,
    *,
    overrides: Sequence[str] = (),
    unset: Sequence[str] = (),
    from_archive: bool = False,
    progress: bool | None = None,
) -> Outcome:
    """Collective. Continue a run from its last checkpoint, on any number of ranks.

    The final archive is the uninterrupted run's, bit for bit. A run that ended before its first save starts again.

    Args:
        folder: the run folder.
        ranks: who runs it.
        overrides: `run.key=value` or `compute.key=value`, for example a larger budget.
        unset: `run.key` or `compute.key` each, for example a budget to remove.
        from_archive: for a run without a readable checkpoint: continue from the elites of its archive, which is not
            exact. Copies of the archive and of metrics.csv are kept beside them.
        progress: a live bar; decided by the terminal when left out.

    Raises:
        UserError: the folder is no run, its checkpoint is missing or damaged, or an override would change results.
        RunFailed: too many evaluations failed, or the last files cannot be written.
    """
    for option, changes in (("--set", overrides), ("--unset", unset)):
        for change in changes:
            if change.partition(".")[0].strip() not in ("run", "compute"):
                raise UserError(f"{option} {change}: only run.* and compute.* may change when resuming")
    parts = build(_experiment_of(folder, overrides, unset))
    _prepare(parts.task)
    restored = restore_run(parts, folder, from_archive=from_archive)
    recorder = Recorder(parts, ranks, folder, progress=progress)
    recorder.history, recorder.inexact_from = restored.history, list(restored.inexact_from)
    recorder.created_utc = restored.created_utc or recorder.created_utc
    rewrites_config = bool(overrides or unset) or not (folder / "config.toml").is_file()
    return _run(parts, ranks, folder, recorder, restored=restored, rewrites_config=rewrites_config)


def _experiment_of(folder: Path, overrides: Sequence[str] = (), unset: Sequence[str] = ()) -> Experiment:
    """Return a run folder's experiment, from config.toml or, where that was lost, from the run's own files."""
    if not folder.is_dir():
        raise UserError(f"{folder}: there is no such run folder")
    if (folder / "config.toml").is_file():
        return load_experiment(folder / "config.toml", overrides, unset=unset)
    return parse_experiment(changed(stored_settings(folder), overrides, unset))


def _run(
    parts: Parts,
    ranks: Ranks,
    folder: Path,
    recorder: Recorder,
    *,
    restored: Restored | None = None,
    rewrites_config: bool = False,
) -> Outcome:
    with _only_writer(recorder, ranks):
        if ranks.first:
            _prepare_folder(parts.experiment, folder, restored, rewrites_config=rewrites_config)
        with recorder:
            if restored is not None and restored.warning is not None:
                recorder.warn(restored.warning)
            _share_memory(parts, ranks)
            evolve(parts.algorithm, parts.task, recorder, ranks)
    if recorder.failure is not None:
        raise RunFailed(f"{recorder.failure}; once that is fixed, `qdrl resume {folder}` continues")
    return Outcome(folder, recorder.finished, recorder.ended_by, recorder.generations)


def _prepare_folder(experiment: Experiment, folder: Path, restored: Restored | None, *, rewrites_config: bool) -> None:
    """Keep copies of files that would be lost and store changed settings, before a resumed run writes anything else."""
    try:
        if restored is not None:
            for path in restored.replaced:
                keep_copy(path, restored.suffix)
        if rewrites_config:
            write_text(folder / "config.toml", tomli_w.dumps(experiment.resolved()))
    except OSError as error:
        raise UserError(f"cannot write into run folder {folder}: {reason_of(error)}") from error


def _refuse_unstorable(parts: Parts) -> None:
    """Refuse an experiment whose files could not be written, before anything is."""
    name = getattr(parts.experiment.algorithm, "name", "?")
    check_storable(parts.algorithm.state_dict(), f"algorithm '{name}': state_dict")
    for what, value in (("spec", parts.task.spec.describe()), ("policy", parts.task.describe_policy())):
        try:
            to_json(value)
        except (TypeError, ValueError) as error:
            raise UserError(f"task '{parts.task.spec.name}': its {what} cannot be stored as JSON: {error}") from error


def _prepare(task: Task) -> None:
    """Make a task's worlds: what they lack is told before anything is written."""
    if isinstance(task, EpisodicTask):
        task.rollout()


def _share_memory(parts: Parts, ranks: Ranks) -> None:
    """Collective. Let the algorithm make the tables that a node's ranks have in common."""
    share = getattr(parts.algorithm, "share_memory", None)
    try:
        if share is not None:
            share(ranks)
    except RankLost as loss:
        raise UserError(f"{loss} before the run had begun: start it again") from loss


@contextmanager
def _only_writer(recorder: Recorder, ranks: Ranks) -> Iterator[None]:
    """Collective. Hold the run folder against a second job; a rank that writes in place of a lost one takes it over."""
    busy, commit = None, ""
    if ranks.first:
        commit = git_commit()
        try:
            recorder.lock.take()
        except UserError as error:
            busy = str(error)
    busy, recorder.commit = ranks.from_first((busy, commit))
    if busy is not None:
        raise UserError(busy)
    try:
        yield
    finally:
        recorder.lock.release()


def _most_rows(settings: Any) -> int:
    """Rows of a generation as settings state them; an algorithm of a user's may state none."""
    rows = [getattr(settings, name, 0) for name in ("batch_size", "probe_rows", "mean_rows")]
    return max(1, sum(number for number in rows if isinstance(number, int)))


def _archive(experiment: Experiment, task: Task, device: torch.device, *, lineages: bool) -> AnyArchive:
    """The empty archive; one of lineages holds one number a genome."""
    settings, spec = experiment.archive, task.spec
    parameters, dtype = (1, torch.int64) if lineages else (task.parameters, torch.float32)
    if isinstance(settings, NoveltySettings):
        rule = _rule(settings, Streams(experiment.seed))
        options: dict[str, Any] = {"k": settings.k, "rule": rule, "capacity": settings.capacity, "dtype": dtype}
        return NoveltyArchive(spec.lower, spec.upper, parameters, qd_offset=spec.qd_offset, **options)
    geometry = _geometry(settings, task)
    if device.type == "cuda":
        check_archive(geometry.cells, parameters, device)
    return Archive(geometry, parameters, qd_offset=spec.qd_offset, dtype=dtype, device=device)


def _device(experiment: Experiment) -> torch.device:
    """Where archive and critics live; the host's memory where a run on a GPU is built without one."""
    on_gpu = experiment.compute.device == "cuda" and torch.cuda.is_available()
    return device_of("cuda") if on_gpu else _HOST


def _rule(settings: NoveltySettings, streams: Streams) -> Rule:
    if settings.rule == "all":
        return All()
    if settings.rule == "probability":
        return Probability(settings.probability, streams)
    adaptation = Adaptation(
        settings.raise_above, settings.raise_factor, settings.lower_after, settings.lower_factor, settings.floor
    )
    adaptation = adaptation if settings.adaptive else None
    return Threshold(settings.threshold, neighbours=settings.threshold_k, adaptation=adaptation)


def _geometry(settings: GridSettings | CvtSettings, task: Task) -> Geometry:
    lower, upper = task.spec.lower, task.spec.upper
    if isinstance(settings, GridSettings):
        if len(settings.shape) != len(lower):
            axes = ", ".join(axis.name for axis in task.spec.axes)
            raise UserError(f"archive.shape: {list(settings.shape)} for the {len(lower)} axes ({axes})")
        return Grid(lower, upper, settings.shape)
    return CentroidalVoronoi(_centroids(settings, lower, upper), lower, upper)


def _centroids(settings: CvtSettings, lower: list[float], upper: list[float]) -> np.ndarray:
    generator = Streams(settings.centroid_seed).generator("centroids")
    return place_centroids(generator, settings.cells, lower, upper, samples=settings.samples)


def _make_folder(folder: Path | None, experiment: Experiment) -> Path | str:
    """Make a run folder with its config; returns its path, or why it cannot be made."""
    candidates = [folder] if folder else _new_names(experiment)
    for candidate in candidates:
        try:
            if _place(candidate, experiment):
                return candidate
        except OSError as error:
            return f"cannot make a run folder: {reason_of(error)}: {candidate}"
    return f"{candidates[0]} exists; a run never writes into a folder that exists"


def _place(folder: Path, experiment: Experiment) -> bool:
    """Make a run folder at once, config included; returns whether it is this run's and not one that exists."""
    if folder.exists():
        return False
    temporary = folder.with_name(f".{folder.name}.{os.getpid()}.tmp")
    try:
        (temporary / "figures").mkdir(parents=True)
        write_text(temporary / "config.toml", tomli_w.dumps(experiment.resolved()))
        temporary.rename(folder)
    except OSError:
        if folder.exists():  # another run was quicker
            return False
        raise
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return True


def _new_names(experiment: Experiment) -> list[Path]:
    """Names for a new run folder: runs that start in the same second get numbers."""
    moment = datetime.now(UTC).strftime("%Y%m%dT%H%M%SZ")
    name = f"{moment}_seed{experiment.seed}"
    parent = Path(experiment.run.folder) / experiment.name
    return [parent / name, *(parent / f"{name}-{number}" for number in range(2, 100))]
