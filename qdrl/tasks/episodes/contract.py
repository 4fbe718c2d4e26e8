"""Checks of what a task's functions and worlds return: type, shape and dtype of tensors."""

from typing import Any

import torch
from torch import Tensor

from qdrl.errors import UserError
from qdrl.tasks.episodes.worlds import EpisodeWorlds, ForwardingWorlds

_ANSWER = "(rewards, terminated)"


def check_tensor(what: str, value: Any, shape: tuple[int, ...], dtype: torch.dtype, hint: str = "") -> None:
    """Check a tensor that a user's code returned.

    Args:
        what: Code and value in the message, such as "CartWorlds.observe returned".
        value: The value.
        shape: Expected shape.
        dtype: Expected dtype.
        hint: What the expected value holds, for the message.

    Raises:
        UserError: The value is no tensor, has another shape or dtype, or carries gradients.
    """
    if not isinstance(value, Tensor):
        raise UserError(f"{what} {_brief(value)}, expected a tensor of shape {shape} and dtype {_name(dtype)}{hint}")
    if value.shape != shape or value.dtype != dtype:
        raise UserError(
            f"{what} a tensor of shape {tuple(value.shape)} and dtype {_name(value.dtype)}, expected shape {shape}"
            f" and dtype {_name(dtype)}{hint}"
        )
    if value.requires_grad:
        raise UserError(f"{what} a tensor that requires gradients, expected one without: compute it in torch.no_grad()")


def check_pair(what: str, value: Any, expected: str) -> tuple[Any, Any]:
    """Return the two values that a user's code returned.

    Args:
        what: See `check_tensor`.
        value: The value.
        expected: Names of the two values, in parentheses.

    Raises:
        UserError: The value is not a pair.
    """
    if not isinstance(value, tuple | list) or len(value) != 2:
        raise UserError(f"{what} {_brief(value)}, expected {expected}")
    return value[0], value[1]


def check_descriptor(worlds: EpisodeWorlds, descriptor: Any, dimensions: int) -> None:
    """Check the descriptor of an episode.

    Args:
        worlds: Worlds that returned it.
        descriptor: The value.
        dimensions: Expected number of descriptor values.

    Raises:
        UserError: The value is not `(dimensions,)` float64.
    """
    check_tensor(
        f"{type(worlds).__name__}.descriptor returned", descriptor, (dimensions,), torch.float64, ": one value per axis"
    )


class CheckedWorlds(ForwardingWorlds):
    """Worlds that check what `observe` and `step` of other worlds return; see `EpisodeWorlds`.

    Both raise `UserError` with one line that names the class and the method.

    Args:
        worlds: The other worlds.
        observation_size: Expected length of an observation.
    """

    def __init__(self, worlds: EpisodeWorlds, observation_size: int) -> None:
        super().__init__(worlds)
        self._name, self._size = type(worlds).__name__, observation_size

    def observe(self, ages: Tensor) -> Tensor:
        """Return the observations of the first worlds."""
        observations = self._worlds.observe(ages)
        check_tensor(f"{self._name}.observe returned", observations, (len(ages), self._size), torch.float32)
        return observations

    def step(self, actions: Tensor) -> tuple[Tensor, Tensor]:
        """Apply actions; return rewards and terminated."""
        rewards, terminated = check_pair(f"{self._name}.step returned", self._worlds.step(actions), _ANSWER)
        shape, order = (len(actions),), f"; it returns {_ANSWER}"
        check_tensor(f"{self._name}.step returned as rewards", rewards, shape, torch.float64, order)
        check_tensor(f"{self._name}.step returned as terminated", terminated, shape, torch.bool, order)
        return rewards, terminated


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def _brief(value: Any) -> str:
    """Return a value's type in words, with shape and dtype or length where it has them."""
    if isinstance(value, Tensor):
        return f"a tensor of shape {tuple(value.shape)} and dtype {_name(value.dtype)}"
    if isinstance(value, tuple | list):
        return f"a {type(value).__name__} of {len(value)} values"
    return "None" if value is None else f"a value of type {type(value).__module__}.{type(value).__qualname__}"
