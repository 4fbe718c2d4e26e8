"""Ids of Gymnasium environments: registration, description, and error messages for unknown ids."""

import os
import re
import warnings
from importlib import import_module
from importlib.util import find_spec

import gymnasium
from gymnasium.error import UnregisteredEnv
from gymnasium.spaces import Box, Discrete

from qdrl.errors import UserError
from qdrl.naming import nearest

# Packages whose environments must be registered before use: namespace -> module, installation command.
_PROVIDERS = {"ALE": ("ale_py", "pip install 'qdrl[atari]'")}
_VERSION = re.compile(r"-v(\d+)$")


def require_environment(environment_id: str) -> None:
    """Register the environments of the package that an id names, and check the id; call it before `gymnasium.make`.

    Args:
        environment_id: Id as `gymnasium.make` accepts it. Ids with the prefix `module:` are not checked, because
            `gymnasium.make` imports the module.

    Raises:
        UserError: There is no such environment (the message suggests similar ids), or its package is not installed.
    """
    if not environment_id:
        raise UserError("task.name: 'gym:' needs an id after it, as in gym:Pendulum-v1")
    _register(environment_id)
    if os.environ.get("MUJOCO_GL") and find_spec("mujoco"):
        import_module("qdrl.physics.library")  # a broken OpenGL does not stop environments with MuJoCo
    if ":" in environment_id:
        return
    try:
        gymnasium.spec(environment_id)
    except UnregisteredEnv as error:
        raise UserError(f"task.name: Gymnasium has no '{environment_id}'{_suggestion(environment_id)}") from error
    except gymnasium.error.Error:  # an id without a version, which `gymnasium.make` takes
        return


def describe_environment(environment_id: str) -> dict[str, str]:
    """Return a description of an environment, and the settings that an experiment with it needs.

    Args:
        environment_id: Id as `gymnasium.make` accepts it.

    Returns:
        Text by heading.

    Raises:
        UserError: There is no such environment, or it cannot be made.
    """
    require_environment(environment_id)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # ids without a version cause a warning; the result has the version
            environment = gymnasium.make(environment_id)
    except Exception as error:  # user code may raise any exception
        reason = " ".join(f"{type(error).__name__}: {error}".split())
        raise UserError(f"gymnasium cannot make '{environment_id}': {reason}") from error
    limit = environment.spec.max_episode_steps if environment.spec else None
    observed, taken = environment.observation_space, environment.action_space
    module = type(environment.unwrapped).__module__
    environment.close()
    served = isinstance(observed, Box) and isinstance(taken, Box | Discrete)
    return {
        "task": f"gym:{environment.spec.id if environment.spec else environment_id}",
        "": f"A Gymnasium environment of {module}.",
        "observation": " ".join(str(observed).split()),
        "action": " ".join(str(taken).split()),
        "episode": f"at most {limit} steps" if limit else "no limit of its own: set task.episode_length",
        "policies": "can serve it" if served else "cannot serve it: they need a Box, and a Box or Discrete for actions",
        "needs": "task.descriptor = 'module:function' and task.axes: {name, unit, lower, upper} of each number of it",
    }


def _register(environment_id: str) -> None:
    """Register the environments of the package that provides an id's namespace."""
    namespace = environment_id.partition("/")[0]
    if namespace not in _PROVIDERS or "/" not in environment_id:
        return
    module, remedy = _PROVIDERS[namespace]
    if find_spec(module) is None:
        raise UserError(f"task.name: '{environment_id}' needs {module}: {remedy}")
    gymnasium.register_envs(import_module(module))


def _suggestion(environment_id: str) -> str:
    """Return the end of an error message: the known versions of an environment, or the most similar id."""
    name, known = _VERSION.sub("", environment_id), list(gymnasium.registry)
    versions = {each: found for each in known if (found := _VERSION.search(each)) and _VERSION.sub("", each) == name}
    if versions:
        return f"; known versions: {', '.join(sorted(versions, key=lambda each: int(versions[each][1])))}"
    if (near := nearest(environment_id, known)) is not None:
        return f"; did you mean '{near}'?"
    return "; a package of yours that registers it is named as gym:<module>:<id>"
