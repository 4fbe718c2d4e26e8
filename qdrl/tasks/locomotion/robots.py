"""Gymnasium's five robots: models, rewards and terminations of its `*-v5` environments, batched over worlds.

Constants are the defaults of Gymnasium 1.x (https://arxiv.org/abs/2407.17032). State arrays are those of
`qdrl.physics.Worlds`, numpy arrays on the CPU and torch tensors elsewhere, so the functions use operations of both.
Importing this module imports neither torch nor MuJoCo.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from qdrl.tasks.locomotion.behaviour import Array, State


@dataclass(frozen=True)
class GymnasiumRobot:
    """One of Gymnasium's locomotion environments.

    Attributes:
        gymnasium_id: Environment with the same physics and reward.
        xml: Gymnasium's model file.
        frame_skip: Physics steps per control step.
        noise: Scale of the initial state's noise; positions are uniform within it.
        velocity_noise: "uniform" within the same scale, or "normal" with it as standard deviation.
        hidden_positions: Number of leading positions that policies do not observe.
        velocity_clip: Bound to which observed velocities are clipped; None for no bound.
        forward_weight: Reward per m/s forward.
        healthy_reward: Reward per step while healthy.
        control_weight: Cost of the squared control.
        healthy: Function from state to `(n,)` bool, False where the episode ends; None if episodes never end early.
        progress: Function from state to positions along x, `(n,)` m; its difference quotient is the forward speed.
        contact_cost: Function from state to the cost of contact forces, `(n,)`; None for no cost.
        reward_fields: State fields that `progress` and `contact_cost` read, besides qpos and qvel.
        feet: Names of the foot bodies; None for the model's leaf bodies in order.
        foot_names: Names of the feet in the descriptor.
        reward_offset: See `qdrl.tasks.base.TaskSpec`. These are the values of QDax 0.5 for the robots' Brax
            counterparts; they are not bounds of the reward here.
        gymnasium_options: Keyword arguments of the environment with which its observation is the same too.
    """

    gymnasium_id: str
    xml: str
    frame_skip: int
    noise: float
    velocity_noise: str
    hidden_positions: int
    velocity_clip: float | None
    forward_weight: float
    healthy_reward: float
    control_weight: float
    healthy: Callable[[State], Array] | None
    progress: Callable[[State], Array]
    contact_cost: Callable[[State], Array] | None
    reward_fields: tuple[str, ...]
    feet: tuple[str, ...] | None
    foot_names: tuple[str, ...]
    reward_offset: float
    gymnasium_options: dict[str, Any] = field(default_factory=dict)


def _root_x(state: State) -> Array:
    return state["qpos"][:, 0]


def _torso_x(state: State) -> Array:
    return state["xpos"][:, 1, 0]


def _mass_centre_x(state: State) -> Array:
    masses = state["body_mass"]
    return (masses * state["xipos"][:, :, 0]).sum(1) / masses.sum()


def _between(values: Array, low: float, high: float) -> Array:
    return (values > low) & (values < high)


def _walker_healthy(state: State) -> Array:
    qpos = state["qpos"]
    return _between(qpos[:, 1], 0.8, 2.0) & _between(qpos[:, 2], -1.0, 1.0)


def _hopper_healthy(state: State) -> Array:
    qpos, qvel = state["qpos"], state["qvel"]
    moderate = (abs(qpos[:, 2:]) < 100.0).all(1) & (abs(qvel) < 100.0).all(1)
    return moderate & (qpos[:, 1] > 0.7) & _between(qpos[:, 2], -0.2, 0.2)


def _ant_healthy(state: State) -> Array:
    qpos, qvel = state["qpos"], state["qvel"]
    finite = (abs(qpos) < math.inf).all(1) & (abs(qvel) < math.inf).all(1)
    return finite & (qpos[:, 2] >= 0.2) & (qpos[:, 2] <= 1.0)


def _humanoid_healthy(state: State) -> Array:
    return _between(state["qpos"][:, 2], 1.0, 2.0)


def _ant_contact_cost(state: State) -> Array:
    return 5e-4 * _squares(state["cfrc_ext"].clip(-1.0, 1.0))


def _humanoid_contact_cost(state: State) -> Array:
    return (5e-7 * _squares(state["cfrc_ext"])).clip(-math.inf, 10.0)


def _squares(forces: Array) -> Array:
    """Return the sum of squares of each world."""
    return (forces * forces).reshape(len(forces), -1).sum(1)


ROBOTS = {
    "walker2d": GymnasiumRobot(
        gymnasium_id="Walker2d-v5",
        xml="walker2d_v5.xml",
        frame_skip=4,
        noise=5e-3,
        velocity_noise="uniform",
        hidden_positions=1,
        velocity_clip=10.0,
        forward_weight=1.0,
        healthy_reward=1.0,
        control_weight=1e-3,
        healthy=_walker_healthy,
        progress=_root_x,
        contact_cost=None,
        reward_fields=(),
        feet=("foot", "foot_left"),
        foot_names=("right foot", "left foot"),
        reward_offset=1.413,
    ),
    "halfcheetah": GymnasiumRobot(
        gymnasium_id="HalfCheetah-v5",
        xml="half_cheetah.xml",
        frame_skip=5,
        noise=0.1,
        velocity_noise="normal",
        hidden_positions=1,
        velocity_clip=None,
        forward_weight=1.0,
        healthy_reward=0.0,
        control_weight=0.1,
        healthy=None,
        progress=_root_x,
        contact_cost=None,
        reward_fields=(),
        feet=("bfoot", "ffoot"),
        foot_names=("back foot", "front foot"),
        reward_offset=9.231,
    ),
    "hopper": GymnasiumRobot(
        gymnasium_id="Hopper-v5",
        xml="hopper.xml",
        frame_skip=4,
        noise=5e-3,
        velocity_noise="uniform",
        hidden_positions=1,
        velocity_clip=10.0,
        forward_weight=1.0,
        healthy_reward=1.0,
        control_weight=1e-3,
        healthy=_hopper_healthy,
        progress=_root_x,
        contact_cost=None,
        reward_fields=(),
        feet=("foot",),
        foot_names=("foot",),
        reward_offset=0.9,
    ),
    "ant": GymnasiumRobot(
        gymnasium_id="Ant-v5",
        gymnasium_options={"include_cfrc_ext_in_observation": False},
        xml="ant.xml",
        frame_skip=5,
        noise=0.1,
        velocity_noise="normal",
        hidden_positions=2,
        velocity_clip=None,
        forward_weight=1.0,
        healthy_reward=1.0,
        control_weight=0.5,
        healthy=_ant_healthy,
        progress=_torso_x,
        contact_cost=_ant_contact_cost,
        reward_fields=("xpos", "cfrc_ext"),
        feet=None,
        foot_names=("front left foot", "front right foot", "back left foot", "back right foot"),
        reward_offset=3.24,
    ),
    "humanoid": GymnasiumRobot(
        gymnasium_id="Humanoid-v5",
        gymnasium_options={
            "include_cinert_in_observation": False,
            "include_cvel_in_observation": False,
            "include_qfrc_actuator_in_observation": False,
            "include_cfrc_ext_in_observation": False,
        },
        xml="humanoid.xml",
        frame_skip=5,
        noise=1e-2,
        velocity_noise="uniform",
        hidden_positions=2,
        velocity_clip=None,
        forward_weight=1.25,
        healthy_reward=5.0,
        control_weight=0.1,
        healthy=_humanoid_healthy,
        progress=_mass_centre_x,
        contact_cost=_humanoid_contact_cost,
        reward_fields=("xipos", "cfrc_ext"),
        feet=("right_foot", "left_foot"),
        foot_names=("right foot", "left foot"),
        reward_offset=0.0,
    ),
}
