"""Estimate what a run needs from its settings: memory, file sizes, ranks without rows, threads beyond cores.

Figures are upper bounds: an archive whose cells are all full, episodes of full length, a full replay. Memory of a GPU
is not counted here; it is checked when it is allocated.
"""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from math import ceil
from pathlib import Path
from typing import Any, Literal

from qdrl.algorithms.base import Algorithm
from qdrl.algorithms.critic_guided import CriticGuided
from qdrl.algorithms.critic_guided_settings import CriticGuidedSettings
from qdrl.algorithms.registry import algorithm_class
from qdrl.archives.base import FIELDS
from qdrl.compute.resource_limits import allowed_cores, core_quota, memory_limit
from qdrl.config import Experiment
from qdrl.critics.settings import LearningSettings
from qdrl.errors import UserError
from qdrl.parallel.launcher import local_size
from qdrl.policies.mlp import Mlp
from qdrl.run.file_sizes import archive_file_bytes
from qdrl.tasks.base import Task
from qdrl.tasks.episodic import EpisodicTask

_FLOAT = 4  # bytes
_FLAGS = 8 + 4 + 1 + 1  # of a transition besides observations and action: row, reward, terminated, truncated
_ADAM = 5  # copies of a network that training keeps: weights, target, gradient and two moments


@dataclass(frozen=True)
class Need:
    """Memory for one purpose.

    Attributes:
        purpose: what it is for.
        keys: the settings that decide it.
        bytes: at most, of one copy.
        place: what has a copy: each "rank", each "learner", or each "node".
        holders: how many of them there are on a node, at most; as many as its ranks where left out.
    """

    purpose: str
    keys: str
    bytes: int
    place: Literal["rank", "learner", "node"] = "rank"
    holders: int | None = None


@dataclass(frozen=True)
class Estimate:
    """Memory and file sizes of a run.

    Attributes:
        rows: rows of a generation, at most.
        ranks: number of ranks.
        needs: memory on the first rank, which is a learner where there are any.
        archive_bytes: size of archive.h5 once all cells are full; 0 where nothing limits it.
        checkpoint_bytes: size of checkpoint.h5 then.
        threads: threads of a rank.
    """

    rows: int
    ranks: int
    needs: tuple[Need, ...]
    archive_bytes: int
    checkpoint_bytes: int
    threads: int

    @property
    def rank_bytes(self) -> int:
        """Memory of the first rank, what its node shares included."""
        return _resident() + sum(need.bytes for need in self.needs)

    @property
    def node_bytes(self) -> int:
        """Memory of all ranks of this node."""
        ranks = local_size()
        held = (need.bytes * (ranks if need.holders is None else min(ranks, need.holders)) for need in self.needs)
        return ranks * _resident() + sum(held)

    def memory(self) -> str:
        """Return the memory line: a rank, its parts from the largest down, and the node's ranks against its limit."""
        parts = sorted(self.needs, key=lambda need: -need.bytes)
        named = ", ".join(f"{need.purpose} {size(need.bytes)}" for need in parts if need.bytes >= 2**20)
        line = f"up to {size(self.rank_bytes)} a rank{f' ({named})' if named else ''}"
        limit = memory_limit()
        if local_size() > 1:
            line += f", {size(self.node_bytes)} for the {local_size()} ranks of this node"
        over = "; MORE THAN AVAILABLE once all of it is in use" if self.node_bytes > limit else ""
        return f"{line}, of {size(limit)}{over}"

    def files(self) -> str:
        """Return the line about files."""
        if not self.archive_bytes:
            return "files grow with the archive"
        return f"archive.h5 up to {size(self.archive_bytes)}, checkpoint.h5 up to {size(self.checkpoint_bytes)}"

    def warnings(self) -> list[str]:
        """Return what is wasted: ranks without rows, threads without cores."""
        found = []
        if (idle := self.ranks - self.rows) > 0:
            found.append(f"{self.rows} rows for {self.ranks} ranks: {idle} idle")
        if self.threads > (own := len(allowed_cores())):
            found.append(f"{self.threads} threads a rank on {own} cores; mpirun --bind-to none allows more cores")
        cores = core_quota() or os.cpu_count() or 1
        if local_size() > 1 and local_size() * self.threads > cores:
            found.append(f"{local_size() * self.threads} threads on {cores:g} cores")
        return found

    def in_a_line(self) -> str:
        """Return all of it in one line."""
        return "; ".join([f"memory {self.memory()}", self.files(), *self.warnings()])


def estimate(experiment: Experiment, task: Task, *, rows: int, ranks: int) -> Estimate:
    """Estimate memory and file sizes of a run.

    Args:
        experiment: the run's settings.
        task: made of them.
        rows: rows of the largest generation.
        ranks: number of ranks.
    """
    on_host = experiment.compute.device != "cuda"
    needs = [_archive(experiment, task), _genomes(experiment, task, ceil(rows / ranks))] if on_host else []
    if isinstance(settings := experiment.algorithm, LearningSettings) and on_host:
        needs += [_replay(settings, task, ranks), _critics(settings, task)]
        needs += _transitions(settings, task, rows, ranks)
    if numbers := _algorithm(experiment).workload(settings).noise_table:
        needs.append(Need("noise table", "algorithm.noise.size", _FLOAT * numbers, "node", 1))
    archive_bytes = archive_file_bytes(experiment, task, rows)
    learned = _replay_bytes(settings, task) + _td3_bytes(settings, task) if _learns(settings) else 0
    threads = os.environ.get("OMP_NUM_THREADS", "1")
    return Estimate(
        rows=rows,
        ranks=ranks,
        needs=tuple(needs),
        archive_bytes=archive_bytes,
        checkpoint_bytes=archive_bytes + learned,
        threads=max(experiment.compute.threads, int(threads) if threads.isdecimal() else 1),
    )


def refuse_what_cannot_fit(needs: Sequence[Need], limit: int | None = None) -> None:
    """Refuse memory that this machine, or the limit set on this process, cannot hold; call it before it is allocated.

    Args:
        needs: what will be allocated.
        limit: bytes of memory that there are; this process's where left out.

    Raises:
        UserError: one line that names the settings, what they need and what there is.
    """
    limit = memory_limit() if limit is None else limit
    largest = max(needs, key=lambda need: need.bytes, default=None)
    if largest is not None and largest.bytes > limit:
        needed = f"{size(largest.bytes)} a {largest.place} for the {largest.purpose}"
        raise UserError(f"{largest.keys}: {needed}, but only {size(limit)} of memory are available")


def cells(experiment: Experiment) -> int:
    """Return the cells of an experiment's archive, or its capacity; 0 where nothing limits it."""
    return experiment.archive.most_elites


def size(count: int) -> str:
    """Return a number of bytes in a unit that people read."""
    for unit, power in (("GiB", 30), ("MiB", 20), ("KiB", 10)):
        if count >= 2**power:
            number = count / 2**power
            return f"{number:,.0f} {unit}" if number >= 100 else f"{number:.1f} {unit}"
    return f"{count} B"


def _resident() -> int:
    """Return the resident memory of this process in bytes."""
    try:
        pages = Path("/proc/self/statm").read_text(encoding="utf-8").split()[1]
        return int(pages) * os.sysconf("SC_PAGE_SIZE")
    except (OSError, ValueError, IndexError):
        return 0


def _learns(settings: Any) -> bool:
    return isinstance(settings, LearningSettings)


def _algorithm(experiment: Experiment) -> type[Algorithm]:
    return algorithm_class(experiment.algorithm_name)


def _has_policies(task: Task) -> bool:
    return task.describe_policy() is not None


def _of_genomes(task: Task) -> str:
    return "policy" if _has_policies(task) else "task.parameters"


def _archive(experiment: Experiment, task: Task) -> Need:
    axes = len(task.spec.axes)
    genome = 8 if _algorithm(experiment).holds_lineages else _FLOAT * task.parameters
    columns = 8 + 8 * axes + sum(8 * (axes if name == "descriptor_std" else 1) for name in FIELDS)
    limit = f"archive.{experiment.archive.limited_by} ({cells(experiment):,})"
    keys = f"{limit} and {_of_genomes(task)} ({task.parameters:,} parameters)"
    return Need("archive", keys, cells(experiment) * (genome + columns))


def _genomes(experiment: Experiment, task: Task, rows: int) -> Need:
    """Return memory of a rank's genomes and of the networks of its worlds; lineages are decoded one at a time.

    Actors of other layers than the policies' act in worlds of their own.
    """
    held = 0 if _algorithm(experiment).holds_lineages else rows
    worlds = min(experiment.compute.worlds, rows) if _has_policies(task) else 0
    keys = f"algorithm.batch_size, compute.worlds and {_of_genomes(task)} ({task.parameters:,} parameters)"
    actor = _parameters_of_other_actors(experiment.algorithm, task)
    numbers = held * max(task.parameters, actor) + worlds * (task.parameters + actor)
    return Need("genomes of a generation", keys, numbers * _FLOAT)


def _parameters_of_other_actors(settings: Any, task: Task) -> int:
    """Return the parameters of actors that are evaluated with other layers than the policies'; 0 if there are none."""
    if not (isinstance(settings, CriticGuidedSettings) and settings.probes_apart and isinstance(task, EpisodicTask)):
        return 0
    policy, sizes = task.policy, settings.critic.actor_hidden_sizes
    differs = isinstance(policy, Mlp) and policy.resized(sizes) is not policy
    return _actor_parameters(settings, task) if differs else 0


def _widths(settings: Any, task: Task) -> tuple[int, int, int]:
    """Return the sizes of an observation, an action and, for conditioned critics, a descriptor."""
    kind = algorithm_class(settings.name)
    return (
        task.spec.observation_size,
        task.spec.action_size,
        len(task.spec.axes) if issubclass(kind, CriticGuided) and kind.conditioned else 0,
    )


def _replay_bytes(settings: Any, task: Task) -> int:
    observation, action, descriptor = _widths(settings, task)
    return settings.replay_capacity * _FLOAT * (2 * observation + action + 3 + 2 * descriptor)


def _replay(settings: LearningSettings, task: Task, ranks: int) -> Need:
    holders = min(settings.learners, ranks)
    shards = ceil(settings.learners / holders)
    keys = f"algorithm.replay_capacity ({settings.replay_capacity:,})"
    return Need("replay", keys, _replay_bytes(settings, task) * shards // settings.learners, "learner", holders)


def _td3_bytes(settings: Any, task: Task) -> int:
    observation, action, descriptor = _widths(settings, task)
    critic = _weights(observation + action + descriptor, *settings.critic.hidden_sizes, 1)
    return _FLOAT * _ADAM * (2 * critic + _actor_parameters(settings, task))


def _weights(*layers: int) -> int:
    return sum((a + 1) * b for a, b in pairwise(layers))


def _actor_parameters(settings: Any, task: Task) -> int:
    inputs, outputs, sizes = task.spec.observation_size, task.spec.action_size, settings.critic.actor_hidden_sizes
    return _weights(inputs, *sizes, outputs) if sizes else task.parameters


def _critics(settings: LearningSettings, task: Task) -> Need:
    return Need("critics", "algorithm.critic.hidden_sizes", _td3_bytes(settings, task))


def _transitions(settings: Any, task: Task, rows: int, ranks: int) -> list[Need]:
    """Return memory of a generation's transitions: those of a rank's rows, and a learner's share of all; both twice."""
    observation, action, descriptor = _widths(settings, task)
    step = _FLAGS + _FLOAT * (2 * observation + action)
    holders = min(settings.learners, ranks)
    learned = ceil(rows / holders) * (2 * step + 2 * _FLOAT * descriptor)
    own = ceil(rows / ranks) * (step + _FLOAT * (observation + action + 1))
    keys = f"algorithm.batch_size and task.episode_length ({rows:,} rows of {task.spec.episode_length:,} steps)"
    length = task.spec.episode_length
    return [
        Need("transitions of a rank's rows", keys, length * own),
        Need("transitions of a generation", keys, length * learned, "learner", holders),
    ]
