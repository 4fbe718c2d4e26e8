"""What an episode was, as a descriptor function receives it."""

from dataclasses import dataclass, field
from typing import Any

import numpy as np


@dataclass
class Trajectory:
    """One episode.

    Everything in it is a copy: an environment may fill the same arrays and dictionaries at every step.

    Attributes:
        observations: `(steps + 1, observation_size)`, the first one included, flattened. Integers and booleans keep
            the environment's dtype (images stay uint8); floating-point numbers are float64. With
            `task.keep_observations = "last"`, `(1, observation_size)`: the last one.
        actions: `(steps, ...)` as the environment got them.
        rewards: `(steps,)` float64.
        infos: the environment's info of each step.
        terminated: whether the environment ended the episode, as opposed to a time limit.
        env: the environment after its last step.
    """

    observations: Any = field(default_factory=list)
    actions: Any = field(default_factory=list)
    rewards: Any = field(default_factory=list)
    infos: list[Any] = field(default_factory=list)
    terminated: bool = False
    env: Any = None

    def as_arrays(self) -> "Trajectory":
        """Return the same episode with observations, actions and rewards as arrays."""
        return Trajectory(
            np.asarray(self.observations),
            np.asarray(self.actions),
            np.asarray(self.rewards),
            self.infos,
            self.terminated,
            self.env,
        )


def copied(value: Any) -> Any:
    """Return a copy of arrays and of plain containers at any depth; other objects are returned as they are."""
    if isinstance(value, np.ndarray):
        return value.copy()
    if type(value) is dict:
        return {key: copied(item) for key, item in value.items()}
    if type(value) in (list, tuple):
        return type(value)(copied(item) for item in value)
    return value
