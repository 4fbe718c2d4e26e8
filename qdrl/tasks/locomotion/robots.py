"""The five robots: Gymnasium v5's models, rewards and terminations, as functions batched over worlds.

Constants are the defaults of Gymnasium 1.x's `*-v5` environments. State arrays are those of `qdrl.physics.Worlds`,
cut to the worlds in question: numpy's on the CPU, torch's elsewhere, so functions use what both understand.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

from qdrl.compute.arrays import Array
from qdrl.physics.cpu import keep_mujoco_from_logging
from qdrl.physics.library import mujoco

State = Mapping[str, Array]

_TOUCH_RADIUS = 10.0  # m: the site holds every contact of its body
_TRAP = {"near": 7.0, "far": 12.0, "half_width": 3.0, "half_thickness": 0.25, "half_height": 0.5}  # m


@dataclass(frozen=True)
class Robot:
    """One of Gymnasium's locomotion environments.

    Attributes:
        gymnasium_id: the environment with the same physics and reward.
        gymnasium_options: keyword arguments that make its observation the same too.
        xml: Gymnasium's model file.
        frame_skip: physics steps a control step.
        noise: scale of the initial state's noise; positions are uniform within it.
        velocity_noise: "uniform" within the same scale, or "normal" with it as deviation.
        hidden_positions: leading positions that a policy does not see.
        velocity_clip: what velocities are cut to in the observation, None for no cut.
        forward_weight: reward per m/s forward.
        healthy_reward: reward per step while healthy.
        control_weight: cost of the squared control.
        healthy: whether worlds are healthy, `(n,)` bool; None when episodes never end early.
        progress: where worlds stand along x, `(n,)` m, from state and masses of bodies; its difference quotient is the
            forward speed.
        contact_cost: cost of contact forces, `(n,)`; None for none.
        feet: names of the foot bodies, or None for the model's leaf bodies in order.
        foot_names: what the descriptor calls them.
        reward_offset: see `TaskSpec`; QDax 0.5's values for the robots' Brax twins, which do not bound the reward here.
    """

    gymnasium_id: str
    gymnasium_options: dict[str, Any]
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
    progress: Callable[[State, Array], Array]
    contact_cost: Callable[[State], Array] | None
    feet: tuple[str, ...] | None
    foot_names: tuple[str, ...]
    reward_offset: float

    def fields(self, *, rewards_progress: bool) -> tuple[str, ...]:
        """Fields of the physics state that the task needs."""
        fields = ["qpos", "qvel", "sensordata"]
        if rewards_progress and self.progress is _torso_x:
            fields.append("xpos")
        if rewards_progress and self.progress is _mass_centre_x:
            fields.append("xipos")
        if rewards_progress and self.contact_cost is not None:
            fields.append("cfrc_ext")
        return tuple(fields)


def build_model(robot: Robot, *, touch: bool, trap: bool = False) -> tuple[mujoco.MjModel, str]:
    """Gymnasium's model, with what descriptors need added.

    Args:
        robot: whose model.
        touch: add a touch sensor to each foot. It leaves the physics as it was, bit for bit.
        trap: add the walls of AntTrap (Pierrot et al. 2022): a U around x in 7..12 m, y in +-3 m, open to the origin.

    Returns:
        the compiled model, and the XML that it was compiled from: the same bits come out whenever it is compiled again.
    """
    import gymnasium.envs.mujoco

    # MjSpec.to_xml was measured to round to six digits, so that a stored model drifted by 1e-6 m in 20 steps.
    assets = Path(gymnasium.envs.mujoco.__file__).parent / "assets"
    root = ElementTree.parse(assets / robot.xml).getroot()  # noqa: S314 - Gymnasium's own file
    (world,) = root.findall("worldbody")
    if touch:
        sensors = ElementTree.SubElement(root, "sensor")
        for body, name in zip(_foot_bodies(world, robot), robot.foot_names, strict=True):
            site = f"{name} touch"
            ElementTree.SubElement(body, "site", name=site, type="sphere", size=f"{_TOUCH_RADIUS}", group="5")
            ElementTree.SubElement(sensors, "touch", name=site, site=site)
    if trap:
        _add_trap(world)
    mjcf = ElementTree.tostring(root, encoding="unicode")
    keep_mujoco_from_logging()  # HalfCheetah's own file asks for `settotalmass`, which MuJoCo 4 calls deprecated
    return mujoco.MjModel.from_xml_string(mjcf), mjcf


def _foot_bodies(world: ElementTree.Element, robot: Robot) -> list[ElementTree.Element]:
    bodies = list(world.iter("body"))
    if robot.feet is None:
        return [body for body in bodies if body.find("body") is None]
    by_name = {body.get("name"): body for body in bodies}
    return [by_name[name] for name in robot.feet]


def _add_trap(world: ElementTree.Element) -> None:
    near, far, width = _TRAP["near"], _TRAP["far"], _TRAP["half_width"]
    thickness, height = _TRAP["half_thickness"], _TRAP["half_height"]
    middle, length = (near + far) / 2, (far - near) / 2
    walls = {
        "trap back": ((far, 0, height), (thickness, width, height)),
        "trap left": ((middle, width, height), (length, thickness, height)),
        "trap right": ((middle, -width, height), (length, thickness, height)),
    }
    for name, (position, size) in walls.items():
        wall = ElementTree.SubElement(world, "geom", name=name, type="box", contype="1", conaffinity="1")
        wall.set("pos", " ".join(map(str, position)))
        wall.set("size", " ".join(map(str, size)))
        wall.set("rgba", "0.5 0.5 0.6 1")


def _root_x(state: State, masses: Array) -> Array:  # noqa: ARG001
    return state["qpos"][:, 0]


def _torso_x(state: State, masses: Array) -> Array:  # noqa: ARG001
    return state["xpos"][:, 1, 0]


def _mass_centre_x(state: State, masses: Array) -> Array:
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
    """Sum of squares a world."""
    return (forces * forces).reshape(len(forces), -1).sum(1)


ROBOTS = {
    "walker2d": Robot(
        gymnasium_id="Walker2d-v5",
        gymnasium_options={},
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
        feet=("foot", "foot_left"),
        foot_names=("right foot", "left foot"),
        reward_offset=1.413,
    ),
    "halfcheetah": Robot(
        gymnasium_id="HalfCheetah-v5",
        gymnasium_options={},
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
        feet=("bfoot", "ffoot"),
        foot_names=("back foot", "front foot"),
        reward_offset=9.231,
    ),
    "hopper": Robot(
        gymnasium_id="Hopper-v5",
        gymnasium_options={},
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
        feet=("foot",),
        foot_names=("foot",),
        reward_offset=0.9,
    ),
    "ant": Robot(
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
        feet=None,
        foot_names=("front left foot", "front right foot", "back left foot", "back right foot"),
        reward_offset=3.24,
    ),
    "humanoid": Robot(
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
        feet=("right_foot", "left_foot"),
        foot_names=("right foot", "left foot"),
        reward_offset=0.0,
    ),
}
