"""Locomotion on a device: what `LocomotionWorlds` says of one world, said of all at once."""

from collections.abc import Sequence

import torch
from torch import Tensor

from qdrl.compute.devices import device_of
from qdrl.physics.budget import ContactBudget
from qdrl.physics.gpu import WarpWorlds, world_bytes
from qdrl.physics.library import mujoco
from qdrl.tasks.locomotion.robots import Robot
from qdrl.tasks.locomotion.task import LocomotionSettings, LocomotionWorlds


class DeviceLocomotionWorlds(LocomotionWorlds):
    """See `qdrl.tasks.episodes.device_episodes.DeviceWorlds`.

    Args:
        robot: which robot.
        model: its compiled model.
        physics: the worlds that simulate it.
        settings: resolved settings of the task.
    """

    def __init__(self, robot: Robot, model: mujoco.MjModel, physics: WarpWorlds, settings: LocomotionSettings) -> None:
        super().__init__(robot, model, physics, settings)
        self.device = physics.device
        self._warp = physics

    def advance(self) -> None:
        self._warp.advance()

    def outcome(self, count: int) -> tuple[Tensor, Tensor]:
        self._warp.watch()
        return super().outcome(count)

    def descriptors(self, steps: Tensor) -> Tensor:
        if self._reach is None:
            return torch.as_tensor(self._contacts) / steps
        return self.physics.state["qpos"][:, :2].double()

    @property
    def failures(self) -> Tensor:
        return self._warp.unstable_worlds

    @property
    def overflows(self) -> Tensor:
        return self._warp.overflows


class DeviceWorldMaker:
    """Makes worlds on a device; see `qdrl.tasks.episodes.device_rollout.WorldMaker`.

    Args:
        robot: which robot.
        model: its compiled model.
        settings: resolved settings of the task.
        fields: of the physics state that the task needs.
        device: what `compute.device` names; looked for when worlds are wanted, so that a run can be opened elsewhere.
    """

    def __init__(
        self,
        robot: Robot,
        model: mujoco.MjModel,
        settings: LocomotionSettings,
        fields: Sequence[str],
        device: str,
    ) -> None:
        self._device = device
        self._robot, self._model, self._settings, self._fields = robot, model, settings, fields
        self._budget = ContactBudget(model)

    @property
    def device(self) -> torch.device:
        return device_of(self._device)

    @property
    def bytes_each(self) -> int:
        return world_bytes(self._model, self._budget)

    def grow(self) -> None:
        self._budget.grow()

    def __call__(self, count: int) -> DeviceLocomotionWorlds:
        physics = WarpWorlds(
            self._model,
            count,
            frame_skip=self._robot.frame_skip,
            fields=self._fields,
            budget=self._budget,
            device=self.device,
        )
        return DeviceLocomotionWorlds(self._robot, self._model, physics, self._settings)
