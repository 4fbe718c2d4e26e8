"""Users' tasks: loading by reference `package.module:Class`, and checks of their settings and description."""

import inspect
import math
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel, ValidationError

from qdrl.errors import UserError
from qdrl.naming import load_reference, misspelt_member, nearest
from qdrl.provenance.source_code import definition_of

if TYPE_CHECKING:
    from qdrl.tasks.base import Task, TaskSetup


def load_users_task(reference: str) -> Any:
    """Import the object that a reference to a user's task names.

    Raises:
        UserError: It cannot be imported, or the reference looks like a misspelt `gym:` or `atari:` name.
    """
    try:
        return load_reference(reference)
    except UserError as error:
        package, _, rest = reference.partition(":")
        if (family := nearest(package, ("gym", "atari"))) is not None:
            raise UserError(f"task.name: no task '{reference}'; did you mean '{family}:{rest}'? ({error})") from error
        raise UserError(f"task.name: {error}") from error


def settings_of_users_task(reference: str, found: Any) -> type[BaseModel]:
    """Return the settings class of a user's task.

    Args:
        reference: Reference of the task, for error messages.
        found: The object that the reference names.

    Raises:
        UserError: Its attribute `Settings` is missing, not a pydantic model, or has no field `name`.
    """
    settings = getattr(found, "Settings", None)
    if not (isinstance(settings, type) and issubclass(settings, BaseModel)):
        raise UserError(
            f"task.name: '{reference}' needs a pydantic model as its attribute Settings; subclass"
            " qdrl.tasks.settings.TaskSettings"
        )
    if "name" not in settings.model_fields:
        raise UserError(f"task.name: {settings.__name__} of '{reference}' needs the field name: str")
    return settings


def make_users_task(reference: str, settings: BaseModel, setup: "TaskSetup") -> "Task":
    """Make a user's task, with its `make_task` if it has one (as robots do), and check the result.

    Args:
        reference: Reference of the task.
        settings: The task's settings.
        setup: How the task computes.

    Raises:
        UserError: The object does not take settings and setup, or its result is not a complete task.
    """
    found = load_users_task(reference)
    make: Callable[..., Any] = getattr(found, "make_task", found)
    try:
        inspect.signature(make).bind(settings, setup)
    except TypeError as error:
        raise UserError(f"task.name: '{reference}' must take two arguments, settings and setup: {error}") from error
    task = make(settings, setup)
    _check_task(reference, task, settings)
    others = [name for name in (definition_of(found),) if name is not None and name != reference]
    task.code = tuple(dict.fromkeys([reference, *others, *task.code]))
    return task


def _check_task(reference: str, task: Any, settings: BaseModel) -> None:
    """Check that an object is a task, and that the options in its description give the same settings.

    Raises:
        UserError: The object lacks a member, or its description is wrong.
    """
    from qdrl.tasks.base import Task, TaskSpec

    members = [name for name in (*Task.__annotations__, *vars(Task)) if not name.startswith("_")]
    own = [name for name in members if getattr(type(task), name, None) is not getattr(Task, name, ())]
    missing = [name for name in dict.fromkeys(members) if not hasattr(task, name)]
    missing += [name for name in ("initial", "evaluate") if name not in missing and name not in own]
    if missing:
        raise UserError(
            f"task.name: '{reference}' lacks {', '.join(missing)}; subclass qdrl.tasks.base.Task and define them"
        )
    if Task in type(task).__mro__ and (problem := misspelt_member(type(task), Task, members)) is not None:
        raise UserError(f"task.name: '{reference}' {problem}")
    if not isinstance(task.spec, TaskSpec):
        raise UserError(f"task.name: spec of '{reference}' must be a qdrl.tasks.base.TaskSpec")
    if task.spec.name != reference:
        raise UserError(
            f"task.name: the spec of '{reference}' has the name '{task.spec.name}'; create it with"
            " TaskSpec.of(settings, ...)"
        )
    try:
        again = type(settings)(**task.spec.options)
    except (ValidationError, TypeError):
        again = None
    if again != settings:
        raise UserError(
            f"task.name: spec.options of '{reference}' do not rebuild its settings; create the spec with"
            " TaskSpec.of(settings, ...), from settings that JSON can store"
        )
    _check_axes(reference, task.spec.axes)
    length = task.spec.episode_length
    if not isinstance(length, int) or length < 1:
        raise UserError(f"task.name: episode_length of '{reference}' must be an int of at least 1, got {length!r}")
    if not isinstance(task.parameters, int) or task.parameters < 1:
        raise UserError(f"task.name: parameters of '{reference}' must be a positive int, got {task.parameters!r}")


def _check_axes(reference: str, axes: Any) -> None:
    """Check the axes of a description.

    Raises:
        UserError: They are no tuple of axes, have bounds that are not in order, or share a name.
    """
    from qdrl.archives.axes import Axis

    what = f"task.name: axes of '{reference}'"
    if not isinstance(axes, tuple) or not axes or not all(isinstance(axis, Axis) for axis in axes):
        raise UserError(f"{what} must be a tuple of one or more Axis(name, unit, lower, upper), got {axes!r}")
    for axis in axes:
        bounds = (axis.lower, axis.upper)
        numbers = all(isinstance(bound, int | float) and math.isfinite(bound) for bound in bounds)
        if not (isinstance(axis.name, str) and isinstance(axis.unit, str) and numbers and axis.lower < axis.upper):
            raise UserError(
                f"{what}: Axis(name, unit, lower, upper) takes two strings and two finite numbers, lower < upper; got"
                f" {axis!r}"
            )
    if len({axis.name for axis in axes}) < len(axes):
        raise UserError(f"{what} need different names, got {[axis.name for axis in axes]}")
