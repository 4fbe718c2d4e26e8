"""The registry of tasks: one table of the built-in tasks, and users' tasks by reference.

Importing this module imports no task; its table names settings classes and factories, which are loaded when needed.
"""

import inspect
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar

from pydantic import BaseModel, ValidationError

from qdrl.compute.arithmetic import PORTABLE, Arithmetic
from qdrl.errors import UserError
from qdrl.naming import is_reference, load_reference, suggest
from qdrl.physics.mjcf import ModelSource
from qdrl.policies.settings import PolicySettings, policy_settings
from qdrl.settings.tables import explain
from qdrl.tasks.users_tasks import load_users_task, make_users_task, settings_of_users_task

if TYPE_CHECKING:
    from qdrl.tasks.base import Task, TaskSetup

CPU = ("cpu",)
ALL_DEVICES = ("cpu", "cuda", "warp-cpu")
_LOCOMOTION = "qdrl.tasks.locomotion"
_Model = TypeVar("_Model", bound=BaseModel)


@dataclass(frozen=True)
class TaskEntry:
    """One task, or one family of tasks, of the registry.

    Attributes:
        name: Name of the task; of a family its prefix and a placeholder, as in "gym:<id>".
        summary: One line for lists of tasks.
        settings: Reference of the settings class, which needs no torch.
        factory: Reference of a function from settings and `TaskSetup` to the task.
        devices: Values of `compute.device` that the task accepts.
        limits_episodes: Whether `compute.episode_seconds` and `compute.isolate` apply.
    """

    name: str
    summary: str
    settings: str
    factory: str
    devices: tuple[str, ...] = CPU
    limits_episodes: bool = False

    def stands_for(self, name: str) -> bool:
        """Return whether this entry describes a name: an equal name, or one with the prefix of a family."""
        prefix, placeholder, _ = self.name.partition("<")
        return name.startswith(prefix) if placeholder else name == prefix


def _locomotion(name: str, summary: str) -> TaskEntry:
    references = f"{_LOCOMOTION}.settings:LocomotionSettings", f"{_LOCOMOTION}.task:make_locomotion_task"
    return TaskEntry(name, summary, *references, devices=ALL_DEVICES)


def _plain(name: str, summary: str, settings: str, factory: str) -> TaskEntry:
    return TaskEntry(name, summary, f"qdrl.tasks.settings:{settings}", f"qdrl.tasks.{factory}")


_TASKS = (
    _locomotion("walker2d_uni", "Walker2d runs forward; descriptor: contact of each foot."),
    _locomotion("halfcheetah_uni", "HalfCheetah runs forward; descriptor: contact of each foot."),
    _locomotion("hopper_uni", "Hopper runs forward; descriptor: contact of the foot."),
    _locomotion("ant_uni", "Ant runs forward; descriptor: contact of each foot."),
    _locomotion("humanoid_uni", "Humanoid runs forward; descriptor: contact of each foot."),
    _locomotion("ant_omni", "Ant stays alive and saves energy; descriptor: final position."),
    _locomotion("anttrap_omni", "The same with a trap in front of Ant; descriptor: final position."),
    _locomotion("humanoid_omni", "Humanoid stays alive and saves energy; descriptor: final position."),
    _plain("hard_maze", "A deceptive maze; descriptor: final position.", "MazeSettings", "maze:make_maze_task"),
    _plain(
        "medium_maze", "An easier deceptive maze; descriptor: final position.", "MazeSettings", "maze:make_maze_task"
    ),
    _plain(
        "image_hard_maze",
        "The hard maze seen from above, for convolutional policies.",
        "ImageMazeSettings",
        "image_maze:make_image_maze_task",
    ),
    _plain("point_omni", "A point mass in the plane; a cheap omni task.", "PointSettings", "point:make_point_task"),
    _plain("arm", "Planar arm; descriptor: gripper position.", "FunctionSettings", "functions:make_function_task"),
    _plain("sphere", "Sphere function of many dimensions.", "FunctionSettings", "functions:make_function_task"),
    _plain("rastrigin", "Rastrigin function of many dimensions.", "FunctionSettings", "functions:make_function_task"),
    TaskEntry(
        "gym:<id>",
        "Any Gymnasium environment, with a descriptor function of yours.",
        "qdrl.tasks.settings:GymSettings",
        "qdrl.tasks.gym:make_gym_task",
        limits_episodes=True,
    ),
    _plain(
        "atari:<game>",
        "An Atari game, as in atari:frostbite; needs the extra 'atari'.",
        "AtariSettings",
        "atari:make_atari_task",
    ),
)


def task_entries() -> tuple[TaskEntry, ...]:
    """Return the registry: built-in tasks, then families such as `gym:<id>`."""
    return _TASKS


def task_names() -> tuple[str, ...]:
    """Return the names of the built-in tasks, without families and users' tasks."""
    return tuple(entry.name for entry in _TASKS if "<" not in entry.name)


def settings_class(name: str) -> type[BaseModel]:
    """Return the settings class of a task.

    Args:
        name: Name of a built-in task, or reference `package.module:Class` of a user's.

    Raises:
        UserError: There is no such task, or the user's class has no usable `Settings`.
    """
    entry = _entry_of(name)
    return load_reference(entry.settings) if entry else settings_of_users_task(name, load_users_task(name))


def build_task(settings: BaseModel, setup: "TaskSetup") -> "Task":
    """Return the task that validated settings describe.

    Args:
        settings: The task's settings, an instance of `settings_class(settings.name)`.
        setup: How the task computes.

    Raises:
        UserError: The task cannot be made with these settings or on this device.
    """
    name = str(getattr(settings, "name", ""))
    if not isinstance(settings, settings_class(name)):
        raise TypeError(f"{type(settings).__name__} is not the settings class of task '{name}'")
    entry = _entry_of(name)
    devices = entry.devices if entry else getattr(load_users_task(name), "devices", CPU)
    if setup.device not in devices:
        raise UserError(f"compute.device: '{name}' runs on {', '.join(devices)}, not on '{setup.device}'")
    limits = {"episode_seconds": setup.episode_seconds, "isolate": setup.isolate}
    if (given := [key for key, value in limits.items() if value]) and not (entry and entry.limits_episodes):
        raise UserError(f"compute.{given[0]}: applies only to tasks behind 'gym:', not to '{name}'; leave it out")
    if entry:
        return load_reference(entry.factory)(settings, setup)
    return make_users_task(name, settings, setup)


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
    model: ModelSource | None = None,
    **options: Any,
) -> "Task":
    """Return a task by name.

    Args:
        name: One of `task_names()`, `gym:<id>`, `atari:<game>`, or the reference `package.module:Class` of your own.
        policy: Shape of the policies; ignored where genomes are not policies.
        worlds: Worlds simulated at once.
        threads: Threads that share them.
        device: "cpu"; locomotion also "cuda" and "warp-cpu", see `qdrl.settings.run.ComputeSettings`.
        arithmetic: How policies are computed; "blas" as in files of formats 1.0 and 1.1.
        episode_seconds: Wall-clock limit of an episode behind `gym:`; None for no limit.
        isolate: Run environments and descriptor functions behind `gym:` in worker processes.
        policy_as_given: Keep `policy.output` even if actions are discrete, as archives before format 1.2 require;
            otherwise discrete tasks use "linear".
        model: MuJoCo model of an archive, used instead of a robot's own file.
        options: The task's own settings, for example `episode_length=250`.

    Raises:
        UserError: There is no such task, or it does not have these options.
    """
    from qdrl.tasks.base import TaskSetup

    settings = _validated(name, settings_class(name), {"name": name, **options})
    if not isinstance(policy, PolicySettings):
        policy = _validated(name, policy_settings(policy), policy or {}, "policy")
    setup = TaskSetup(
        policy=policy,
        worlds=worlds,
        threads=threads,
        device=device,
        arithmetic=arithmetic,
        policy_as_given=policy_as_given,
        episode_seconds=episode_seconds,
        isolate=isolate,
        model=model,
    )
    return build_task(settings, setup)


def _validated(name: str, model: type[_Model], values: dict[str, Any], table: str = "") -> _Model:
    """Return a model's instance for keyword arguments of `make_task`.

    Raises:
        UserError: An argument is unknown, missing or out of range.
    """
    try:
        return model(**values)
    except ValidationError as error:
        others = () if table else inspect.signature(make_task).parameters
        raise UserError(f"task '{name}': {explain(error, model, values, table, others)}") from error


def is_users_task(name: str) -> bool:
    """Return whether a name is the reference of a user's task."""
    return _entry_of(name, missing_ok=True) is None and is_reference(name)


def _entry_of(name: str, *, missing_ok: bool = False) -> TaskEntry | None:
    """Return the entry of a name; None for a reference.

    Raises:
        UserError: The name is neither a task nor a reference, and `missing_ok` is false.
    """
    for entry in _TASKS:
        if entry.stands_for(name):
            return entry
    if missing_ok or is_reference(name):
        return None
    if re.search(r"-v\d+$", name):  # a Gymnasium id
        raise UserError(f"task.name: no task '{name}'; did you mean 'gym:{name}'?")
    raise UserError(f"task.name: no task '{name}'{suggest(name, [entry.name for entry in _TASKS])}")
