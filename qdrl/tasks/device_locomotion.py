"""Locomotion on a device: what `LocomotionWorlds` says of one world, said of all at once."""

from collections.abc import Callable, Sequence

import mujoco
import torch
from torch import Tensor

from qdrl.physics.gpu import ContactBudget, WarpWorlds, device_of
from qdrl.tasks.locomotion import LocomotionSettings, LocomotionWorlds
from qdrl.tasks.robots import Robot


class DeviceLocomotionWorlds(LocomotionWorlds):
    """See `qdrl.tasks.device_rollout.DeviceWorlds`.

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

    def descriptors(self, count: int, steps: int) -> Tensor:
        if self._reach is None:
            return torch.as_tensor(self._contacts[:count] / steps)
        return self.physics.state["qpos"][:count, :2].double()

    def failures(self, count: int) -> Tensor:
        return self._warp.unstable_worlds[:count]

    def check(self, count: int) -> None:
        self._warp.check(count)


def make_device_worlds(
    robot: Robot, model: mujoco.MjModel, settings: LocomotionSettings, fields: Sequence[str], device: str
) -> Callable[[int], DeviceLocomotionWorlds]:
    """What makes a number of worlds, on what `compute.device` names."""
    budget, place = ContactBudget(model), device_of(device)

    def make(count: int) -> DeviceLocomotionWorlds:
        physics = WarpWorlds(model, count, frame_skip=robot.frame_skip, fields=fields, budget=budget, device=place)
        return DeviceLocomotionWorlds(robot, model, physics, settings)

    return make
