"""The interface between policies and rollouts, independent of the kind of network."""

from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np
from torch import Tensor

from qdrl.compute.arithmetic import PORTABLE, Arithmetic
from qdrl.errors import UserError
from qdrl.policies.conv import Conv
from qdrl.policies.mlp import Mlp
from qdrl.policies.settings import MlpSettings, PolicySettings


class Population(Protocol):
    """Networks in a fixed number of slots; slot i computes the genome last loaded into it."""

    def load(self, slots: Sequence[int], genomes: Tensor) -> None:
        """Copy genomes `(len(slots), parameters)` into slots."""
        ...

    def move(self, source: int, target: int) -> None:
        """Copy the network of slot `source` into slot `target`."""
        ...

    def act(self, observations: Tensor) -> Tensor:
        """Return the actions `(n, action_size)` of the first n slots; the next call overwrites them."""
        ...


class Policy(Protocol):
    """The shape of one network.

    Attributes:
        parameters: Length of a genome.
        observation_size: Number of inputs.
        action_size: Number of outputs.
    """

    parameters: int
    observation_size: int
    action_size: int

    @property
    def settings(self) -> PolicySettings:
        """Layers and squashing."""
        ...

    def initial(self, generator: np.random.Generator) -> np.ndarray:
        """Return a random genome, `(parameters,)` float32."""
        ...

    def describe(self) -> dict[str, Any]:
        """Return the description of the genomes that files store."""
        ...

    def population(self, slots: int) -> Population:
        """Return networks in `slots` slots."""
        ...


def make_policy(
    settings: PolicySettings,
    observation_size: int,
    action_size: int,
    image: tuple[int, int, int] | None = None,
    arithmetic: Arithmetic = PORTABLE,
) -> Mlp | Conv:
    """Return the policy that settings describe.

    Args:
        settings: Layers and squashing.
        observation_size: Length of an observation.
        action_size: Length of an action.
        image: Channels, height and width of an observation that is an image; otherwise None.
        arithmetic: How the network is computed.

    Raises:
        UserError: The policy is convolutional and observations are not images, or a kernel is larger than its input.
    """
    if isinstance(settings, MlpSettings):
        return Mlp(observation_size, action_size, settings, arithmetic)
    if image is None:
        raise UserError("policy.kind: convolutions need a task with image observations; use kind = 'mlp'")
    try:
        return Conv(image, action_size, settings, arithmetic)
    except ValueError as error:
        raise UserError(f"policy.convolutions: {error}") from error
