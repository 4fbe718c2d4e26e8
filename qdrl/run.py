"""A run: how it is built, starts in a folder of its own, and goes on.

`runs/<experiment>/<UTC>_seed<k>/` holds config.toml, archive.h5, checkpoint.h5, metrics.csv, log.txt and figures/.
A folder that exists is never touched by a start.
"""

import json
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
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
from qdrl.archives.files import write_text
from qdrl.archives.grid import Grid
from qdrl.archives.hdf5 import read_checkpoint
from qdrl.archives.novelty_archive import NoveltyArchive
from qdrl.archives.stored import StoredArchive
from qdrl.config import CvtSettings, Experiment, GridSettings, NoveltySettings, load_experiment
from qdrl.engine import evolve
from qdrl.errors import RankLost, UserError
from qdrl.physics.devices import device_of, free_memory
from qdrl.ranks import Ranks
from qdrl.recorder import Parts, Recorder
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
        finished: whether a budget was reached; otherwise it was asked to stop and can be resumed.
    """

    folder: Path
    finished: bool

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
        UserError: the folder exists already, or the parts of the experiment do not fit.
    """
    parts = build(experiment)
    _prepare(parts.task)
    made = _make_folder(folder, experiment) if ranks.first else None
    made = ranks.from_first(made)
    if isinstance(made, str):
        raise UserError(made)
    return _run(parts, ranks, made, Recorder(parts, ranks, made, progress=progress))


def load(folder: str | Path) -> Parts:
    """A run as its last checkpoint left it: `parts.algorithm.ask()` proposes what would come next. Writes nothing.

    A run on a GPU is opened anywhere; evaluating with its task needs its device.

    Raises:
        UserError: the folder is no run, has no checkpoint, or the checkpoint is damaged.
    """
    folder = Path(folder)
    parts = _rebuilt(folder, on_host=True)
    _restore(parts, folder / "checkpoint.h5")
    return parts


def resume(folder: Path, ranks: Ranks, *, overrides: Sequence[str] = (), progress: bool | None = None) -> Outcome:
    """Collective. Go on with a run from its last checkpoint, on any number of ranks.

    The final archive is the uninterrupted run's, bit for bit. Without a checkpoint the run starts over.

    Args:
        folder: the run folder.
        ranks: who runs it.
        overrides: `run.key=value` or `compute.key=value`, for example a larger budget.
        progress: a live bar; decided by the terminal when left out.

    Raises:
        UserError: the folder is no run, its checkpoint is damaged, or an override would change results.
    """
    for override in overrides:
        if override.partition(".")[0].strip() not in ("run", "compute"):
            raise UserError(f"--set {override}: only run.* and compute.* may change when resuming")
    parts = _rebuilt(folder, overrides)
    _prepare(parts.task)
    recorder = Recorder(parts, ranks, folder, progress=progress)
    if (folder / "checkpoint.h5").exists():
        stored = _restore(parts, folder / "checkpoint.h5")
        recorder.history = {name: values.tolist() for name, values in stored.history.items()}
        recorder.created_utc = stored.attributes["created_utc"]
    return _run(parts, ranks, folder, recorder, rewrites_config=bool(overrides))


def _rebuilt(folder: Path, overrides: Sequence[str] = (), *, on_host: bool = False) -> Parts:
    """The parts of a run folder's experiment, as they were before its first generation."""
    if not (folder / "config.toml").is_file():
        raise UserError(f"{folder} is not a run folder: it has no config.toml")
    return build(load_experiment(folder / "config.toml", overrides), on_host=on_host)


def _restore(parts: Parts, checkpoint: Path) -> StoredArchive:
    """Put back a checkpoint."""
    stored, state = read_checkpoint(checkpoint)
    _refuse_another_experiment(stored.meta["config"] or {}, parts.experiment)
    try:
        _load(parts, stored, state)
    except (LookupError, TypeError, ValueError, AttributeError, ArithmeticError, RuntimeError, MemoryError) as error:
        # Whatever an algorithm meets in a state that no run wrote; a state that a run wrote loads.
        reason = f"{type(error).__name__}: {' '.join(str(error).split())}"[:300]
        raise UserError(f"{checkpoint}: its state does not fit this experiment: {reason}") from error
    return stored


def _load(parts: Parts, stored: StoredArchive, state: dict[str, Any]) -> None:
    """Give archive, algorithm and task what a checkpoint holds of them.

    Raises:
        ValueError: they do not agree with each other.
    """
    nodes = state["algorithm"]["nodes"] if is_of_lineages(parts.algorithm) else None
    genomes = stored.all_genomes() if nodes is None else nodes
    parts.archive.load_state_dict({**stored.elites, "genome": genomes, **state.get("archive", {})})
    parts.algorithm.load_state_dict(state["algorithm"])
    if "task" in state:
        parts.task.load_state_dict(state["task"])
    done = len(next(iter(stored.history.values()), ()))
    if parts.algorithm.generation != done:
        raise ValueError(f"the algorithm is in generation {parts.algorithm.generation}, the history has {done}")


def _run(parts: Parts, ranks: Ranks, folder: Path, recorder: Recorder, *, rewrites_config: bool = False) -> Outcome:
    with _only_writer(recorder, ranks), recorder:
        if ranks.first and rewrites_config:
            write_text(folder / "config.toml", tomli_w.dumps(parts.experiment.resolved()))
        _share_memory(parts, ranks)
        evolve(parts.algorithm, parts.task, recorder, ranks)
    return Outcome(folder, recorder.finished)


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
    busy = None
    if ranks.first:
        try:
            recorder.lock.take()
        except UserError as error:
            busy = str(error)
    if (busy := ranks.from_first(busy)) is not None:
        raise UserError(busy)
    try:
        yield
    finally:
        recorder.lock.release()


def _refuse_another_experiment(before: dict[str, Any], experiment: Experiment) -> None:
    """Refuse to go on with other settings than the checkpoint was made with; budgets and speed may change."""
    now = json.loads(json.dumps(experiment.resolved()))
    device = before.get("compute", {}).get("device", "cpu")
    if device != experiment.compute.device:
        raise UserError(
            f"compute.device: the checkpoint was made on '{device}', whose results differ from those of"
            f" '{experiment.compute.device}'; start a new run instead"
        )
    for table in sorted({*before, *now} - {"run", "compute"}):
        old, new = before.get(table), now.get(table)
        if old != new:
            raise UserError(
                f"config.toml differs from the checkpoint in '{table}': {new!r}, it was {old!r};"
                " resuming would mix two experiments, start a new run instead"
            )


def _archive(experiment: Experiment, task: Task, device: torch.device, *, lineages: bool) -> AnyArchive:
    """The empty archive; one of lineages holds one number a genome."""
    settings, spec = experiment.archive, task.spec
    parameters, dtype = (1, torch.int64) if lineages else (task.parameters, torch.float32)
    if isinstance(settings, NoveltySettings):
        _refuse_too_large(settings.capacity or 0, parameters, "archive.capacity")
        rule = _rule(settings, Streams(experiment.seed))
        options: dict[str, Any] = {"k": settings.k, "rule": rule, "capacity": settings.capacity, "dtype": dtype}
        return NoveltyArchive(spec.lower, spec.upper, parameters, qd_offset=spec.qd_offset, **options)
    geometry = _geometry(settings, task)
    _refuse_too_large(geometry.cells, parameters, "archive.cells", device)
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


def _refuse_too_large(cells: int, parameters: int, setting: str, device: torch.device = _HOST) -> None:
    """Refuse an archive that cannot fit this machine's memory, or the GPU's, once its cells are full."""
    needed, there = 4 * cells * parameters, os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    if device.type == "cuda":
        there = free_memory(device)
    if needed > there:
        raise UserError(
            f"{setting} and policy.hidden_sizes: {cells} cells of {parameters} parameters need"
            f" {needed / 2**30:.1f} GiB a rank, {'this machine' if device == _HOST else device} has"
            f" {there / 2**30:.1f} GiB"
        )


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
    """Make a run folder with its config; gives it, or says why it cannot be made."""
    candidates = [folder] if folder else _new_names(experiment)
    try:
        for candidate in candidates:
            with suppress(FileExistsError):
                candidate.mkdir(parents=True)
                (candidate / "figures").mkdir()
                write_text(candidate / "config.toml", tomli_w.dumps(experiment.resolved()))
                return candidate
    except OSError as error:
        return f"cannot make a run folder: {error.strerror}: {error.filename}"
    return f"{candidates[0]} exists; a run never writes into a folder that exists"


def _new_names(experiment: Experiment) -> list[Path]:
    """Names for a new run folder: runs that start in the same second get numbers."""
    moment = datetime.now(UTC).strftime("%Y%m%dT%H%M%SZ")
    name = f"{moment}_seed{experiment.seed}"
    parent = Path(experiment.run.folder) / experiment.name
    return [parent / name, *(parent / f"{name}-{number}" for number in range(2, 100))]
