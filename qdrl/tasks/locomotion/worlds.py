"""Worlds of a robot on the CPU: `qdrl.physics.Worlds` with the robot's observation, reward and descriptor."""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from qdrl.compute.arrays import Array, native
from qdrl.physics import Worlds
from qdrl.physics.library import mujoco
from qdrl.streams import generator_from_seed
from qdrl.tasks.episodes.worlds import EpisodeWorlds
from qdrl.tasks.locomotion.behaviour import Behaviour, Step


class LocomotionWorlds(EpisodeWorlds):
    """Worlds of one robot; see `qdrl.tasks.episodes.worlds.EpisodeWorlds`.

    Args:
        robot: Functions of the robot.
        model: Compiled model.
        physics: Simulation of the model.
        observation_size: Length of an observation.

    Attributes:
        step_seconds: Simulated duration of a control step.
    """

    def __init__(self, robot: Behaviour, model: mujoco.MjModel, physics: Worlds, observation_size: int) -> None:
        self.count = physics.count
        self.model = model
        self.physics = physics
        self.step_seconds = model.opt.timestep * robot.frame_skip
        self._robot = robot
        self._episode_length = robot.settings.episode_length
        self._shows_time = bool(robot.settings.time_in_observation)
        self._shift = robot.shift
        self._averages = robot.descriptor_reduction == "mean"
        limits = torch.as_tensor(model.actuator_ctrlrange.copy(), device=physics.device)
        self._middle, self._half = native(limits.mean(1)), native((limits[:, 1] - limits[:, 0]) / 2)
        position = physics.state["qpos"]
        self._masses = native(torch.as_tensor(model.body_mass.copy()).to(position))
        self._observation = torch.zeros(self.count, observation_size, device=physics.device)
        self._observed, self._control = native(self._observation), native(physics.control)
        self._state = {name: native(tensor) for name, tensor in physics.state.items()}
        self._progress = native(torch.zeros_like(position[:, 0]))
        shape = self.count, len(robot.axes)
        self._total = native(torch.zeros(*shape, dtype=torch.float64, device=physics.device))
        self._never = torch.zeros(self.count, dtype=torch.bool, device=physics.device)

    def reset(self, slots: Sequence[int], seeds: Sequence[int]) -> None:
        """Start a new episode in each of these worlds."""
        states = [self._robot.initial_state(self.model, generator_from_seed(seed)) for seed in seeds]
        qpos, qvel = (torch.from_numpy(np.stack(part)) for part in zip(*states, strict=True))
        self.physics.reset(slots, qpos, qvel)
        index = list(slots)
        self._total[index] = 0.0
        if (progress := self._robot.progress(self._slice(0, self.count))) is not None:
            self._progress[index] = progress[index]

    def observe(self, ages: Tensor) -> Tensor:
        """Return the observations of the first worlds."""
        count, start = len(ages), 0
        observed = self._observed[:count]
        for part in self._robot.observe(self._slice(0, count)):
            end = start + part.shape[1]
            observed[:, start:end] = part
            start = end
        if self._shows_time:
            observed[:, -1] = 1.0 - native(ages) / self._episode_length
        return self._observation[:count]

    def step(self, actions: Tensor) -> tuple[Tensor, Tensor]:
        """Apply actions; return rewards and terminated."""
        self.apply(actions)
        self.physics.step(len(actions))
        reward, terminated = self.outcome(len(actions))
        return reward.double(), terminated  # a robot's own reward may be float32

    def apply(self, actions: Tensor) -> None:
        """Set the controls of the next physics step from actions `(n, actuators)`: the first part of `step`."""
        control = self._control[: len(actions)]
        control[:] = native(actions)
        control *= self._half
        control += self._middle

    def outcome(self, count: int) -> tuple[Tensor, Tensor]:
        """Return reward and termination of the first `count` worlds, `(count,)`: the last part of `step`."""
        robot, state = self._robot, self._slice(0, count)
        advance, progress, healthy = None, robot.progress(state), robot.healthy(state)
        if progress is not None:
            advance = progress - self._progress[:count]
            self._progress[:count] = progress
        reward = robot.reward(Step(state, self._control[:count], self.step_seconds, advance, healthy))
        if self._shift is not None:
            reward = (reward + self._shift).clip(0.0)
        if self._averages:
            self._total[:count] += robot.descriptor(state)
        terminated = self._never[:count] if healthy is None else torch.as_tensor(~healthy)
        return torch.as_tensor(reward), terminated

    def descriptor(self, slot: int, steps: int) -> Tensor:
        """Return the descriptor of an ended episode."""
        if self._averages:
            return torch.as_tensor(self._total[slot] / steps)
        return torch.as_tensor(self._robot.descriptor(self._slice(slot, slot + 1))[0]).double()

    def failed(self, slot: int) -> bool:
        """Return whether the simulation broke since the reset."""
        return self.physics.unstable(slot)

    def move(self, source: int, target: int) -> None:
        """Copy the state of world `source` into world `target`."""
        self.physics.move(source, target)
        self._progress[target] = self._progress[source]
        self._total[target] = self._total[source]

    def _slice(self, start: int, end: int) -> dict[str, Array]:
        """Return the state of worlds start..end-1, and the masses of the model's bodies."""
        state = {name: array[start:end] for name, array in self._state.items()}
        state["body_mass"] = self._masses
        return state
