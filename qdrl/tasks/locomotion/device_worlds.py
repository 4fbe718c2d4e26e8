"""Worlds of a robot on a device: the functions of `LocomotionWorlds`, for all worlds at once."""

import torch
from torch import Tensor

from qdrl.compute.devices import device_of
from qdrl.physics.budget import ContactBudget
from qdrl.physics.gpu import WarpWorlds, world_bytes
from qdrl.physics.library import mujoco
from qdrl.tasks.locomotion.behaviour import Behaviour
from qdrl.tasks.locomotion.worlds import LocomotionWorlds


class DeviceLocomotionWorlds(LocomotionWorlds):
    """Worlds of one robot; see `qdrl.tasks.episodes.device_episodes.DeviceWorlds`.

    Args:
        robot: Functions of the robot.
        model: Compiled model.
        physics: Simulation of the model.
        observation_size: Length of an observation.
    """

    def __init__(self, robot: Behaviour, model: mujoco.MjModel, physics: WarpWorlds, observation_size: int) -> None:
        super().__init__(robot, model, physics, observation_size)
        self.device = physics.device
        self._warp = physics

    def advance(self) -> None:
        """Advance physics by one control step."""
        self._warp.advance()

    def outcome(self, count: int) -> tuple[Tensor, Tensor]:
        """Return reward and termination of the first `count` worlds, `(count,)`."""
        self._warp.watch()
        return super().outcome(count)

    def descriptors(self, steps: Tensor) -> Tensor:
        """Return the descriptors of all worlds after `steps`, `(worlds, d)` float64."""
        if self._averages:
            return torch.as_tensor(self._total) / steps
        return torch.as_tensor(self._robot.descriptor(self._slice(0, self.count))).double()

    @property
    def failures(self) -> Tensor:
        """Worlds whose simulation broke since their reset, `(worlds,)` bool."""
        return self._warp.unstable_worlds

    @property
    def overflows(self) -> Tensor:
        """Nonzero for worlds in which contacts overflowed, `(worlds,)` int32."""
        return self._warp.overflows


class DeviceWorldMaker:
    """Factory of worlds on a device; see `qdrl.tasks.episodes.device_rollout.WorldMaker`.

    Args:
        robot: Functions of the robot.
        model: Compiled model.
        observation_size: Length of an observation.
        device: Value of `compute.device`; resolved when worlds are made, so that a run can be opened on a machine
            without the device.
    """

    def __init__(self, robot: Behaviour, model: mujoco.MjModel, observation_size: int, device: str) -> None:
        self._robot, self._model, self._observation_size, self._device = robot, model, observation_size, device
        self._budget = ContactBudget(model)

    @property
    def device(self) -> torch.device:
        """Device of the worlds."""
        return device_of(self._device)

    @property
    def bytes_each(self) -> int:
        """Device memory per world."""
        return world_bytes(self._model, self._budget)

    def grow(self) -> None:
        """Allocate more contacts in the worlds made from now on."""
        self._budget.grow()

    def __call__(self, count: int) -> DeviceLocomotionWorlds:
        physics = WarpWorlds(
            self._model,
            count,
            frame_skip=self._robot.frame_skip,
            fields=self._robot.fields,
            budget=self._budget,
            device=self.device,
        )
        return DeviceLocomotionWorlds(self._robot, self._model, physics, self._observation_size)
