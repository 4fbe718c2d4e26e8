"""A run: how it is built, starts in a folder of its own, and goes on.

`runs/<experiment>/<UTC>_seed<k>/` holds config.toml, archive.h5, checkpoint.h5, metrics.csv, log.txt and figures/.
A folder that exists is never touched by a start.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import tomli_w

from qdrl.algorithms import algorithm_class
from qdrl.archives.archive import Archive, Geometry
from qdrl.archives.cvt import CentroidalVoronoi, place_centroids
from qdrl.archives.grid import Grid
from qdrl.archives.hdf5 import read_checkpoint
from qdrl.config import CvtSettings, Experiment, GridSettings, load_experiment
from qdrl.engine import evolve
from qdrl.errors import UserError
from qdrl.ranks import Ranks
from qdrl.recorder import Parts, Recorder
from qdrl.streams import Streams
from qdrl.tasks import build_task
from qdrl.tasks.base import Task


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


def build(experiment: Experiment) -> Parts:
    """Make the task, the empty archive and the algorithm that an experiment describes; writes nothing.

    Raises:
        UserError: the parts do not fit each other.
    """
    compute = experiment.compute
    task = build_task(experiment.task, policy=experiment.policy, worlds=compute.worlds, threads=compute.threads)
    archive = Archive(_geometry(experiment, task), task.parameters, qd_offset=task.spec.qd_offset)
    settings = experiment.algorithm
    kind = algorithm_class(str(getattr(settings, "name", "")))
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
    folder = Path(ranks.from_first(str(folder or _new_folder(experiment))))
    problem = _make_folder(folder, experiment) if ranks.first else None
    if problem := ranks.from_first(problem):
        raise UserError(problem)
    return _run(parts, ranks, folder, Recorder(parts, ranks, folder, progress=progress))


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
    if not (folder / "config.toml").is_file():
        raise UserError(f"{folder} is not a run folder: it has no config.toml")
    for override in overrides:
        if override.partition(".")[0].strip() not in ("run", "compute"):
            raise UserError(f"--set {override}: only run.* and compute.* may change when resuming")
    parts = build(load_experiment(folder / "config.toml", overrides))
    recorder = Recorder(parts, ranks, folder, progress=progress)
    if (folder / "checkpoint.h5").exists():
        stored, state = read_checkpoint(folder / "checkpoint.h5")
        parts.archive.load_state_dict({**stored.elites, "genome": stored.all_genomes()})
        parts.algorithm.load_state_dict(state["algorithm"])
        if "task" in state:
            parts.task.load_state_dict(state["task"])
        recorder.history = {name: values.tolist() for name, values in stored.history.items()}
        recorder.created_utc = stored.attributes["created_utc"]
    return _run(parts, ranks, folder, recorder)


def _run(parts: Parts, ranks: Ranks, folder: Path, recorder: Recorder) -> Outcome:
    with recorder:
        evolve(parts.algorithm, parts.task, recorder, ranks)
    return Outcome(folder, recorder.finished)


def _geometry(experiment: Experiment, task: Task) -> Geometry:
    lower, upper, settings = task.spec.lower, task.spec.upper, experiment.archive
    if isinstance(settings, GridSettings):
        if len(settings.shape) != len(lower):
            axes = ", ".join(axis.name for axis in task.spec.axes)
            raise UserError(f"archive.shape: {list(settings.shape)} for the {len(lower)} axes ({axes})")
        return Grid(lower, upper, settings.shape)
    return CentroidalVoronoi(_centroids(settings, lower, upper), lower, upper)


def _centroids(settings: CvtSettings, lower: list[float], upper: list[float]) -> np.ndarray:
    generator = Streams(settings.centroid_seed).generator("centroids")
    return place_centroids(generator, settings.cells, lower, upper, samples=settings.samples)


def _new_folder(experiment: Experiment) -> Path:
    moment = datetime.now(UTC).strftime("%Y%m%dT%H%M%SZ")
    return Path(experiment.run.folder) / experiment.name / f"{moment}_seed{experiment.seed}"


def _make_folder(folder: Path, experiment: Experiment) -> str | None:
    """Make a run folder with its config; says why when it cannot."""
    try:
        folder.mkdir(parents=True)
    except FileExistsError:
        return f"{folder} exists; a run never writes into a folder that exists"
    except OSError as error:
        return f"cannot make run folder {folder}: {error.strerror}"
    (folder / "config.toml").write_text(tomli_w.dumps(experiment.resolved()))
    (folder / "figures").mkdir()
    return None
