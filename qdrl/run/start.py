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

from qdrl.algorithms.base import is_of_lineages
from qdrl.algorithms.registry import algorithm_class
from qdrl.archives.admission import Adaptation, All, Probability, Rule, Threshold
from qdrl.archives.archive import Archive
from qdrl.archives.base import AnyArchive, Geometry
from qdrl.archives.cvt import CentroidalVoronoi, place_centroids
from qdrl.archives.files import keep_copy, reason_of, write_text
from qdrl.archives.grid import Grid
from qdrl.archives.novelty_archive import NoveltyArchive
from qdrl.archives.seals import identity
from qdrl.archives.strict_json import to_json
from qdrl.archives.trees import check_storable
from qdrl.compute.arithmetic import PORTABLE, Arithmetic
from qdrl.compute.devices import check_archive, device_of
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
from qdrl.errors import RunFailed, UserError
from qdrl.naming import is_reference, search_also
from qdrl.parallel.ranks import Ranks, launched_size, repeat_after_losses
from qdrl.provenance.software import git_commit
from qdrl.provenance.source_code import Sources, sources_of
from qdrl.run.estimate import estimate, refuse_what_cannot_fit
from qdrl.run.recorder import Parts, Recorder
from qdrl.run.resume import (
    Restored,
    read_checkpoint_of,
    restore_checkpoint,
    restore_run,
    stored_arithmetic,
    stored_settings,
)
from qdrl.streams import Streams
from qdrl.tasks.base import Task
from qdrl.tasks.episodic import EpisodicTask
from qdrl.tasks.registry import build_task

_HOST = torch.device("cpu")
_MODULES = ".modules"  # a run folder's file with the folder of the user's modules


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


def build(experiment: Experiment, *, on_host: bool = False, arithmetic: Arithmetic = PORTABLE) -> Parts:
    """Make the task, the empty archive and the algorithm of an experiment. Writes nothing.

    Args:
        experiment: the settings.
        on_host: keep archive and critics in the host's memory, whatever device the experiment names.
        arithmetic: how policies are computed on the CPU.

    Raises:
        UserError: the parts do not fit each other.
    """
    compute, run = experiment.compute, experiment.run
    task = build_task(experiment.task, policy=experiment.policy, arithmetic=arithmetic, **compute.model_dump())
    experiment = _with_version(experiment, task)
    if run.frames is not None and task.spec.frames_per_step == 1:
        raise UserError(f"run.frames: task '{task.spec.name}' has no frames; set run.env_steps")
    settings = experiment.algorithm
    kind = algorithm_class(str(getattr(settings, "name", "")))
    needs = estimate(experiment, task, rows=_most_rows(settings), ranks=launched_size() or 1).needs
    refuse_what_cannot_fit(needs)
    device = _HOST if on_host or is_of_lineages(kind) else _device(experiment)
    archive = _archive(experiment, task, device, lineages=is_of_lineages(kind))
    algorithm = kind(task, archive, Streams(experiment.seed), settings)
    return Parts(experiment, task, archive, algorithm, code=_code_of(task, str(getattr(settings, "name", ""))))


def start(
    experiment: Experiment,
    ranks: Ranks,
    *,
    folder: Path | None = None,
    modules: Path | None = None,
    progress: bool | None = None,
) -> Outcome:
    """Collective. Run an experiment from its beginning in a new folder.

    Args:
        experiment: what to run.
        ranks: who runs it.
        folder: the run folder; made under `experiment.run.folder` when left out.
        modules: the folder of the experiment file, where `resume` searches the user's modules too.
        progress: a live bar; decided by the terminal when left out.

    Raises:
        UserError: the folder exists already, or the parts of the experiment do not fit or cannot be saved. Nothing is
            left of a run that could not begin.
        RunFailed: too many evaluations failed, or the last files cannot be written.
    """
    parts = build(experiment)
    _prepare(parts.task)
    _refuse_unstorable(parts)
    made = _make_folder_together(folder, parts.experiment, ranks, modules if parts.code else None)
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
    parts = build(_experiment_of(folder), on_host=True, arithmetic=stored_arithmetic(folder))
    restore_checkpoint(parts, *read_checkpoint_of(folder))
    return parts


def resume(
    folder: Path,
    ranks: Ranks,
    *,
    overrides: Sequence[str] = (),
    unset: Sequence[str] = (),
    from_archive: bool = False,
    accept_changed_code: bool = False,
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
        accept_changed_code: continue although the source of the user's own code has changed.
        progress: a live bar; decided by the terminal when left out.

    Raises:
        UserError: the folder is no run, its checkpoint is missing or damaged, an override would change results, or the
            user's own code has changed.
        RunFailed: too many evaluations failed, or the last files cannot be written.
    """
    for option, changes in (("--set", overrides), ("--unset", unset)):
        for change in changes:
            if change.partition(".")[0].strip() not in ("run", "compute"):
                raise UserError(f"{option} {change}: only run.* and compute.* may change when resuming")
    parts = build(_experiment_of(folder, overrides, unset), arithmetic=stored_arithmetic(folder))
    _prepare(parts.task)
    restored = restore_run(parts, folder, from_archive=from_archive, accept_changed_code=accept_changed_code)
    recorder = Recorder(parts, ranks, folder, restored.past, progress=progress)
    rewrites_config = bool(overrides or unset) or not (folder / "config.toml").is_file()
    return _run(parts, ranks, folder, recorder, restored=restored, rewrites_config=rewrites_config)


def _experiment_of(folder: Path, overrides: Sequence[str] = (), unset: Sequence[str] = ()) -> Experiment:
    """Return a run folder's experiment, from config.toml or, where that was lost, from the run's own files."""
    if folder.is_file():
        raise UserError(f"{folder} is a file; to continue its run: qdrl resume {folder.parent}")
    if not folder.is_dir():
        raise UserError(f"{folder}: there is no such run folder")
    if (folder / _MODULES).is_file():
        search_also(Path((folder / _MODULES).read_text(encoding="utf-8")))
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
        _refuse_newer_checkpoint(folder, restored)

        def prepare_on_first() -> None:
            ranks.wait_for_all()  # until all have read config.toml
            if ranks.first:
                _prepare_folder(parts.experiment, folder, restored, rewrites_config=rewrites_config)
            ranks.wait_for_all()

        repeat_after_losses(prepare_on_first, lambda _: None)
        with recorder:
            for line in () if restored is None else (restored.warning, *restored.notes):
                if line is not None:
                    recorder.warn(line)
            _share_memory(parts, ranks, recorder)
            if ranks.first and isinstance(parts.task, EpisodicTask) and (warning := parts.task.find_warning()):
                recorder.warn(warning)
            try:
                evolve(parts.algorithm, parts.task, recorder, ranks)
            finally:
                if isinstance(parts.task, EpisodicTask):
                    parts.task.close()
    if recorder.failure is not None:
        raise RunFailed(
            f"{recorder.failure}; once that is fixed, `qdrl resume {folder}` continues"
            f"{' (--accept-changed-code, if the code of yours was changed for it)' if parts.code else ''}"
        )
    return Outcome(folder, recorder.finished, recorder.ended_by, recorder.generations)


def _refuse_newer_checkpoint(folder: Path, restored: Restored | None) -> None:
    """Refuse to continue from a checkpoint that another job replaced before this one had locked the folder."""
    read = None if restored is None else restored.identity
    if read is not None and read != identity(folder / "checkpoint.h5"):
        raise UserError(f"{folder}: another job saved while this one was starting; resume it again")


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
    """Make a task's worlds, so that what they lack is reported before anything is written."""
    if isinstance(task, EpisodicTask):
        task.rollout()


def _share_memory(parts: Parts, ranks: Ranks, recorder: Recorder) -> None:
    """Collective. Let the algorithm make the tables that a node's ranks have in common."""
    share = getattr(parts.algorithm, "share_memory", None)
    if share is not None:
        repeat_after_losses(lambda: share(ranks), lambda loss: recorder.warn(f"{loss}; tables are made again"))


@contextmanager
def _only_writer(recorder: Recorder, ranks: Ranks) -> Iterator[None]:
    """Collective. Lock the run folder against a second job; a rank that replaces a lost first rank takes the lock."""
    found = repeat_after_losses(lambda: ranks.from_first(_taken(recorder) if ranks.first else None), lambda _: None)
    busy, recorder.commit = found
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


def _with_version(experiment: Experiment, task: Task) -> Experiment:
    """Name the task as it was made: an environment's id without a version may mean another version later."""
    name = task.spec.name
    if getattr(experiment.task, "name", name) == name:
        return experiment
    return experiment.model_copy(update={"task": experiment.task.model_copy(update={"name": name})})


def _code_of(task: Task, algorithm: str) -> Sources:
    """The source of the user's own code that a run executes."""
    own = task.code if isinstance(task, EpisodicTask) else ()
    return sources_of([*own, *([algorithm] if is_reference(algorithm) else [])])


def _taken(recorder: Recorder) -> tuple[str | None, str]:
    """Take the folder's lock; return why not, None where it is taken, and the commit of the source that runs."""
    try:
        recorder.lock.take()
    except UserError as error:
        return str(error), ""
    return None, git_commit()


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


def _make_folder_together(
    folder: Path | None, experiment: Experiment, ranks: Ranks, modules: Path | None
) -> Path | str:
    """Collective. Make the run folder on the first rank, or on the next one if that is lost, as `_make_folder` does."""
    made: list[Path | str] = []

    def make_on_first() -> Path | str:
        if ranks.first and not made:
            made.append(_make_folder(folder, experiment, modules))
        return ranks.from_first(made[0] if ranks.first else None)

    return repeat_after_losses(make_on_first, lambda _: None)


def _make_folder(folder: Path | None, experiment: Experiment, modules: Path | None) -> Path | str:
    """Make a run folder with its config; returns its path, or why it cannot be made."""
    candidates = [folder] if folder else _new_names(experiment)
    for candidate in candidates:
        try:
            if _place(candidate, experiment, modules):
                return candidate
        except OSError as error:
            return f"cannot make a run folder: {reason_of(error)}: {candidate}"
    return f"{candidates[0]} exists; a run never writes into a folder that exists"


def _place(folder: Path, experiment: Experiment, modules: Path | None) -> bool:
    """Make a run folder at once, config included; returns whether it is this run's and not one that exists."""
    if folder.exists():
        return False
    temporary = folder.with_name(f".{folder.name}.{os.getpid()}.tmp")
    try:
        (temporary / "figures").mkdir(parents=True)
        write_text(temporary / "config.toml", tomli_w.dumps(experiment.resolved()))
        if modules is not None:
            write_text(temporary / _MODULES, str(modules.absolute()))
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
