"""Tasks of MuJoCo robots: the built-in ones, and any user's `Behaviour`.

Reward and state are float64 on the CPU, float32 on a device; policies observe float32.
"""

from typing import Any

import numpy as np

from qdrl.compute.arithmetic import TORCH, Arithmetic
from qdrl.errors import UserError
from qdrl.naming import suggest
from qdrl.physics import STATE_FIELDS
from qdrl.physics.cpu import make_cpu_worlds
from qdrl.physics.library import mujoco
from qdrl.policies.mlp import Mlp
from qdrl.streams import generator_from_seed
from qdrl.tasks.base import TaskSetup, TaskSpec
from qdrl.tasks.episodic import EpisodicTask
from qdrl.tasks.locomotion.behaviour import Behaviour, Step
from qdrl.tasks.locomotion.goals import built_in_robot
from qdrl.tasks.locomotion.models import compile_model
from qdrl.tasks.locomotion.settings import LocomotionSettings
from qdrl.tasks.locomotion.worlds import LocomotionWorlds


def make_locomotion_task(settings: LocomotionSettings, setup: TaskSetup) -> EpisodicTask:
    """Return the built-in task that settings name.

    Args:
        settings: Settings of the task.
        setup: How the task computes.
    """
    return make_robot_task(built_in_robot(settings.resolved()), setup)


def make_robot_task(robot: Behaviour, setup: TaskSetup) -> EpisodicTask:
    """Return the task of a robot.

    Args:
        robot: Model and functions.
        setup: How the task computes; on a device policies are computed by torch.

    Raises:
        UserError: The robot's functions do not fit its model.
    """
    source = robot.source() if setup.model is None else setup.model
    model = compile_model(source)
    _check_model(robot, model)
    robot.prepare(model)
    observation_size = _check_functions(robot, model)
    if setup.device == "cpu":
        spec = _spec(robot, model, observation_size, setup.arithmetic)

        def make_worlds(count: int) -> LocomotionWorlds:
            options: dict[str, Any] = {"frame_skip": robot.frame_skip, "fields": robot.fields, "threads": setup.threads}
            return LocomotionWorlds(robot, model, make_cpu_worlds(model, count, **options), spec.observation_size)

        return EpisodicTask(
            spec, make_worlds, policy=setup.policy, worlds=setup.worlds, mjcf=source.mjcf, assets=source.assets
        )
    from qdrl.tasks.episodes.device_rollout import DeviceRollout
    from qdrl.tasks.locomotion.device_worlds import DeviceWorldMaker

    spec = _spec(robot, model, observation_size, TORCH)
    make_device_worlds = DeviceWorldMaker(robot, model, observation_size, setup.device)

    def make_rollout(policy: Mlp) -> DeviceRollout:
        return DeviceRollout(make_device_worlds, setup.worlds, policy, len(spec.axes), spec.episode_length)

    return EpisodicTask(
        spec,
        make_device_worlds,
        policy=setup.policy,
        worlds=setup.worlds,
        mjcf=source.mjcf,
        assets=source.assets,
        make_rollout=make_rollout,
    )


def _spec(robot: Behaviour, model: mujoco.MjModel, observation_size: int, arithmetic: Arithmetic) -> TaskSpec:
    settings = robot.settings
    observation = robot.observation_text(model)
    if settings.time_in_observation:
        observation += ", fraction of the episode left (1)"
    return TaskSpec(
        name=settings.name,
        summary=robot.summary or str(type(robot).__doc__).partition("\n")[0],
        axes=robot.axes,
        episode_length=settings.episode_length,
        observation=observation,
        observation_size=observation_size,
        action_size=model.nu,
        initial_noise=robot.noise_text(),
        options=settings.model_dump(mode="json", exclude_none=True),
        arithmetic=arithmetic,
        **_rewards(robot),
    )


def _rewards(robot: Behaviour) -> dict[str, Any]:
    """Return the attributes of `TaskSpec` that say what fitness is and which offsets belong to it."""
    if (shift := robot.shift) is not None:
        name = f"sum of max(reward + {shift:g}, 0)"
        return {"fitness_name": name, "qd_offset": 0.0, "reward_offset": 0.0, "included_offset": shift}
    offset = robot.offset
    known = {"fitness_name": robot.fitness_name, "reward_offset": offset, "gymnasium": robot.gymnasium}
    if robot.qd_offset is not None:
        return known | {"qd_offset": robot.qd_offset}
    return known | {"qd_offset": 0.0, "step_offset": offset or 0.0}


def _check_model(robot: Behaviour, model: mujoco.MjModel) -> None:
    """Check the attributes of a robot's class against its model.

    Raises:
        UserError: Fields or axes are unusable, or actions cannot be mapped to controls.
    """
    name = type(robot).__name__
    for field in robot.fields:
        if field not in STATE_FIELDS:
            raise UserError(f"{name}.fields: no field '{field}'{suggest(field, STATE_FIELDS)}")
    if missing := {"qpos", "qvel"} - set(robot.fields):
        raise UserError(f"{name}.fields: {' and '.join(sorted(missing))} must be among them")
    if not robot.axes:
        raise UserError(f"{name}.axes: state at least one qdrl.Axis of the descriptor")
    if robot.descriptor_reduction not in ("mean", "last"):
        raise UserError(f"{name}.descriptor_reduction must be 'mean' or 'last', is {robot.descriptor_reduction!r}")
    if model.nu == 0:
        raise UserError(f"{name}: the model has no actuators")
    for index in np.flatnonzero(~(np.diff(model.actuator_ctrlrange, axis=1)[:, 0] > 0)):
        actuator = model.actuator(index).name or index
        raise UserError(f"{name}: actuator {actuator} has no ctrlrange; policies act in [-1, 1], stretched over it")


class _ProbeState(dict[str, np.ndarray]):
    """A state of two worlds; reading an unlisted field raises `UserError`."""

    def __missing__(self, field: str) -> np.ndarray:
        raise UserError(f"reads state['{field}'], which is not in fields = {tuple(self)[:-1]}")


def _check_functions(robot: Behaviour, model: mujoco.MjModel) -> int:
    """Call a robot's functions on the first state of two worlds; return the length of an observation.

    Raises:
        UserError: A function reads a field that `fields` does not list, or returns an array of the wrong shape.
    """
    data = mujoco.MjData(model)
    first = robot.initial_state(model, generator_from_seed(0))
    for part, values, size in zip(("positions", "velocities"), first, (model.nq, model.nv), strict=True):
        _check_shape(robot, f"initial_state: {part}", values, (size,))
    data.qpos[:], data.qvel[:] = first
    mujoco.mj_forward(model, data)
    mujoco.mj_rnePostConstraint(model, data)
    state = _ProbeState({name: np.stack([getattr(data, name)] * 2) for name in robot.fields})
    state["body_mass"] = model.body_mass.copy()
    parts = _call(robot, "observe", state)
    for part in parts:
        _check_shape(robot, "observe: each part", part, (2, *np.shape(part)[1:2]))
    progress, healthy = _call(robot, "progress", state), _call(robot, "healthy", state)
    for name, values in (("progress", progress), ("healthy", healthy)):
        if values is not None:
            _check_shape(robot, name, values, (2,))
    if healthy is not None and healthy.dtype != bool:
        raise UserError(f"{type(robot).__name__}.healthy: expected bool, got {healthy.dtype}")
    seconds, advance = model.opt.timestep * robot.frame_skip, None if progress is None else progress - progress
    step = Step(state, np.zeros((2, model.nu)), seconds, advance, healthy)
    _check_shape(robot, "reward", _call(robot, "reward", step), (2,))
    _check_shape(robot, "descriptor", _call(robot, "descriptor", state), (2, len(robot.axes)))
    return sum(part.shape[1] for part in parts) + bool(robot.settings.time_in_observation)


def _call(robot: Behaviour, name: str, argument: Any) -> Any:
    try:
        return getattr(robot, name)(argument)
    except (UserError, NotImplementedError) as error:
        raise UserError(f"{type(robot).__name__}.{name}: {error}") from error


def _check_shape(robot: Behaviour, what: str, values: Any, shape: tuple[int, ...]) -> None:
    if not isinstance(values, np.ndarray) or values.shape != shape:
        got = f"shape {values.shape}" if isinstance(values, np.ndarray) else type(values).__name__
        raise UserError(f"{type(robot).__name__}.{what}: expected an array of shape {shape}, got {got}")
