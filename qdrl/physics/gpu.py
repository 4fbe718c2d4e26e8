"""MuJoCo worlds on a GPU: MuJoCo Warp, behind the interface of `qdrl.physics.Worlds`.

State and controls are Warp's own arrays, seen by torch without a copy; on a GPU both use one stream. Warp's CPU device
runs the same code slowly, which is how it is tested where there is no GPU. Numbers are float32, so that episodes are
not Gymnasium's bit for bit.

All worlds step together. A world that nobody uses costs as much as any other.
"""

import logging
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from copy import copy
from dataclasses import fields as fields_of
from dataclasses import is_dataclass
from typing import Any

import mujoco
import numpy as np
import torch
from torch import Tensor

from qdrl.errors import UserError
from qdrl.physics.cpu import keep_mujoco_from_logging
from qdrl.ranks import local_rank

_LOGGER = logging.getLogger("qdrl")
_HUGE = 1e10  # MuJoCo's mjMAXVAL: what makes a state bad
_SAMPLED_STEPS, _SAMPLED_STATES = 200, 8
_MARGIN, _LEAST = 2.0, 8


class Overflow(Exception):  # noqa: N818 - it is no error: whoever catches it grows the budget and steps again
    """A world had more contacts or constraints than there was room for, and its physics was wrong from then on."""


class ContactBudget:
    """Room for contacts and constraints, which MuJoCo Warp allocates once.

    It begins at twice what robots that flail at random need in C MuJoCo, and doubles when that was too little.

    Args:
        model: compiled.

    Attributes:
        contacts: a world, in a pool that all worlds share.
        constraints: rows of the constraint Jacobian, of any one world.
    """

    def __init__(self, model: mujoco.MjModel) -> None:
        contacts, constraints = _needed(model)
        self.contacts, self.constraints = (max(_LEAST, round(_MARGIN * number)) for number in (contacts, constraints))

    def grow(self) -> None:
        """Double both."""
        self.contacts, self.constraints = 2 * self.contacts, 2 * self.constraints
        _LOGGER.warning(
            "a world needed more room: %d contacts and %d constraints from now on", self.contacts, self.constraints
        )


class WarpWorlds:
    """See `qdrl.physics.Worlds`; tensors are float32.

    Args:
        model: shared by all worlds.
        count: how many worlds.
        frame_skip: physics steps a control step.
        fields: which of `qdrl.physics.STATE_FIELDS` to keep in `state`.
        budget: room for contacts and constraints.
        device: where; on "cpu" Warp's own, slow device.

    Raises:
        UserError: MuJoCo Warp is not installed, or it cannot simulate this model.
    """

    def __init__(
        self,
        model: mujoco.MjModel,
        count: int,
        *,
        frame_skip: int,
        fields: Sequence[str],
        budget: ContactBudget,
        device: torch.device,
    ) -> None:
        self.count, self.device = count, device
        self._warp, self._mjw = _libraries()
        self._frame_skip = frame_skip
        self._contact_forces = "cfrc_ext" in fields
        self._budget = budget
        if model.opt.solver == mujoco.mjtSolver.mjSOL_PGS:  # Humanoid's; both solve the same problem
            model = copy(model)
            model.opt.solver = mujoco.mjtSolver.mjSOL_NEWTON
        with self._on_device():
            try:
                self._model = self._mjw.put_model(model)
            except NotImplementedError as error:
                raise UserError(f"MuJoCo Warp cannot simulate this model: {error}") from error
            self._model.opt.warn_overflow = 0  # `check` reports it
            self._data = self._mjw.make_data(model, nworld=count, nconmax=budget.contacts, njmax=budget.constraints)
        self.control = self._seen("ctrl")
        self.state = {name: self._seen(name) for name in fields}
        self._qpos, self._qvel = self._seen("qpos"), self._seen("qvel")
        self._derived = [tensor for name, tensor in self.state.items() if name not in ("qpos", "qvel")]
        # What a world's future depends on besides its positions and velocities; none of the robots has activations.
        self._kept = [self._qpos, self._qvel, self.control, *map(self._seen, ("qacc_warmstart", "act", "time"))]
        self._overflow = self._seen("overflow")
        self._bad = torch.zeros(count, dtype=torch.bool, device=self.device)

    def reset(self, worlds: Sequence[int], qpos: Tensor, qvel: Tensor) -> None:
        index = torch.as_tensor(list(worlds), device=self.device)
        for tensor in self._kept:
            tensor[index] = 0
        self._qpos[index] = qpos.to(self._qpos)
        self._qvel[index] = qvel.to(self._qvel)
        self._overflow[index] = 0
        self._bad[index] = False
        before = [tensor.clone() for tensor in self._derived]
        with self._on_device():
            self._mjw.forward(self._model, self._data)
            if self._contact_forces:
                self._mjw.rne_postconstraint(self._model, self._data)
        for tensor, old in zip(self._derived, before, strict=True):  # worlds under way stay as they were
            old[index] = tensor[index]
            tensor.copy_(old)

    def step(self, count: int) -> None:  # noqa: ARG002 - all of them step
        with self._on_device():
            for _ in range(self._frame_skip):
                self._mjw.step(self._model, self._data)
            if self._contact_forces:
                self._mjw.rne_postconstraint(self._model, self._data)
        self._bad |= ~((self._qpos.abs() < _HUGE).all(1) & (self._qvel.abs() < _HUGE).all(1))

    def move(self, source: int, target: int) -> None:
        for tensor in (*self._kept, *self._derived, self._overflow, self._bad):
            tensor[target] = tensor[source]

    def unstable(self, world: int) -> bool:
        return bool(self._bad[world])

    @property
    def unstable_worlds(self) -> Tensor:
        """`unstable` of every world, `(count,)` bool on the device."""
        return self._bad

    def check(self, count: int) -> None:
        """Look whether the first worlds had room for all contacts since their reset; waits for the device.

        Raises:
            Overflow: one had not. The budget has grown: worlds that are made now have more room.
            RuntimeError: one ran out of what no budget gives.
        """
        kinds = self._mjw.OverflowType
        found = {int(bits) for bits in torch.unique(self._overflow[:count]).tolist()}
        overflown = kinds(0)
        for bits in found:
            overflown |= kinds(bits)
        overflown &= ~(kinds.ITERATIONS | kinds.LS_ITERATIONS)  # which C MuJoCo does not exceed either: it stops there
        if not overflown:
            return
        if overflown & ~(kinds.NEFC | kinds.NJMAX_NNZ | kinds.BROADPHASE | kinds.NARROWPHASE | kinds.CCD):
            raise RuntimeError(f"MuJoCo Warp ran out of room: {overflown!r}")
        self._budget.grow()
        raise Overflow

    def _seen(self, name: str) -> Tensor:
        """An array of the simulation as torch sees it, `(count, ...)`."""
        return self._warp.to_torch(getattr(self._data, name))

    @contextmanager
    def _on_device(self) -> Iterator[None]:
        """Warp works on torch's device and stream."""
        if self.device.type == "cpu":
            with self._warp.ScopedDevice("cpu"):
                yield
            return
        stream = self._warp.stream_from_torch(torch.cuda.current_stream(self.device))
        with self._warp.ScopedStream(stream):
            yield


def world_bytes(model: mujoco.MjModel, budget: ContactBudget) -> int:
    """What one more world takes of a device's memory, the step's own intermediate results left out."""
    warp, mujoco_warp = _libraries()
    with warp.ScopedDevice("cpu"):
        few, many = (
            _size_of(mujoco_warp.make_data(model, nworld=worlds, nconmax=budget.contacts, njmax=budget.constraints))
            for worlds in (8, 16)
        )
    return (many - few) // 8


def check_memory(worlds: int, bytes_each: int, device: torch.device) -> None:
    """Compare what so many worlds take with what is free on their device.

    Raises:
        UserError: it is too much; the line names how many fit.
    """
    free = free_memory(device)
    if worlds * bytes_each > free:
        raise UserError(
            f"compute.worlds: {worlds} worlds take {worlds * bytes_each / 1e9:.3g} GB of {device}, of which"
            f" {free / 1e9:.3g} GB are free: at most {free // bytes_each}"
        )


def free_memory(device: torch.device) -> int:
    """Bytes of a device that nobody has taken."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    return os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


def _size_of(data: Any) -> int:
    """Bytes of all arrays of a simulation."""
    values = [getattr(data, entry.name) for entry in fields_of(data)]
    return sum(_size_of(value) if is_dataclass(value) else getattr(value, "capacity", 0) for value in values)


def device_of(name: str) -> torch.device:
    """The device that `compute.device` stands for in this process: of a node's GPUs each rank takes the next.

    Args:
        name: "cuda" or "warp-cpu".

    Raises:
        UserError: there is no GPU.
    """
    if name == "warp-cpu":
        return torch.device("cpu")
    if not torch.cuda.is_available():
        raise UserError("compute.device: torch finds no GPU here; see `qdrl doctor`")
    return torch.device("cuda", local_rank() % torch.cuda.device_count())


def _libraries() -> tuple[Any, Any]:
    """Warp and MuJoCo Warp: loading them takes a second, so that only those who ask for a GPU pay for it."""
    try:
        import warp
    except ImportError as error:
        raise UserError("compute.device: a GPU needs MuJoCo Warp: pip install 'qdrl[gpu]'") from error
    warp.config.log_level = warp.LOG_ERROR
    import mujoco_warp

    return warp, mujoco_warp


def _needed(model: mujoco.MjModel) -> tuple[int, int]:
    """The most contacts and constraints of robots that flail at random, upright and in any pose."""
    keep_mujoco_from_logging()
    generator, data = np.random.default_rng(0), mujoco.MjData(model)
    limits, most = model.actuator_ctrlrange, [0, 0]
    for state in range(_SAMPLED_STATES):
        mujoco.mj_resetData(model, data)
        data.qpos[:] += generator.uniform(-0.1, 0.1, model.nq) * state
        data.qvel[:] = generator.uniform(-1, 1, model.nv) * state
        for _ in range(_SAMPLED_STEPS):
            data.ctrl[:] = generator.uniform(limits[:, 0], limits[:, 1])
            mujoco.mj_step(model, data)
            most = [max(most[0], data.ncon), max(most[1], data.nefc)]
    return most[0], most[1]
