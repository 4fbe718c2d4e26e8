"""Tasks: what genomes are evaluated on. `make_task` makes one by name; `task_names` lists the names."""

import re
from typing import Any

from pydantic import BaseModel, ValidationError

from qdrl.errors import UserError
from qdrl.naming import suggest
from qdrl.policies.base import PolicySettings, policy_settings
from qdrl.tasks.base import Task

_FUNCTION_NAMES = ("arm", "sphere", "rastrigin")
_MAZE_NAMES = ("hard_maze", "medium_maze")


def task_names() -> tuple[str, ...]:
    """The names of the built-in tasks; `gym:<id>` names any Gymnasium environment besides."""
    from qdrl.tasks.locomotion import LOCOMOTION_NAMES

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
    from qdrl.tasks.locomotion import LOCOMOTION_NAMES, LocomotionSettings
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


def build_task(settings: BaseModel, *, policy: PolicySettings, worlds: int, threads: int, device: str = "cpu") -> Task:
    """The task that validated settings describe; see `make_task`."""
    from qdrl.tasks.atari import AtariSettings, make_atari_task
    from qdrl.tasks.functions import FunctionSettings, make_function_task
    from qdrl.tasks.gym import GymSettings, make_gym_task
    from qdrl.tasks.image_maze import ImageMazeSettings, make_image_maze_task
    from qdrl.tasks.locomotion import LocomotionSettings, make_locomotion_task
    from qdrl.tasks.maze import MazeSettings, make_maze_task
    from qdrl.tasks.point import PointSettings, make_point_task

    if device != "cpu" and not isinstance(settings, LocomotionSettings):
        raise UserError(f"compute.device: only locomotion runs on '{device}', not {getattr(settings, 'name', 'this')}")
    match settings:
        case FunctionSettings():
            return make_function_task(settings)
        case MazeSettings():
            return make_maze_task(settings, policy=policy, worlds=worlds)
        case PointSettings():
            return make_point_task(settings, policy=policy, worlds=worlds)
        case AtariSettings():
            return make_atari_task(settings, policy=policy, worlds=worlds)
        case ImageMazeSettings():
            return make_image_maze_task(settings, policy=policy, worlds=worlds)
        case GymSettings():
            return make_gym_task(settings, policy=policy, worlds=worlds)
        case LocomotionSettings():
            return make_locomotion_task(settings, policy=policy, worlds=worlds, threads=threads, device=device)
        case _:
            raise TypeError(f"{type(settings).__name__} is not the settings of a task")


def make_task(
    name: str,
    *,
    policy: PolicySettings | dict[str, Any] | None = None,
    worlds: int = 64,
    threads: int = 1,
    device: str = "cpu",
    **options: Any,
) -> Task:
    """Make a task by name.

    Args:
        name: a name of `task_names()`, or `gym:<id>`.
        policy: shape of the policies; ignored where genomes are not policies.
        worlds: worlds simulated at once.
        threads: threads that share them.
        device: "cpu"; locomotion also "cuda" and "warp-cpu", see `qdrl.config.ComputeSettings`.
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
    return build_task(settings, policy=shape, worlds=worlds, threads=threads, device=device)
