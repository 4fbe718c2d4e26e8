"""The built-in tasks of Gymnasium's robots: `_uni` and `_omni`.

`_uni`: fitness is the return of Gymnasium's v5 environment. The descriptor is the fraction of the episode's steps in
which each foot is in contact (Cully et al. 2015, https://doi.org/10.1038/nature14422).

`_omni`: the reward is the healthy reward minus the control cost, so standing still has the highest fitness. The
descriptor is the final x and y.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np

from qdrl.archives.axes import Axis
from qdrl.physics.mjcf import ModelSource
from qdrl.tasks.locomotion.behaviour import Array, Behaviour, State, Step, noisy_state
from qdrl.tasks.locomotion.models import gymnasium_model
from qdrl.tasks.locomotion.settings import DEFAULTS, LocomotionSettings


class BuiltInRobot(Behaviour):
    """Model, observation, health and control cost that both goals share.

    Args:
        settings: Resolved settings of the task.
    """

    def __init__(self, settings: LocomotionSettings) -> None:
        super().__init__(settings)
        self.defaults = DEFAULTS[settings.name]
        self.body = self.defaults.robot
        self.frame_skip, self.hidden_positions = self.body.frame_skip, self.body.hidden_positions
        self.healthy_reward = 0.0 if settings.healthy_reward is None else settings.healthy_reward

    def source(self) -> ModelSource:
        """Return the model's text and files."""
        return gymnasium_model(self.body, touch=self.settings.reach is None, trap=self.defaults.trap)

    def initial_state(self, model: Any, generator: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
        """Return positions `(nq,)` and velocities `(nv,)` of one episode."""
        return noisy_state(model, generator, float(self.settings.initial_noise), self.body.velocity_noise)

    def observe(self, state: State) -> Sequence[Array]:
        """Return positions `(n, nq - hidden)` and, possibly clipped, velocities `(n, nv)`."""
        velocities, bound = state["qvel"], self.body.velocity_clip
        return [
            state["qpos"][:, self.hidden_positions :],
            velocities if bound is None else velocities.clip(-bound, bound),
        ]

    def healthy(self, state: State) -> Array | None:
        """Return whether each robot is healthy, `(n,)` bool; None if episodes never end early."""
        return None if self.body.healthy is None else self.body.healthy(state)

    def reward(self, step: Step) -> Array:
        """Return the healthy reward minus the control cost, `(n,)`."""
        reward = -self.body.control_weight * (step.control * step.control).sum(1)
        if step.healthy is not None:
            reward += self.healthy_reward * step.healthy
        return reward

    def observation_text(self, model: Any) -> str:
        """Return the observation in words."""
        clipped = f" cut to +-{self.body.velocity_clip:g}" if self.body.velocity_clip else ""
        positions = model.nq - self.hidden_positions
        return f"positions from index {self.hidden_positions} ({positions}), velocities{clipped} ({model.nv})"

    def noise_text(self) -> str:
        """Return the distribution of initial states in words."""
        noise = self.settings.initial_noise
        return f"positions uniform within {noise:g}, velocities {self.body.velocity_noise}"


class UniRobot(BuiltInRobot):
    """A robot that runs forward; the descriptor is the contact of each foot."""

    summary = "Run forward; where the feet spend their time tells gaits apart."
    descriptor_reduction = "mean"

    def __init__(self, settings: LocomotionSettings) -> None:
        super().__init__(settings)
        body = self.body
        self.fields = ("qpos", "qvel", "sensordata", *body.reward_fields)
        self.axes = tuple(Axis(f"{name} contact", "1", 0.0, 1.0) for name in body.foot_names)
        self.fitness_name = f"return of {body.gymnasium_id}"
        self.reward_offset = body.reward_offset
        self.gymnasium = {
            "id": body.gymnasium_id,
            "kwargs": {
                "reset_noise_scale": settings.initial_noise,
                **body.gymnasium_options,
                **({"healthy_reward": settings.healthy_reward} if body.healthy is not None else {}),
            },
        }

    def progress(self, state: State) -> Array:
        """Return the positions along x, `(n,)` m."""
        return self.body.progress(state)

    def reward(self, step: Step) -> Array:
        """Return the reward of Gymnasium's environment, `(n,)`."""
        reward = super().reward(step)
        assert step.advance is not None  # noqa: S101 - of `progress`
        reward += self.body.forward_weight * step.advance / step.seconds
        if self.body.contact_cost is not None:
            reward -= self.body.contact_cost(step.state)
        return reward

    def descriptor(self, state: State) -> Array:
        """Return whether each foot is in contact, `(n, feet)` bool; its mean over an episode is the descriptor."""
        return state["sensordata"] > 0


class OmniRobot(BuiltInRobot):
    """A robot that stays alive with little control cost; the descriptor is the final position."""

    summary = "End anywhere, alive and with little effort. Standing still is the fitness optimum."
    fitness_name = "sum of healthy reward - control cost over the episode"

    def __init__(self, settings: LocomotionSettings) -> None:
        super().__init__(settings)
        self.reach = float(settings.reach or 0.0)
        self.axes = tuple(Axis(f"final {name}", "m", -self.reach, self.reach) for name in "xy")

    def prepare(self, model: Any) -> None:
        """Compute the reward offset from the actuators' range."""
        strongest = np.square(model.actuator_ctrlrange).max(axis=1).sum()
        # Minus the lowest possible reward: full controls in a step after which the robot is not healthy.
        self.reward_offset = float(self.body.control_weight * strongest)

    def observe(self, state: State) -> Sequence[Array]:
        """Return the observation of `BuiltInRobot` and the scaled x and y, `(n, 2)`."""
        return [*super().observe(state), state["qpos"][:, :2] / self.reach]

    def descriptor(self, state: State) -> Array:
        """Return x and y, `(n, 2)` m."""
        return state["qpos"][:, :2]

    def observation_text(self, model: Any) -> str:
        """Return the observation in words."""
        return f"{super().observation_text(model)}, x, y / {self.reach:g} m (2)"


def built_in_robot(settings: LocomotionSettings) -> BuiltInRobot:
    """Return the robot of resolved settings."""
    return UniRobot(settings) if settings.reach is None else OmniRobot(settings)
