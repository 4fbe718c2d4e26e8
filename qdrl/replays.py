"""Run a stored elite again, exactly: same genome, same seed, same observation statistics, same physics."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from qdrl.archives.stored import StoredArchive
from qdrl.errors import UserError
from qdrl.evaluation import Candidates
from qdrl.policies.mlp import Mlp, MlpSettings
from qdrl.tasks import make_task
from qdrl.tasks.base import Task
from qdrl.tasks.episodic import EpisodicTask
from qdrl.tasks.locomotion import LocomotionWorlds
from qdrl.tasks.rollout import EpisodeWorlds


@dataclass
class Track:
    """What physics did in an episode.

    Attributes:
        qpos: `(steps + 1, nq)` positions, the initial ones included.
        qvel: `(steps + 1, nv)` velocities.
        control: `(steps, nu)` float64 controls as physics got them: what `gymnasium.Env.step` takes.
        model: the compiled MuJoCo model.
        step_seconds: simulated time of a control step.
    """

    qpos: np.ndarray
    qvel: np.ndarray
    control: np.ndarray
    model: Any
    step_seconds: float


@dataclass
class Replay:
    """An elite's episode, run again.

    Attributes:
        fitness: return.
        descriptor: `(d,)`.
        steps: control steps.
        same: whether fitness and descriptor are the stored ones, bit for bit.
        track: states and controls, for tasks on MuJoCo.
    """

    fitness: float
    descriptor: np.ndarray
    steps: int
    same: bool
    track: Track | None


def replay(archive: StoredArchive, cell: int) -> Replay:
    """Run the elite of a cell again.

    Raises:
        UserError: the cell is empty, or this installation cannot make the task.
    """
    row = archive.row_of(cell)
    task = task_of(archive)
    genome = torch.from_numpy(np.array(archive.genome(row)))[None]
    seed = int(archive.elites["evaluation_seed"][row])
    if isinstance(task, EpisodicTask):
        worlds = _Recording(task.make_worlds(1))
        normalization = normalization_of(archive, int(archive.elites["generation"][row]))
        episodes = task.rollout_in(worlds).run(genome, [seed], normalization)
        fitness, descriptor, steps = episodes.fitness, episodes.descriptor, episodes.steps
        track = worlds.track()
    else:
        one = torch.zeros(1, dtype=torch.int64)
        evaluation = task.evaluate(Candidates(0, range(1), genome, torch.tensor([seed]), one, one))
        fitness, descriptor, steps = evaluation.fitness, evaluation.descriptor, evaluation.steps
        track = None
    reached = descriptor[0].numpy()
    same = bool(
        fitness[0] == archive.elites["fitness"][row] and np.array_equal(reached, archive.elites["descriptor"][row])
    )
    return Replay(float(fitness[0]), reached, int(steps[0]), same, track)


def policy_of(archive: StoredArchive) -> Mlp:
    """The shape of an archive's policies.

    Raises:
        UserError: its genomes are no policies.
    """
    policy = archive.meta.get("policy")
    if policy is None:
        raise UserError(f"{archive.path}: its genomes are not policies")
    try:
        return Mlp(policy["layers"][0], policy["layers"][-1], MlpSettings(**_shape(policy)))
    except (KeyError, TypeError) as error:
        raise UserError("the archive does not say how to make its policies") from error


def task_of(archive: StoredArchive, worlds: int = 1) -> Task:
    """The task an archive was made on, with its policies' shape.

    Raises:
        UserError: the file does not say, or this installation cannot make the task.
    """
    task, policy = archive.meta.get("task") or {}, archive.meta.get("policy")
    try:
        options = dict(task["options"])
        name, shape = options.pop("name"), None if policy is None else _shape(policy)
    except (KeyError, TypeError) as error:
        raise UserError("the archive does not say how to make its task and policies") from error
    made = make_task(name, policy=shape, worlds=worlds, **options)
    parameters = archive.genome(0).shape[0] if len(archive) else made.parameters
    if made.parameters != parameters:
        raise UserError(
            f"genomes have {parameters} parameters but task '{name}' now needs {made.parameters};"
            " install the package versions that `qdrl archive info` names"
        )
    return made


def normalization_of(archive: StoredArchive, generation: int) -> tuple[np.ndarray, np.ndarray] | None:
    """Mean and variance that policies of a generation were evaluated with; None where policies do not normalise."""
    if archive.normalizer is None:
        return None
    rows = np.flatnonzero(archive.normalizer["at.generation"] == generation)
    if len(rows) == 0:
        raise UserError(f"/normalizer/at: no observation statistics of generation {generation}")
    return archive.normalizer["at.mean"][rows[0]], archive.normalizer["at.var"][rows[0]]


class _Recording:
    """One world that remembers what happens in it; see `qdrl.tasks.rollout.EpisodeWorlds`."""

    def __init__(self, worlds: EpisodeWorlds) -> None:
        self.count = 1
        self._worlds = worlds
        self._states: list[tuple[np.ndarray, np.ndarray]] = []
        self._controls: list[np.ndarray] = []

    def reset(self, slots: Sequence[int], seeds: Sequence[int]) -> None:
        self._worlds.reset(slots, seeds)
        self._note_state()

    def observe(self, ages: Tensor) -> Tensor:
        return self._worlds.observe(ages)

    def step(self, actions: Tensor) -> tuple[Tensor, Tensor]:
        result = self._worlds.step(actions)
        if isinstance(self._worlds, LocomotionWorlds):
            self._controls.append(self._worlds.physics.control[0].numpy().copy())
        self._note_state()
        return result

    def descriptor(self, slot: int, steps: int) -> Tensor:
        return self._worlds.descriptor(slot, steps)

    def failed(self, slot: int) -> bool:
        return self._worlds.failed(slot)

    def truncated(self, slot: int) -> bool:
        return self._worlds.truncated(slot)

    def move(self, source: int, target: int) -> None:
        self._worlds.move(source, target)

    def track(self) -> Track | None:
        if not isinstance(self._worlds, LocomotionWorlds):
            return None
        qpos, qvel = (np.stack(part) for part in zip(*self._states, strict=True))
        control = np.stack(self._controls)
        return Track(qpos, qvel, control, self._worlds.model, self._worlds.step_seconds)

    def _note_state(self) -> None:
        if isinstance(self._worlds, LocomotionWorlds):
            state = self._worlds.physics.state
            self._states.append((state["qpos"][0].numpy().copy(), state["qvel"][0].numpy().copy()))


def _shape(policy: dict[str, Any]) -> dict[str, Any]:
    """The settings of the policies that a file describes."""
    names = ("activation", "output", "normalize_observations")
    return {"hidden_sizes": policy["layers"][1:-1], **{name: policy[name] for name in names}}
