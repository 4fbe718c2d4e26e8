"""Checks of the values that users' environments and descriptor functions return."""

from collections.abc import Mapping
from typing import Any

import numpy as np
from gymnasium.spaces import Box

from qdrl.limits import MAGNITUDE
from qdrl.tasks.environments.failures import UnusableError


def reset_answer(returned: Any) -> Any:
    """Return the observation from the result of `reset`.

    Args:
        returned: Result of the environment's `reset`.

    Raises:
        UnusableError: The result is not a pair of observation and info.
    """
    if not isinstance(returned, tuple | list) or len(returned) != 2:
        raise UnusableError(f"returned {_brief(returned)} from reset, expected (observation, info)")
    return returned[0]


def step_answer(returned: Any) -> tuple[Any, float, bool, bool, Mapping[Any, Any]]:
    """Return the five values of `step`, with the reward as a float and the two flags as booleans.

    Args:
        returned: Result of the environment's `step`.

    Returns:
        Observation, reward, terminated, truncated and info; the observation is not checked.

    Raises:
        UnusableError: The result does not have five values, or one of them has the wrong type or magnitude.
    """
    if not isinstance(returned, tuple | list) or len(returned) != 5:
        raise UnusableError(
            f"returned {_brief(returned)} from step, expected (observation, reward, terminated, truncated, info)"
        )
    observation, reward, terminated, truncated, info = returned
    if not isinstance(info, Mapping):
        raise UnusableError(f"returned an info of type {type(info).__name__} from step, expected a dict")
    return observation, _reward(reward), _flag(terminated, "terminated"), _flag(truncated, "truncated"), info


def observation_answer(observation: Any, space: Box) -> np.ndarray:
    """Return a flat copy of an observation.

    Args:
        observation: Observation as the environment returned it.
        space: Observation space of the environment.

    Returns:
        `(size,)`: float64 if the space is floating-point, otherwise the space's dtype.

    Raises:
        UnusableError: The observation's shape or dtype does not fit the space.
    """
    array = np.asarray(observation)
    if array.dtype == space.dtype and array.shape == space.shape:  # fast path for the usual case
        return array.astype(np.float64 if space.dtype.kind == "f" else space.dtype).ravel()
    if array.dtype.kind not in "biuf":
        raise UnusableError(f"returned an observation of dtype {array.dtype}, expected numbers")
    if array.shape != space.shape and _squeezed(array.shape) != _squeezed(space.shape):
        raise UnusableError(f"returned an observation of shape {array.shape}, expected {space.shape}")
    if space.dtype.kind == "f":
        return array.astype(np.float64).ravel()
    kept = array.astype(space.dtype).ravel()
    if array.dtype != space.dtype and not np.array_equal(kept, array.ravel()):
        raise UnusableError(f"returned observations that do not fit the space's dtype {space.dtype}")
    return kept


def descriptor_answer(described: Any, dimensions: int) -> np.ndarray:
    """Return a checked descriptor.

    Args:
        described: Result of the descriptor function.
        dimensions: Expected number of descriptor values.

    Returns:
        `(dimensions,)` float64.

    Raises:
        UnusableError: The result is not `dimensions` finite real numbers of magnitude up to 1e30.
    """
    try:
        array = np.asarray(described)
    except ValueError:
        raise UnusableError(f"returned {_brief(described)}, nested unevenly; expected {dimensions} numbers") from None
    if array.dtype.kind not in "biuf":
        raise UnusableError(f"returned {_brief(described)} of dtype {array.dtype}, expected {dimensions} real numbers")
    if array.shape != (dimensions,):
        raise UnusableError(f"returned shape {array.shape}, expected ({dimensions},)")
    array = array.astype(np.float64)
    if not (np.abs(array) <= MAGNITUDE).all():
        raise UnusableError(f"returned {array.tolist()}, expected finite numbers of magnitude up to {MAGNITUDE:g}")
    return array


def _reward(reward: Any) -> float:
    if not isinstance(reward, float):  # numpy's float64 is one too
        array = np.asarray(reward)
        if array.size != 1 or array.dtype.kind not in "biuf":
            raise UnusableError(f"returned {_brief(reward)} as reward, expected one real number")
        reward = array.reshape(())
    value = float(reward)
    if not abs(value) <= MAGNITUDE:
        raise UnusableError(f"returned the reward {value}, expected a finite number of magnitude up to {MAGNITUDE:g}")
    return value


def _flag(flag: Any, name: str) -> bool:
    if isinstance(flag, bool):
        return flag
    array = np.asarray(flag)
    if array.size != 1 or array.dtype.kind not in "biu":
        raise UnusableError(f"returned {_brief(flag)} as {name}, expected one boolean")
    return bool(array.reshape(()))


def _squeezed(shape: tuple[int, ...]) -> tuple[int, ...]:
    return tuple(length for length in shape if length != 1)


def _brief(value: Any) -> str:
    if isinstance(value, tuple | list):
        return f"{len(value)} values"
    if isinstance(value, np.ndarray):
        return f"an array of shape {value.shape}"
    text = repr(value).splitlines()[0] if value is None or isinstance(value, str | int | float | complex) else ""
    return text[:60] or f"a value of type {type(value).__name__}"
