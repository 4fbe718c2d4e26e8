"""Rerun a stored elite exactly: same genome, seed, observation statistics, arithmetic and physics."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from qdrl.analysis.decode import evaluated_on, genome_of, normalization_of, task_of
from qdrl.analysis.differences import rerun_notes
from qdrl.archives.stored import StoredArchive
from qdrl.evaluation import Candidates
from qdrl.provenance.source_code import changed_sources, sources_of
from qdrl.tasks.base import Task
from qdrl.tasks.episodes.worlds import EpisodeWorlds, ForwardingWorlds
from qdrl.tasks.episodic import EpisodicTask
from qdrl.tasks.locomotion.worlds import LocomotionWorlds


@dataclass
class Track:
    """States and controls of an episode.

    Attributes:
        qpos: `(steps + 1, nq)` positions, the initial ones included.
        qvel: `(steps + 1, nv)` velocities.
        control: `(steps, nu)` float64 controls of the physics, as `gymnasium.Env.step` takes them.
        model: the compiled MuJoCo model.
        step_seconds: simulated time of a control step.
    """

    qpos: np.ndarray
    qvel: np.ndarray
    control: np.ndarray
    model: Any
    step_seconds: float


@dataclass
class Rerun:
    """The result of rerunning an elite's episode.

    Attributes:
        fitness: return of the episode.
        descriptor: `(d,)`.
        steps: control steps.
        same: whether fitness and descriptor have the stored bits; None if they need not, because the stored ones are
            means over several evaluations, of which this is the first, or come from other physics on a GPU.
        track: states and controls; None for tasks without MuJoCo.
        notes: one line for each difference from the machine of the file that may change the episode.
    """

    fitness: float
    descriptor: np.ndarray
    steps: int
    same: bool | None
    track: Track | None
    notes: tuple[str, ...] = ()


def replay(
    archive: StoredArchive, cell: int, *, allow_code: bool = False, code_from: str | Path | None = None
) -> Rerun:
    """Rerun the elite of a cell.

    Args:
        archive: whose elite.
        cell: its cell.
        allow_code: import and run the code that the file names: descriptor functions, modules of environments.
        code_from: a folder that is searched first for these modules; implies `allow_code`.

    Raises:
        UserError: the cell is empty, this installation cannot make the task, or it needs code that is not allowed.
    """
    row = archive.row_of(cell)
    task = task_of(archive, allow_code=allow_code, code_from=code_from)
    genome = torch.from_numpy(genome_of(archive, row))[None]
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
    generation = int(archive.elites["generation"][row])
    notes = (*rerun_notes(archive, generation), *_notes_on_code(archive, task))
    reached = descriptor[0].numpy()
    same = bool(
        fitness[0] == archive.elites["fitness"][row] and np.array_equal(reached, archive.elites["descriptor"][row])
    )
    if archive.elites["n_evaluations"][row] > 1 or evaluated_on(archive) != "cpu":
        same = None
    return Rerun(float(fitness[0]), reached, int(steps[0]), same, track, notes)


def _notes_on_code(archive: StoredArchive, task: Task) -> list[str]:
    """Return one line for each module of a user whose source differs from the one in the file."""
    names = changed_sources(archive.meta.get("code"), sources_of(task.code))
    return [f"the module of {name} differs from the source in the file: episodes may differ" for name in names]


class _Recording(ForwardingWorlds):
    """One world that records its states and controls; see `qdrl.tasks.episodes.worlds.EpisodeWorlds`."""

    def __init__(self, worlds: EpisodeWorlds) -> None:
        super().__init__(worlds)
        self._states: list[tuple[np.ndarray, np.ndarray]] = []
        self._controls: list[np.ndarray] = []

    def reset(self, slots: Sequence[int], seeds: Sequence[int]) -> None:
        self._worlds.reset(slots, seeds)
        self._note_state()

    def step(self, actions: Tensor) -> tuple[Tensor, Tensor]:
        result = self._worlds.step(actions)
        if isinstance(self._worlds, LocomotionWorlds):
            self._controls.append(self._worlds.physics.control[0].numpy().copy())
        self._note_state()
        return result

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
