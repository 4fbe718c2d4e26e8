"""Models of robots: read from files, extended by touch sensors, and compiled."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np

from qdrl.errors import UserError
from qdrl.naming import suggest
from qdrl.physics.cpu import keep_mujoco_from_logging
from qdrl.physics.library import mujoco
from qdrl.physics.mjcf import ModelSource, read_source
from qdrl.tasks.locomotion.robots import GymnasiumRobot

_TOUCH_RADIUS = 10.0  # m: the site contains every contact of its body
_TRAP = {"near": 7.0, "far": 12.0, "half_width": 3.0, "half_thickness": 0.25, "half_height": 0.5}  # m


def compile_model(source: ModelSource) -> mujoco.MjModel:
    """Return the compiled model; the same source gives the same bits.

    Args:
        source: Model as text, with its files.

    Raises:
        UserError: MuJoCo cannot compile the model.
    """
    keep_mujoco_from_logging()  # Gymnasium's HalfCheetah uses `settotalmass`, which is deprecated in MuJoCo 4
    try:
        return mujoco.MjModel.from_xml_string(source.mjcf, dict(source.assets))
    except ValueError as error:
        raise UserError(f"MuJoCo cannot compile the model: {_in_one_line(error)}") from error


def read_model(path: str | Path, *, touch: Sequence[str] = ()) -> ModelSource:
    """Return the model of an MJCF file, with a touch sensor on each of the named bodies.

    Args:
        path: MJCF file; includes and meshes are resolved from it.
        touch: Names of bodies. A touch sensor leaves the physics unchanged, bit for bit.

    Raises:
        UserError: The file cannot be read, compiled or stored, or has no such body.
    """
    root, assets = read_source(path)
    keep_mujoco_from_logging()
    mujoco.mj_clearCache(mujoco.mj_getCache())  # it returns the old mesh if a file changed within the same second
    try:
        original = mujoco.MjModel.from_xml_path(str(path))
    except ValueError as error:
        raise UserError(f"{path}: MuJoCo cannot compile it: {_in_one_line(error)}") from error
    stored = compile_model(ModelSource(ElementTree.tostring(root, encoding="unicode"), assets))
    if different := _differences(original, stored):
        raise UserError(
            f"{path}: with includes and folders resolved it compiles to another model ({', '.join(different[:3])});"
            " save it as one MJCF file"
        )
    bodies = {str(body.get("name")): body for body in root.iter("body")}
    for name in touch:
        if name not in bodies:
            raise UserError(f"{path}: no body '{name}' for a touch sensor{suggest(name, bodies)}")
    _add_touch_sensors(root, [(bodies[name], name) for name in touch])
    return ModelSource(ElementTree.tostring(root, encoding="unicode"), assets)


def gymnasium_model(robot: GymnasiumRobot, *, touch: bool, trap: bool = False) -> ModelSource:
    """Return Gymnasium's model of a robot, with the sensors and walls that the task adds.

    Args:
        robot: Robot of the model.
        touch: Add a touch sensor to each foot. It leaves the physics unchanged, bit for bit.
        trap: Add the walls of AntTrap (Pierrot et al. 2022): a U around x in 7..12 m, y in +-3 m, open to the origin.
    """
    import gymnasium.envs.mujoco

    root, assets = read_source(Path(gymnasium.envs.mujoco.__file__).parent / "assets" / robot.xml)
    (world,) = root.findall("worldbody")
    if touch:
        _add_touch_sensors(root, list(zip(_foot_bodies(world, robot), robot.foot_names, strict=True)))
    if trap:
        _add_trap(world)
    return ModelSource(ElementTree.tostring(root, encoding="unicode"), assets)


def build_model(robot: GymnasiumRobot, *, touch: bool, trap: bool = False) -> mujoco.MjModel:
    """Return the compiled model of `gymnasium_model`; see there for the arguments."""
    return compile_model(gymnasium_model(robot, touch=touch, trap=trap))


def _add_touch_sensors(root: ElementTree.Element, feet: Sequence[tuple[ElementTree.Element, str]]) -> None:
    """Add a touch sensor to each body; each body comes with the name of its sensor."""
    if not feet:
        return
    sensors = ElementTree.SubElement(root, "sensor")
    for body, name in feet:
        site = f"{name} touch"
        ElementTree.SubElement(body, "site", name=site, type="sphere", size=f"{_TOUCH_RADIUS}", group="5")
        ElementTree.SubElement(sensors, "touch", name=site, site=site)


def _foot_bodies(world: ElementTree.Element, robot: GymnasiumRobot) -> list[ElementTree.Element]:
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


def _differences(one: Any, other: Any) -> list[str]:
    """Return the names of the arrays that differ between two models; arrays of file paths are ignored."""
    names = [name for name in dir(one) if not name.startswith("_") and not name.endswith("pathadr")]
    arrays = {name: value for name in names if isinstance(value := getattr(one, name), np.ndarray)}
    return [name for name, values in arrays.items() if not np.array_equal(values, getattr(other, name))]


def _in_one_line(error: Exception) -> str:
    return " ".join(str(error).split())
