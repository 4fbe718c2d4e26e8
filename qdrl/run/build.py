"""Build the parts of a run from its settings: task, empty archive and algorithm. Nothing is written."""

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch

from qdrl.algorithms.base import Algorithm
from qdrl.algorithms.registry import algorithm_class
from qdrl.archives.base import AnyArchive
from qdrl.archives.registry import build_archive
from qdrl.archives.settings import ArchiveRequest
from qdrl.compute.arithmetic import PORTABLE, Arithmetic
from qdrl.compute.devices import device_of
from qdrl.config import Experiment
from qdrl.errors import UserError
from qdrl.naming import is_reference
from qdrl.parallel.launcher import launched_size
from qdrl.provenance.source_code import Sources, sources_of
from qdrl.run.estimate import estimate, refuse_what_cannot_fit
from qdrl.streams import Streams
from qdrl.tasks.base import Task, TaskSetup
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
        return self.experiment.algorithm_name

    @property
    def most_rows(self) -> int:
        """Return the rows of the largest generation, as far as they are known."""
        return max(self.algorithm.batch_size, self.algorithm.workload(self.experiment.algorithm).rows)


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
    setup = TaskSetup(policy=experiment.policy, arithmetic=arithmetic, **compute.model_dump())
    task = build_task(experiment.task, setup)
    experiment = _with_version(experiment, task)
    if run.frames is not None and task.spec.frames_per_step == 1:
        raise UserError(f"run.frames: task '{task.spec.name}' has no frames; set run.env_steps")
    name = experiment.algorithm_name
    kind = algorithm_class(name)
    rows = max(1, kind.workload(experiment.algorithm).rows)
    needs = estimate(experiment, task, rows=rows, ranks=launched_size() or 1).needs
    refuse_what_cannot_fit(needs)
    device = _HOST if on_host or kind.holds_lineages else _device(experiment)
    archive = _archive(experiment, task, device, lineages=kind.holds_lineages)
    algorithm = kind(task, archive, Streams(experiment.seed), experiment.algorithm)
    if not hasattr(algorithm, "batch_size"):  # known only once the constructor has run
        raise UserError(f"algorithm.name: '{name}' must set the attribute batch_size, the rows of a generation")
    return Parts(experiment, task, archive, algorithm, code=_code_of(task, [name, experiment.archive.kind]))


def _with_version(experiment: Experiment, task: Task) -> Experiment:
    """Return the experiment with the task's full name: an environment id without a version may change its meaning."""
    name = task.spec.name
    if experiment.task_name == name:
        return experiment
    return experiment.model_copy(update={"task": experiment.task.model_copy(update={"name": name})})


def _code_of(task: Task, names: Sequence[str]) -> Sources:
    """Return the source of the user's own code that a run executes; `names` are those of its algorithm and archive."""
    return sources_of([*task.code, *filter(is_reference, names)])


def _device(experiment: Experiment) -> torch.device:
    """Return the device of archive and critics: the host where a run on a GPU is built on a machine without one."""
    on_gpu = experiment.compute.device == "cuda" and torch.cuda.is_available()
    return device_of("cuda") if on_gpu else _HOST


def _archive(experiment: Experiment, task: Task, device: torch.device, *, lineages: bool) -> AnyArchive:
    """Return the empty archive; an archive of lineages stores one number a genome."""
    spec = task.spec
    request = ArchiveRequest(
        axes=tuple(axis.name for axis in spec.axes),
        lower=spec.lower,
        upper=spec.upper,
        parameters=1 if lineages else task.parameters,
        offsets=spec.offsets,
        dtype=torch.int64 if lineages else torch.float32,
        device=device,
        seed=experiment.seed,
    )
    archive = build_archive(experiment.archive, request)
    if getattr(archive, "offsets", None) != spec.offsets:
        kind = experiment.archive.kind
        raise UserError(f"archive.kind '{kind}': build must pass offsets=request.offsets to the archive")
    return archive
