"""Locomotion on real MuJoCo: the `_uni` tasks (which feet touch the ground) and the `_omni` tasks (where it ends).

`_uni`: fitness is Gymnasium v5's reward; the descriptor is the fraction of the episode's steps in which each foot
is pressed by a contact. `_omni`: fitness rewards staying alive and saving energy, nothing else, so standing still is
the optimum; the descriptor is the final x and y (Faldor et al. 2023). Reward and state are float64 on the CPU, float32
on a device; policies see float32.
"""

from collections.abc import Sequence
from dataclasses import replace
from typing import Annotated, Any, Literal

import numpy as np
import torch
from pydantic import Field, model_validator
from torch import Tensor

from qdrl.archives.axes import Axis
from qdrl.compute.arithmetic import PORTABLE, TORCH, Arithmetic
from qdrl.compute.arrays import Array, native
from qdrl.physics import Worlds
from qdrl.physics.cpu import make_cpu_worlds
from qdrl.physics.library import mujoco
from qdrl.policies.mlp import Mlp
from qdrl.policies.settings import PolicySettings
from qdrl.settings.base import SettingsModel
from qdrl.streams import generator_from_seed
from qdrl.tasks.base import TaskSpec
from qdrl.tasks.episodic import EpisodicTask
from qdrl.tasks.locomotion.robots import ROBOTS, Robot, build_model

# Episode lengths and omni bounds of Faldor et al. 2023 and 2024; differences: docs/decisions/0009-omni-observations.md.
_DEFAULTS: dict[str, dict[str, Any]] = {
    "walker2d_uni": {"robot": "walker2d", "length": 1000},
    "halfcheetah_uni": {"robot": "halfcheetah", "length": 1000},
    "hopper_uni": {"robot": "hopper", "length": 1000},
    "ant_uni": {"robot": "ant", "length": 1000},
    "humanoid_uni": {"robot": "humanoid", "length": 1000},
    "ant_omni": {"robot": "ant", "length": 250, "reach": 30.0},
    "anttrap_omni": {"robot": "ant", "length": 250, "reach": 30.0, "trap": True},
    "humanoid_omni": {"robot": "humanoid", "length": 1000, "reach": 10.0},
}


class LocomotionSettings(SettingsModel):
    """Options of the locomotion tasks."""

    name: Literal[
        "walker2d_uni",
        "halfcheetah_uni",
        "hopper_uni",
        "ant_uni",
        "humanoid_uni",
        "ant_omni",
        "anttrap_omni",
        "humanoid_omni",
    ]
    """The task."""
    episode_length: Annotated[int, Field(ge=1, le=100_000)] | None = None
    """Most control steps an episode; the task's published length when left out."""
    initial_noise: Annotated[float, Field(ge=0, le=10, allow_inf_nan=False)] | None = None
    """Scale of the initial state's noise; Gymnasium's when left out, 0 for one fixed state."""
    time_in_observation: bool | None = None
    """Show policies the fraction of the episode left; on in omni tasks when left out."""
    healthy_reward: Annotated[float, Field(ge=0, le=1e6, allow_inf_nan=False)] | None = None
    """Reward a step while healthy; Gymnasium's when left out. 0 keeps evolution strategies from learning to stand
    (Toklu et al. 2020 subtract it in training); fitness is then the return without it."""
    reach: Annotated[float, Field(gt=0, le=1e6, allow_inf_nan=False)] | None = None
    """Omni tasks: half the width of the square of final positions, in m."""

    @model_validator(mode="after")
    def _check_reach(self) -> "LocomotionSettings":
        if self.reach is not None and "reach" not in _DEFAULTS[self.name]:
            raise ValueError(f"reach belongs to omni tasks, not to {self.name}")
        if self.healthy_reward is not None and ROBOTS[_DEFAULTS[self.name]["robot"]].healthy is None:
            raise ValueError(f"{self.name} knows no health: leave healthy_reward out")
        return self

    def resolved(self) -> "LocomotionSettings":
        """The same with every default filled in."""
        defaults = _DEFAULTS[self.name]
        omni, robot = "reach" in defaults, ROBOTS[defaults["robot"]]
        usual = None if robot.healthy is None else robot.healthy_reward
        return LocomotionSettings(
            name=self.name,
            episode_length=self.episode_length or defaults["length"],
            initial_noise=robot.noise if self.initial_noise is None else self.initial_noise,
            healthy_reward=usual if self.healthy_reward is None else self.healthy_reward,
            time_in_observation=omni if self.time_in_observation is None else self.time_in_observation,
            reach=(self.reach or defaults["reach"]) if omni else None,
        )


LOCOMOTION_NAMES = tuple(_DEFAULTS)


class LocomotionWorlds:
    """A robot's worlds with the task's mathematics; see `qdrl.tasks.episodes.rollout.EpisodeWorlds`.

    Args:
        robot: which robot.
        model: its compiled model.
        physics: the worlds that simulate it.
        settings: resolved settings of the task.
    """

    def __init__(self, robot: Robot, model: mujoco.MjModel, physics: Worlds, settings: LocomotionSettings) -> None:
        self.count = physics.count
        self.model = model
        self.physics = physics
        self._robot = robot
        self._noise = float(settings.initial_noise or 0.0)
        self._episode_length = settings.episode_length or 0
        self._shows_time = bool(settings.time_in_observation)
        self._reach = settings.reach
        self.step_seconds = model.opt.timestep * robot.frame_skip
        feet, (_, size) = len(robot.foot_names), _observation(settings, robot, model)
        limits = torch.as_tensor(model.actuator_ctrlrange.copy(), device=physics.device)
        self._middle, self._half = native(limits.mean(1)), native((limits[:, 1] - limits[:, 0]) / 2)
        position = physics.state["qpos"]
        self._masses = native(torch.as_tensor(model.body_mass.copy()).to(position))
        self._observation = torch.zeros(self.count, size, device=physics.device)
        self._observed, self._control = native(self._observation), native(physics.control)
        self._state = {name: native(tensor) for name, tensor in physics.state.items()}
        self._progress = native(torch.zeros_like(position[:, 0]))
        self._contacts = native(torch.zeros(self.count, feet, dtype=torch.float64, device=physics.device))
        self._never = torch.zeros(self.count, dtype=torch.bool, device=physics.device)

    def reset(self, slots: Sequence[int], seeds: Sequence[int]) -> None:
        states = [initial_state(self._robot, self.model, self._noise, seed) for seed in seeds]
        qpos, qvel = (torch.from_numpy(np.stack(part)) for part in zip(*states, strict=True))
        self.physics.reset(slots, qpos, qvel)
        index = list(slots)
        self._contacts[index] = 0.0
        if self._reach is None:
            self._progress[index] = self._robot.progress(self._state, self._masses)[index]

    def observe(self, ages: Tensor) -> Tensor:
        count, hidden = len(ages), self._robot.hidden_positions
        state, observed = self._first(count), self._observed[:count]
        qpos, qvel = state["qpos"], state["qvel"]
        positions, velocities = qpos.shape[1] - hidden, qvel.shape[1]
        observed[:, :positions] = qpos[:, hidden:]
        if self._robot.velocity_clip is not None:
            qvel = qvel.clip(-self._robot.velocity_clip, self._robot.velocity_clip)
        last = positions + velocities
        observed[:, positions:last] = qvel
        if self._reach is not None:
            observed[:, last : last + 2] = qpos[:, :2] / self._reach
        if self._shows_time:
            observed[:, -1] = 1.0 - native(ages) / self._episode_length
        return self._observation[:count]

    def step(self, actions: Tensor) -> tuple[Tensor, Tensor]:
        self.apply(actions)
        self.physics.step(len(actions))
        return self.outcome(len(actions))

    def apply(self, actions: Tensor) -> None:
        """The first part of `step`: what physics will do with actions."""
        control = self._control[: len(actions)]
        control[:] = native(actions)
        control *= self._half
        control += self._middle

    def outcome(self, count: int) -> tuple[Tensor, Tensor]:
        """The last part of `step`: what the first worlds have come to."""
        robot, state, control = self._robot, self._first(count), self._control[:count]
        reward = -robot.control_weight * (control * control).sum(1)
        healthy = None if robot.healthy is None else robot.healthy(state)
        if healthy is not None:
            reward += robot.healthy_reward * healthy
        if self._reach is None:
            progress = robot.progress(state, self._masses)
            reward += robot.forward_weight * (progress - self._progress[:count]) / self.step_seconds
            self._progress[:count] = progress
            if robot.contact_cost is not None:
                reward -= robot.contact_cost(state)
            self._contacts[:count] += state["sensordata"] > 0
        terminated = self._never[:count] if healthy is None else torch.as_tensor(~healthy)
        return torch.as_tensor(reward), terminated

    def descriptor(self, slot: int, steps: int) -> Tensor:
        if self._reach is None:
            return torch.as_tensor(self._contacts[slot] / steps)
        return self.physics.state["qpos"][slot, :2]

    def failed(self, slot: int) -> bool:
        return self.physics.unstable(slot)

    def truncated(self, slot: int) -> bool:  # noqa: ARG002
        return False

    def move(self, source: int, target: int) -> None:
        self.physics.move(source, target)
        self._progress[target] = self._progress[source]
        self._contacts[target] = self._contacts[source]

    def _first(self, count: int) -> dict[str, Array]:
        return {name: array[:count] for name, array in self._state.items()}


def initial_state(robot: Robot, model: mujoco.MjModel, noise: float, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Positions `(nq,)` and velocities `(nv,)` that an evaluation seed stands for, distributed as Gymnasium's.

    Args:
        robot: which robot.
        model: its model.
        noise: scale of the noise.
        seed: the evaluation's seed.
    """
    generator = generator_from_seed(seed)
    qpos = model.qpos0 + generator.uniform(-noise, noise, model.nq)
    if robot.velocity_noise == "normal":
        return qpos, noise * generator.standard_normal(model.nv)
    return qpos, generator.uniform(-noise, noise, model.nv)


def make_locomotion_task(
    settings: LocomotionSettings,
    *,
    policy: PolicySettings,
    worlds: int,
    threads: int,
    device: str = "cpu",
    arithmetic: Arithmetic = PORTABLE,
) -> EpisodicTask:
    """The task that the settings describe.

    Args:
        settings: the task's own.
        policy: shape of the policies.
        worlds: worlds simulated at once.
        threads: threads that share them, on the CPU.
        device: "cpu" for C MuJoCo; "cuda" or "warp-cpu" for MuJoCo Warp.
        arithmetic: how policies are computed on the CPU; elsewhere torch's products are taken.
    """
    settings = settings.resolved()
    defaults = _DEFAULTS[settings.name]
    robot, uni = ROBOTS[defaults["robot"]], settings.reach is None
    if settings.healthy_reward is not None:
        robot = replace(robot, healthy_reward=settings.healthy_reward)
    model, mjcf = build_model(robot, touch=uni, trap=defaults.get("trap", False))

    fields = robot.fields(rewards_progress=uni)
    if device != "cpu":
        from qdrl.tasks.episodes.device_rollout import DeviceRollout
        from qdrl.tasks.locomotion.device_worlds import DeviceWorldMaker

        made = DeviceWorldMaker(robot, model, settings, fields, device)
        spec = _spec(settings, robot, model, TORCH)

        def make_rollout(shape: Mlp) -> DeviceRollout:
            return DeviceRollout(made, worlds, shape, len(spec.axes), spec.episode_length)

        return EpisodicTask(spec, made, policy=policy, worlds=worlds, mjcf=mjcf, make_rollout=make_rollout)

    def make_worlds(count: int) -> LocomotionWorlds:
        physics = make_cpu_worlds(model, count, frame_skip=robot.frame_skip, fields=fields, threads=threads)
        return LocomotionWorlds(robot, model, physics, settings)

    spec = _spec(settings, robot, model, arithmetic)
    return EpisodicTask(spec, make_worlds, policy=policy, worlds=worlds, mjcf=mjcf)


def _spec(settings: LocomotionSettings, robot: Robot, model: mujoco.MjModel, arithmetic: Arithmetic) -> TaskSpec:
    length, (observation, size) = settings.episode_length or 0, _observation(settings, robot, model)
    goal = _uni_goal(robot, settings) if settings.reach is None else _omni_goal(robot, model, settings.reach)
    return TaskSpec(
        name=settings.name,
        episode_length=length,
        qd_offset=-goal["reward_offset"] * length,
        observation=observation,
        observation_size=size,
        action_size=model.nu,
        initial_noise=f"positions uniform within {settings.initial_noise:g}, velocities {robot.velocity_noise}",
        options=settings.model_dump(exclude_none=True),
        arithmetic=arithmetic,
        **goal,
    )


def _uni_goal(robot: Robot, settings: LocomotionSettings) -> dict[str, Any]:
    return {
        "summary": "Run forward; where the feet spend their time tells gaits apart.",
        "axes": tuple(Axis(f"{name} contact", "1", 0.0, 1.0) for name in robot.foot_names),
        "fitness_name": f"return of {robot.gymnasium_id}",
        "reward_offset": robot.reward_offset,
        "gymnasium": {
            "id": robot.gymnasium_id,
            "kwargs": {
                "reset_noise_scale": settings.initial_noise,
                **robot.gymnasium_options,
                **({"healthy_reward": settings.healthy_reward} if robot.healthy is not None else {}),
            },
        },
    }


def _omni_goal(robot: Robot, model: mujoco.MjModel, reach: float) -> dict[str, Any]:
    strongest = np.square(model.actuator_ctrlrange).max(axis=1).sum()
    return {
        "summary": "End anywhere, alive and with little effort. Standing still is the fitness optimum.",
        "axes": (Axis("final x", "m", -reach, reach), Axis("final y", "m", -reach, reach)),
        "fitness_name": "sum of healthy reward - control cost over the episode",
        # The lowest reward there is: full effort in the step that ends the robot's health.
        "reward_offset": float(robot.control_weight * strongest),
    }


def _observation(settings: LocomotionSettings, robot: Robot, model: mujoco.MjModel) -> tuple[str, int]:
    """What a policy sees, in words and in numbers."""
    positions = model.nq - robot.hidden_positions
    cut = f" cut to +-{robot.velocity_clip:g}" if robot.velocity_clip else ""
    parts = {f"positions from index {robot.hidden_positions}": positions, f"velocities{cut}": model.nv}
    if settings.reach is not None:
        parts[f"x, y / {settings.reach:g} m"] = 2
    if settings.time_in_observation:
        parts["fraction of the episode left"] = 1
    return ", ".join(f"{what} ({size})" for what, size in parts.items()), sum(parts.values())
