"""MuJoCo worlds on the CPU: two implementations of one interface; `make_cpu_worlds` selects one.

Both keep each world's solver warm start between control steps, as Gymnasium does, so that every episode is bit for bit
that of Gymnasium. (`mujoco.rollout` drops it, and its results differ from Gymnasium's within 80 steps.)
"""

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from torch import Tensor

from qdrl.physics import Worlds
from qdrl.physics.library import Batch, SimulationError, mujoco

_BAD_STATE = [
    int(kind)
    for kind in (
        mujoco.mjtWarning.mjWARN_BADQPOS,
        mujoco.mjtWarning.mjWARN_BADQVEL,
        mujoco.mjtWarning.mjWARN_BADQACC,
        mujoco.mjtWarning.mjWARN_BADCTRL,
    )
]


def make_cpu_worlds(
    model: mujoco.MjModel,
    count: int,
    *,
    frame_skip: int,
    fields: Sequence[str] = ("qpos", "qvel", "sensordata"),
    threads: int = 1,
) -> Worlds:
    """Return worlds of a compiled model.

    Args:
        model: Model that all worlds share.
        count: Number of worlds.
        frame_skip: Physics steps per control step.
        fields: Fields of `qdrl.physics.STATE_FIELDS` to keep in `state`; "cfrc_ext" costs an `mj_rnePostConstraint`
            per step, which MuJoCo's own batch cannot call.
        threads: Threads that share the worlds; 1 steps them in this thread.
    """
    keep_mujoco_from_logging()
    kind = LoopWorlds if "cfrc_ext" in fields else BatchWorlds
    return kind(model, count, frame_skip=frame_skip, fields=fields, threads=threads)


class BatchWorlds:
    """Worlds in MuJoCo's own batch: a row of state per world, loaded into one MjData per thread.

    See `make_cpu_worlds` for the arguments. The field "cfrc_ext" is not available.
    """

    def __init__(
        self, model: mujoco.MjModel, count: int, *, frame_skip: int, fields: Sequence[str], threads: int
    ) -> None:
        self.count = count
        self.device = torch.device("cpu")
        self._frame_skip = frame_skip
        self._batch = Batch(model, count, threads)
        self._ids = np.arange(count, dtype=np.int32)
        self._fresh = self._batch.state[0].copy()
        self._broken = np.zeros(count, bool)  # errors and moved worlds, which the batch does not count
        self._earlier_warnings = np.zeros(count, np.int64)  # warnings of earlier episodes
        self.control = torch.from_numpy(self._batch.bind("ctrl"))
        self.state: dict[str, Tensor] = {}
        self._derived: list[tuple[np.ndarray, np.ndarray]] = []
        for name in fields:
            bound = self._batch.bind(name)
            if bound.flags.writeable:  # a part of the state rows
                self.state[name] = torch.from_numpy(bound)
            else:
                kept = np.zeros_like(bound)
                self._derived.append((kept, bound))
                self.state[name] = torch.from_numpy(kept)
        self._qpos, self._qvel = self._batch.bind("qpos"), self._batch.bind("qvel")

    def reset(self, worlds: Sequence[int], qpos: Tensor, qvel: Tensor) -> None:
        """Reset these worlds to positions and velocities."""
        given = np.asarray(worlds, np.int32)
        ids = np.sort(given)  # the batch requires ascending ids
        self._batch.state[ids] = self._fresh
        self._qpos[given], self._qvel[given] = qpos.numpy(), qvel.numpy()
        self._broken[ids] = False
        self._earlier_warnings[ids] = self._warnings(ids)
        self._guarded(self._batch.forward, ids)
        for kept, bound in self._derived:
            kept[ids] = bound[ids]

    def step(self, count: int) -> None:
        """Advance the first worlds by one control step."""
        if count == 0:
            return
        self._guarded(self._batch.step, self._ids[:count], self._frame_skip)
        for kept, bound in self._derived:
            kept[:count] = bound[:count]

    def move(self, source: int, target: int) -> None:
        """Copy the state of world `source` into world `target`."""
        self._broken[target] = self.unstable(source)
        self._earlier_warnings[target] = self._warnings(target)
        self._batch.state[target] = self._batch.state[source]
        for kept, _ in self._derived:
            kept[target] = kept[source]

    def unstable(self, world: int) -> bool:
        """Return whether MuJoCo reported a bad state since the reset."""
        return bool(self._broken[world] or self._warnings(world) > self._earlier_warnings[world])

    def _warnings(self, worlds: int | np.ndarray) -> np.ndarray:
        """Return the number of bad-state warnings of a world, or of each of several."""
        return self._batch.warning[worlds][..., _BAD_STATE, 1].sum(-1)

    def _guarded(self, call: Any, ids: np.ndarray, *arguments: int) -> None:
        """Run a call of the batch; mark worlds in which MuJoCo raised an error as broken."""
        try:
            call(ids, *arguments)
        except SimulationError as error:
            self._broken[error.ids] = True


class LoopWorlds:
    """Worlds with one MjData each, accessed through views bound once; contact forces are available.

    See `make_cpu_worlds` for the arguments.
    """

    def __init__(
        self, model: mujoco.MjModel, count: int, *, frame_skip: int, fields: Sequence[str], threads: int
    ) -> None:
        self.count = count
        self.device = torch.device("cpu")
        self._model = model
        self._frame_skip = frame_skip
        self._contact_forces = "cfrc_ext" in fields
        self._datas = [mujoco.MjData(model) for _ in range(count)]
        self.control = torch.zeros(count, model.nu, dtype=torch.float64)
        self.state = {
            name: torch.zeros(count, *np.shape(getattr(self._datas[0], name)), dtype=torch.float64) for name in fields
        }
        self._bound = [self._bind(data, world) for world, data in enumerate(self._datas)]
        self._pool = ThreadPoolExecutor(threads) if threads > 1 else None
        self._threads = threads

    def reset(self, worlds: Sequence[int], qpos: Tensor, qvel: Tensor) -> None:
        """Reset these worlds to positions and velocities."""
        positions, velocities = qpos.numpy(), qvel.numpy()
        for row, world in enumerate(worlds):
            data = self._datas[world]
            mujoco.mj_resetData(self._model, data)
            data.qpos[:] = positions[row]
            data.qvel[:] = velocities[row]
            mujoco.mj_forward(self._model, data)
            for kept, view in self._bound[world][3]:
                kept[:] = view

    def step(self, count: int) -> None:
        """Advance the first worlds by one control step."""
        if self._pool is None:
            self._step_part(0, count)
            return
        edges = [count * part // self._threads for part in range(self._threads + 1)]
        list(self._pool.map(lambda part: self._step_part(*part), pairwise(edges)))

    def move(self, source: int, target: int) -> None:
        """Copy the state of world `source` into world `target`."""
        self._datas[source], self._datas[target] = self._datas[target], self._datas[source]
        for tensor in (self.control, *self.state.values()):
            tensor[target] = tensor[source]
        for world in (source, target):
            self._bound[world] = self._bind(self._datas[world], world)

    def unstable(self, world: int) -> bool:
        """Return whether MuJoCo reported a bad state since the reset."""
        warnings = self._datas[world].warning
        return any(warnings[kind].number for kind in _BAD_STATE)

    def _step_part(self, first: int, last: int) -> None:
        # The only Python loop over worlds: five calls per world, 0.8 microseconds, against 28 or more of physics.
        model, frame_skip, step = self._model, self._frame_skip, mujoco.mj_step
        post = mujoco.mj_rnePostConstraint if self._contact_forces else None
        for data, data_control, control, views in self._bound[first:last]:
            data_control[:] = control
            step(model, data, frame_skip)
            if post is not None:
                post(model, data)
            for kept, view in views:
                kept[:] = view

    def _bind(self, data: mujoco.MjData, world: int) -> tuple[Any, ...]:
        views = [(tensor[world].numpy(), getattr(data, name)) for name, tensor in self.state.items()]
        return data, data.ctrl, self.control[world].numpy(), views


def keep_mujoco_from_logging() -> None:
    """Discard MuJoCo's warnings, which it would write to MUJOCO_LOG.TXT in every rank's working directory.

    `Worlds.unstable` reports those that matter.
    """
    mujoco.set_mju_user_warning(_ignore_warning)


def _ignore_warning(message: str) -> None:
    """Ignore a warning, which MuJoCo would otherwise write to its log."""
