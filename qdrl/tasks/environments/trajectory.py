"""The record of an episode that a descriptor function receives."""

from dataclasses import dataclass, field
from typing import Any

import numpy as np


@dataclass
class Trajectory:
    """The record of one episode.

    Observations, actions and infos are copies, because an environment may reuse its arrays and dictionaries.

    Attributes:
        observations: `(steps + 1, observation_size)`, flattened, from the first observation to the last. Integers and
            booleans keep the environment's dtype (images stay uint8); floating-point numbers are float64. With
            `task.keep_observations = "last"` only the last observation, `(1, observation_size)`.
        actions: `(steps, ...)`, as the environment received them.
        rewards: `(steps,)` float64.
        infos: The environment's info of each step.
        terminated: Whether the environment, and not a time limit, ended the episode.
        env: The environment after its last step.
    """

    observations: Any = field(default_factory=list)
    actions: Any = field(default_factory=list)
    rewards: Any = field(default_factory=list)
    infos: list[Any] = field(default_factory=list)
    terminated: bool = False
    env: Any = None

    def as_arrays(self) -> "Trajectory":
        """Return the episode with observations, actions and rewards as arrays."""
        return Trajectory(
            np.asarray(self.observations),
            np.asarray(self.actions),
            np.asarray(self.rewards),
            self.infos,
            self.terminated,
            self.env,
        )


def copied(value: Any) -> Any:
    """Return a copy of arrays and of dicts, lists and tuples at any depth; other objects are returned unchanged."""
    if isinstance(value, np.ndarray):
        return value.copy()
    if type(value) is dict:
        return {key: copied(item) for key, item in value.items()}
    if type(value) in (list, tuple):
        return type(value)(copied(item) for item in value)
    return value
