"""The part of a task that an archive file describes."""

from collections.abc import Iterable, Mapping
from typing import Any, Protocol

import numpy as np


class Described(Protocol):
    """A task as an archive file describes it; every `qdrl.tasks.base.Task` is one.

    Attributes:
        spec: axes, fitness name, bounds and `describe()`, see `qdrl.tasks.base.TaskSpec`.
        parameters: length of a genome's weights.
    """

    spec: Any
    parameters: int

    @property
    def mjcf(self) -> str | None:
        """The MuJoCo model as XML; None where the task uses none."""
        ...

    @property
    def assets(self) -> Mapping[str, bytes]:
        """Files that the MuJoCo model names, by name."""
        ...

    def describe_policy(self) -> dict[str, Any] | None:
        """Return what `/meta/policy` holds; None where genomes are not policies."""
        ...

    def state_dict(self, generations: Iterable[int]) -> dict[str, np.ndarray] | None:
        """Return the observation statistics of these generations; None where policies do not normalise."""
        ...
