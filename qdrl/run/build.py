"""Build the parts of a run from its settings: task, empty archive and algorithm. Nothing is written."""

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch

from qdrl.algorithms.base import Algorithm, is_of_lineages
from qdrl.algorithms.registry import algorithm_class
from qdrl.archives.admission import Adaptation, All, Probability, Rule, Threshold
from qdrl.archives.archive import Archive
from qdrl.archives.base import AnyArchive, Geometry
from qdrl.archives.cvt import CentroidalVoronoi, place_centroids
from qdrl.archives.grid import Grid
from qdrl.archives.novelty_archive import NoveltyArchive
from qdrl.compute.arithmetic import PORTABLE, Arithmetic
from qdrl.compute.devices import check_archive, device_of
from qdrl.config import CvtSettings, Experiment, GridSettings, NoveltySettings
from qdrl.errors import UserError
from qdrl.naming import is_reference
from qdrl.parallel.ranks import launched_size
from qdrl.provenance.source_code import Sources, sources_of
from qdrl.run.estimate import estimate, refuse_what_cannot_fit
from qdrl.streams import Streams
from qdrl.tasks.base import Task
from qdrl.tasks.episodic import EpisodicTask
from qdrl.tasks.registry import build_task

_HOST = torch.device("cpu")


@dataclass
class Parts:
    """The parts of an experiment, ready to run.

    Attributes:
        experiment: the settings.
        task: evaluates genomes.
        archive: the elites so far.
        algorithm: proposes genomes.
        code: source of the user's own code as it was when the run started.
    """

    experiment: Experiment
    task: Task
    archive: AnyArchive
    algorithm: Algorithm
    code: Sources = field(default_factory=dict)

    @property
    def algorithm_name(self) -> str:
        """The algorithm's name in the settings."""
        return _name_of(self.experiment)


def build(experiment: Experiment, *, on_host: bool = False, arithmetic: Arithmetic = PORTABLE) -> Parts:
    """Return the parts of an experiment as they are before its first generation. Writes nothing.

    Args:
        experiment: the settings.
        on_host: keep archive and critics in the host's memory, whatever device the experiment names.
        arithmetic: how policies are computed on the CPU.

    Raises:
        UserError: the parts do not fit each other, or do not fit into memory.
    """
    compute, run = experiment.compute, experiment.run
    task = build_task(experiment.task, policy=experiment.policy, arithmetic=arithmetic, **compute.model_dump())
    experiment = _with_version(experiment, task)
    if run.frames is not None and task.spec.frames_per_step == 1:
        raise UserError(f"run.frames: task '{task.spec.name}' has no frames; set run.env_steps")
    name = _name_of(experiment)
    kind = algorithm_class(name)
    needs = estimate(experiment, task, rows=_most_rows(experiment.algorithm), ranks=launched_size() or 1).needs
    refuse_what_cannot_fit(needs)
    device = _HOST if on_host or is_of_lineages(kind) else _device(experiment)
    archive = _archive(experiment, task, device, lineages=is_of_lineages(kind))
    algorithm = kind(task, archive, Streams(experiment.seed), experiment.algorithm)
    return Parts(experiment, task, archive, algorithm, code=_code_of(task, name))


def _name_of(experiment: Experiment) -> str:
    return str(getattr(experiment.algorithm, "name", ""))


def _most_rows(settings: Any) -> int:
    """Return the most rows of a generation that settings state; those of a user's algorithm may state none."""
    rows = [getattr(settings, name, 0) for name in ("batch_size", "probe_rows", "mean_rows")]
    return max(1, sum(number for number in rows if isinstance(number, int)))


def _with_version(experiment: Experiment, task: Task) -> Experiment:
    """Return the experiment with the task's full name: an environment id without a version may change its meaning."""
    name = task.spec.name
    if getattr(experiment.task, "name", name) == name:
        return experiment
    return experiment.model_copy(update={"task": experiment.task.model_copy(update={"name": name})})


def _code_of(task: Task, algorithm: str) -> Sources:
    """Return the source of the user's own code that a run executes."""
    own = task.code if isinstance(task, EpisodicTask) else ()
    return sources_of([*own, *([algorithm] if is_reference(algorithm) else [])])


def _device(experiment: Experiment) -> torch.device:
    """Return the device of archive and critics: the host where a run on a GPU is built on a machine without one."""
    on_gpu = experiment.compute.device == "cuda" and torch.cuda.is_available()
    return device_of("cuda") if on_gpu else _HOST


def _archive(experiment: Experiment, task: Task, device: torch.device, *, lineages: bool) -> AnyArchive:
    """Return the empty archive; an archive of lineages stores one number a genome."""
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
