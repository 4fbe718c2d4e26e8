"""MuJoCo worlds on a GPU: MuJoCo Warp, behind the interface of `qdrl.physics.Worlds`.

State and controls are Warp's arrays, which torch tensors share without a copy. On a GPU both libraries use one stream,
and the physics of a control step is one CUDA graph. Warp's CPU device runs the same code slowly; tests use it where
there is no GPU. Numbers are float32, so episodes are not bit for bit those of Gymnasium.

All worlds step together. An unused world costs as much as a used one.
"""

from collections.abc import Callable, Sequence
from copy import copy
from dataclasses import fields as fields_of
from dataclasses import is_dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor

from qdrl.compute.cuda_graphs import GraphedCall
from qdrl.errors import UserError
from qdrl.physics.budget import ContactBudget
from qdrl.physics.library import mujoco

_HUGE = 1e10  # MuJoCo's mjMAXVAL, the bound of valid states


class WarpWorlds:
    """Worlds on a GPU; see `qdrl.physics.Worlds`. Tensors are float32.

    Args:
        model: Model that all worlds share.
        count: Number of worlds.
        frame_skip: Physics steps per control step.
        fields: Fields of `qdrl.physics.STATE_FIELDS` to keep in `state`.
        budget: Numbers of contacts and constraints to allocate.
        device: Device; "cpu" is Warp's own, slow device.

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
        if model.opt.solver == mujoco.mjtSolver.mjSOL_PGS:  # Humanoid's; both solve the same problem
            model = copy(model)
            model.opt.solver = mujoco.mjtSolver.mjSOL_NEWTON
        self._place = self._warp.device_from_torch(device)
        with self._warp.ScopedDevice(self._place):
            try:
                self._model = self._mjw.put_model(model)
            except NotImplementedError as error:
                raise UserError(f"MuJoCo Warp cannot simulate this model: {error}") from error
            self._model.opt.warn_overflow = 0  # `overflows` reports it
            if device.type == "cuda" and not self._warp.is_conditional_graph_supported():
                self._model.opt.graph_conditional = False  # always the maximum number of iterations
            self._data = self._mjw.make_data(model, nworld=count, nconmax=budget.contacts, njmax=budget.constraints)
        self.control = self._torch_view("ctrl")
        self.state = {name: self._torch_view(name) for name in fields}
        self._qpos, self._qvel = self._torch_view("qpos"), self._torch_view("qvel")
        self._derived = [tensor for name, tensor in self.state.items() if name not in ("qpos", "qvel")]
        # The complete state of a world, for `reset` and `move`.
        self._kept = [self._qpos, self._qvel, self.control, *map(self._torch_view, ("qacc_warmstart", "act", "time"))]
        self._overflow, kinds = self._torch_view("overflow"), self._mjw.OverflowType
        # Reaching the maximum number of iterations is no overflow: C MuJoCo stops there too.
        self._counted = int(kinds.ALL & ~(kinds.ITERATIONS | kinds.LS_ITERATIONS))
        self._bad = torch.zeros(count, dtype=torch.bool, device=self.device)
        self._begin = self._launched(self._forward)
        self._advance = self._launched(self._substeps)

    def reset(self, worlds: Sequence[int], qpos: Tensor, qvel: Tensor) -> None:
        """Reset these worlds to positions and velocities."""
        index = torch.as_tensor(list(worlds), device=self.device)
        for tensor in self._kept:
            tensor[index] = 0
        self._qpos[index] = qpos.to(self._qpos)
        self._qvel[index] = qvel.to(self._qvel)
        self._overflow[index] = 0
        self._bad[index] = False
        before = [tensor.clone() for tensor in self._derived]
        self._begin()
        for tensor, old in zip(self._derived, before, strict=True):  # running worlds stay unchanged
            old[index] = tensor[index]
            tensor.copy_(old)

    def step(self, count: int) -> None:  # noqa: ARG002 - all worlds step
        """Advance the first worlds by one control step."""
        self.advance()
        self.watch()

    def advance(self) -> None:
        """Advance physics: `step` without `watch`, with its own CUDA graph."""
        self._advance()

    def watch(self) -> None:
        """Mark broken worlds; only torch operations, so it may be part of the caller's CUDA graph."""
        self._bad |= ~((self._qpos.abs() < _HUGE).all(1) & (self._qvel.abs() < _HUGE).all(1))

    def move(self, source: int, target: int) -> None:
        """Copy the state of world `source` into world `target`."""
        for tensor in (*self._kept, *self._derived, self._overflow, self._bad):
            tensor[target] = tensor[source]

    def unstable(self, world: int) -> bool:
        """Return whether MuJoCo reported a bad state since the reset."""
        return bool(self._bad[world])

    @property
    def unstable_worlds(self) -> Tensor:
        """`unstable` of every world, `(count,)` bool on the device."""
        return self._bad

    @property
    def overflows(self) -> Tensor:
        """`(count,)` int32, nonzero where contacts or constraints overflowed since the reset.

        MuJoCo Warp checks for overflow at the end of a step; with RK4, only in the last of the four stages.
        """
        return self._overflow & self._counted

    def _torch_view(self, name: str) -> Tensor:
        """Return an array of the simulation as a torch tensor that shares its memory, `(count, ...)`."""
        return self._warp.to_torch(getattr(self._data, name))

    def _substeps(self) -> None:
        for _ in range(self._frame_skip):
            self._mjw.step(self._model, self._data)
        if self._contact_forces:
            self._mjw.rne_postconstraint(self._model, self._data)

    def _forward(self) -> None:
        self._mjw.forward(self._model, self._data)
        if self._contact_forces:
            self._mjw.rne_postconstraint(self._model, self._data)

    def _launched(self, work: Callable[[], None]) -> GraphedCall:
        """Return work of Warp as a CUDA graph, captured by Warp: each library's capture manages only its own memory."""
        return GraphedCall(partial(self._run, work), self.device, partial(self._captured, work))

    def _run(self, work: Callable[[], None]) -> None:
        """Run work on torch's device and stream."""
        with (
            self._warp.ScopedDevice(self._place) if self.device.type == "cpu" else self._warp.ScopedStream(self._stream)
        ):
            work()

    def _captured(self, work: Callable[[], None]) -> Callable[[], None]:
        torch.cuda.synchronize(self.device)
        with self._warp.ScopedDevice(self._place), self._warp.ScopedCapture() as capture:
            work()
        return partial(self._launch, capture.graph)

    def _launch(self, graph: Any) -> None:
        with self._warp.ScopedDevice(self._place):
            self._warp.capture_launch(graph, stream=self._stream)

    @property
    def _stream(self) -> Any:
        """Torch's current stream as a Warp stream."""
        return self._warp.stream_from_torch(torch.cuda.current_stream(self.device))


def world_bytes(model: mujoco.MjModel, budget: ContactBudget) -> int:
    """Return the device memory per world in bytes, plus a quarter for a step's intermediate results.

    Args:
        model: Model of the worlds.
        budget: Numbers of contacts and constraints to allocate.

    Raises:
        UserError: MuJoCo Warp is not installed.
    """
    warp, mujoco_warp = _libraries()
    with warp.ScopedDevice("cpu"):
        few, many = (
            _size_of(mujoco_warp.make_data(model, nworld=worlds, nconmax=budget.contacts, njmax=budget.constraints))
            for worlds in (8, 16)
        )
    return (many - few) // 8 * 5 // 4


def _size_of(data: Any) -> int:
    """Return the size of all arrays of a simulation in bytes."""
    values = [getattr(data, entry.name) for entry in fields_of(data)]
    return sum(_size_of(value) if is_dataclass(value) else getattr(value, "capacity", 0) for value in values)


def _libraries() -> tuple[Any, Any]:
    """Return the modules `warp` and `mujoco_warp`; they are imported on first use, which takes a second."""
    try:
        import warp
    except ImportError as error:
        raise UserError("compute.device: a GPU needs MuJoCo Warp: pip install 'qdrl[gpu]'") from error
    warp.config.log_level = warp.LOG_ERROR
    import mujoco_warp

    warp.init()

    return warp, mujoco_warp
