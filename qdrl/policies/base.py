"""What a policy is to tasks and rollouts, whatever its network."""

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import numpy as np
from torch import Tensor

from qdrl.compute.portable import PORTABLE, Arithmetic
from qdrl.errors import UserError
from qdrl.naming import suggest
from qdrl.policies.conv import Conv, ConvSettings
from qdrl.policies.mlp import Mlp, MlpSettings

PolicySettings = MlpSettings | ConvSettings


def policy_settings(table: Mapping[str, Any] | None) -> type[MlpSettings | ConvSettings]:
    """The settings that a `[policy]` table is of.

    Raises:
        UserError: there is no such kind.
    """
    kinds: dict[str, type[MlpSettings | ConvSettings]] = {"mlp": MlpSettings, "conv": ConvSettings}
    kind = str((table or {}).get("kind", "mlp"))
    if kind not in kinds:
        raise UserError(f"policy.kind: no policy '{kind}'{suggest(kind, kinds)}")
    return kinds[kind]


class Players(Protocol):
    """Networks of a fixed number of slots; slot i computes the genome last loaded into it."""

    def load(self, slots: Sequence[int], genomes: Tensor) -> None:
        """Put genomes `(len(slots), parameters)` into slots."""
        ...

    def move(self, source: int, target: int) -> None:
        """Let slot `target` compute what slot `source` computes."""
        ...

    def act(self, observations: Tensor) -> Tensor:
        """Actions `(n, action_size)` of the first slots, which the next call overwrites."""
        ...


class Policy(Protocol):
    """The shape of one network.

    Attributes:
        parameters: length of a genome.
        observation_size: inputs.
        action_size: outputs.
    """

    parameters: int
    observation_size: int
    action_size: int

    @property
    def settings(self) -> PolicySettings: ...

    def initial(self, generator: np.random.Generator) -> np.ndarray:
        """A random genome, `(parameters,)` float32."""
        ...

    def describe(self) -> dict[str, Any]:
        """What a stored file says about its genomes."""
        ...

    def population(self, slots: int) -> Players:
        """Networks that act side by side."""
        ...


def make_policy(
    settings: PolicySettings,
    observation_size: int,
    action_size: int,
    image: tuple[int, int, int] | None = None,
    arithmetic: Arithmetic = PORTABLE,
) -> Mlp | Conv:
    """The policy that settings describe.

    Args:
        settings: its layers.
        observation_size: numbers in an observation.
        action_size: numbers in an action.
        image: channels, height and width, where an observation is one.
        arithmetic: how the network's numbers are computed.

    Raises:
        UserError: convolutions over what is no image, or larger than it.
    """
    if isinstance(settings, MlpSettings):
        return Mlp(observation_size, action_size, settings, arithmetic)
    if image is None:
        raise UserError("policy.kind: convolutions need a task that shows images; use kind = 'mlp'")
    try:
        return Conv(image, action_size, settings, arithmetic)
    except ValueError as error:
        raise UserError(f"policy.convolutions: {error}") from error
