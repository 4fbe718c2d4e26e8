"""Tasks: what genomes are evaluated on. `make_task` makes one by name; `task_names` lists the names."""

import re
from typing import Any

from pydantic import BaseModel, ValidationError

from qdrl.compute.arithmetic import PORTABLE, Arithmetic
from qdrl.errors import UserError
from qdrl.naming import suggest
from qdrl.policies.settings import PolicySettings, policy_settings
from qdrl.tasks.base import Task, TaskSetup

_FUNCTION_NAMES = ("arm", "sphere", "rastrigin")
_MAZE_NAMES = ("hard_maze", "medium_maze")


def task_names() -> tuple[str, ...]:
    """The names of the built-in tasks; `gym:<id>` names any Gymnasium environment besides."""
    from qdrl.tasks.locomotion.settings import LOCOMOTION_NAMES

    return (*LOCOMOTION_NAMES, *_MAZE_NAMES, "image_hard_maze", "point_omni", *_FUNCTION_NAMES)


def settings_class(name: str) -> type[BaseModel]:
    """Which options a task takes.

    Raises:
        UserError: there is no such task.
    """
    from qdrl.tasks.atari import AtariSettings
    from qdrl.tasks.functions import FunctionSettings
    from qdrl.tasks.gym import GymSettings
    from qdrl.tasks.image_maze import ImageMazeSettings
    from qdrl.tasks.locomotion.settings import LOCOMOTION_NAMES, LocomotionSettings
    from qdrl.tasks.maze import MazeSettings
    from qdrl.tasks.point import PointSettings

    if name.startswith("gym:"):
        return GymSettings
    if name.startswith("atari:"):
        return AtariSettings
    if name in LOCOMOTION_NAMES:
        return LocomotionSettings
    if name == "image_hard_maze":
        return ImageMazeSettings
    if name in _MAZE_NAMES:
        return MazeSettings
    if name == "point_omni":
        return PointSettings
    if name in _FUNCTION_NAMES:
        return FunctionSettings
    if re.search(r"-v\d+$", name):  # a Gymnasium id
        raise UserError(f"task.name: no task '{name}'; did you mean 'gym:{name}'?")
    raise UserError(f"task.name: no task '{name}'{suggest(name, [*task_names(), 'gym:<id>', 'atari:<game>'])}")


def build_task(
    settings: BaseModel,
    *,
    policy: PolicySettings,
    worlds: int,
    threads: int,
    device: str = "cpu",
    arithmetic: Arithmetic = PORTABLE,
    policy_as_given: bool = False,
    **limits: Any,
) -> Task:
    """The task that validated settings describe; see `make_task`.

    Args:
        settings: the task's.
        policy: shape of the policies.
        worlds: worlds simulated at once.
        threads: threads that share them.
        device: where locomotion is simulated.
        arithmetic: how policies are computed; "blas" as in files of formats 1.0 and 1.1.
        policy_as_given: keep `policy.output` where actions are discrete, as archives before format 1.2 need it.
        limits: `episode_seconds` and `isolate` of `qdrl.config.ComputeSettings`.

    Raises:
        UserError: the task cannot be made so.
    """
    from qdrl.tasks.atari import AtariSettings, make_atari_task
    from qdrl.tasks.functions import FunctionSettings, make_function_task
    from qdrl.tasks.gym import GymSettings, make_gym_task
    from qdrl.tasks.image_maze import ImageMazeSettings, make_image_maze_task
    from qdrl.tasks.locomotion.settings import LocomotionSettings
    from qdrl.tasks.locomotion.task import make_locomotion_task
    from qdrl.tasks.maze import MazeSettings, make_maze_task
    from qdrl.tasks.point import PointSettings, make_point_task

    if device != "cpu" and not isinstance(settings, LocomotionSettings):
        raise UserError(f"compute.device: only locomotion runs on '{device}', not {getattr(settings, 'name', 'this')}")
    if set_ := [name for name, value in limits.items() if value and not isinstance(settings, GymSettings)]:
        name = getattr(settings, "name", "this")
        raise UserError(f"compute.{set_[0]}: only tasks behind 'gym:' run users' code, '{name}' does not; leave it out")
    parts: dict[str, Any] = {"policy": policy, "worlds": worlds, "arithmetic": arithmetic}
    match settings:
        case FunctionSettings():
            return make_function_task(settings, arithmetic)
        case MazeSettings():
            return make_maze_task(settings, **parts)
        case PointSettings():
            return make_point_task(settings, **parts)
        case AtariSettings():
            return make_atari_task(settings, **parts, policy_as_given=policy_as_given)
        case ImageMazeSettings():
            return make_image_maze_task(settings, **parts)
        case GymSettings():
            return make_gym_task(settings, **parts, policy_as_given=policy_as_given, **limits)
        case LocomotionSettings():
            return make_locomotion_task(settings, TaskSetup(**parts, threads=threads, device=device))
        case _:
            raise TypeError(f"{type(settings).__name__} is not the settings of a task")


def make_task(
    name: str,
    *,
    policy: PolicySettings | dict[str, Any] | None = None,
    worlds: int = 64,
    threads: int = 1,
    device: str = "cpu",
    arithmetic: Arithmetic = PORTABLE,
    episode_seconds: float | None = None,
    isolate: bool = False,
    policy_as_given: bool = False,
    **options: Any,
) -> Task:
    """Make a task by name.

    Args:
        name: a name of `task_names()`, or `gym:<id>`.
        policy: shape of the policies; ignored where genomes are not policies.
        worlds: worlds simulated at once.
        threads: threads that share them.
        device: "cpu"; locomotion also "cuda" and "warp-cpu", see `qdrl.config.ComputeSettings`.
        arithmetic: how policies are computed; "blas" as in files of formats 1.0 and 1.1.
        episode_seconds: wall-clock limit of an episode behind `gym:`; none when left out.
        isolate: run environments and descriptor functions behind `gym:` in worker processes.
        policy_as_given: keep `policy.output` where actions are discrete; otherwise it becomes "linear" there, and
            files say so. Policies of archives before format 1.2 need it.
        options: the task's own settings, for example `episode_length=250`.

    Raises:
        UserError: no such task, or options it does not take.
    """
    kind = settings_class(name)
    try:
        shape = policy if isinstance(policy, PolicySettings) else policy_settings(policy)(**(policy or {}))
        settings = kind(name=name, **options)
    except ValidationError as error:
        detail = error.errors()[0]
        place = ".".join(str(part) for part in detail["loc"])
        raise UserError(f"task '{name}': {place}: {detail['msg']}") from error
    limits: dict[str, Any] = {"episode_seconds": episode_seconds, "isolate": isolate}
    return build_task(
        settings,
        policy=shape,
        worlds=worlds,
        threads=threads,
        device=device,
        arithmetic=arithmetic,
        policy_as_given=policy_as_given,
        **limits,
    )
