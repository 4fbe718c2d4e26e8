"""Settings of policies: the `[policy]` table of an experiment. Importing this module does not import torch."""

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import Field

from qdrl.errors import UserError
from qdrl.naming import suggest
from qdrl.settings.base import SettingsModel

Size = Annotated[int, Field(ge=1, le=65536)]
Initialization = Literal["lecun_uniform", "normalized_columns"]


class MlpSettings(SettingsModel):
    """Shape of every policy in a run."""

    kind: Literal["mlp"] = "mlp"
    """Kind of policy: "mlp", a multi-layer perceptron."""
    hidden_sizes: tuple[Size, ...] = (128, 128)
    """Units of each hidden layer; empty for a linear policy."""
    activation: Literal["relu", "tanh"] = "relu"
    """Activation of the hidden layers."""
    output: Literal["tanh", "clip", "linear"] = "tanh"
    """Function of the last layer: "tanh" squashes into [-1, 1], "clip" clips to it, "linear" does neither."""
    initialization: Initialization = "lecun_uniform"
    """Weights of initial genomes: "lecun_uniform", uniform with variance 1 / inputs, as in QDax; or
    "normalized_columns", as in the code of Salimans et al. 2017 and Such et al. 2017: the incoming weights of each unit
    are normal, scaled to a Euclidean norm of 1, in the output layer of 0.01. Biases are zero."""
    normalize_observations: bool = False
    """Subtract the running mean of the observations and divide by their running deviation."""
    observation_clip: Annotated[float, Field(gt=0)] = 10.0
    """Bound to which normalised observations are clipped; `inf` for none. 5 in the code of Salimans et al. 2017."""
    deviation_floor: Annotated[float, Field(gt=0, allow_inf_nan=False)] = 0.01
    """Lower bound of the deviation of observations. 0.1, the square root of a variance of 0.01, in the code of Salimans
    et al. 2017 and Toklu et al. 2020."""


class Convolution(SettingsModel):
    """One convolution."""

    filters: Size
    """Number of filters."""
    size: Size
    """Height and width of the kernel."""
    stride: Size = 1
    """Distance between neighbouring kernel positions."""


class ConvSettings(SettingsModel):
    """Shape of convolutional policies; the defaults are the large network of Such et al. 2017, 4 million parameters."""

    kind: Literal["conv"]
    """Kind of policy: "conv", a convolutional network."""
    convolutions: Annotated[tuple[Convolution, ...], Field(min_length=1)] = (
        Convolution(filters=32, size=8, stride=4),
        Convolution(filters=64, size=4, stride=2),
        Convolution(filters=64, size=3, stride=1),
    )
    """Convolutions in order, the first on the image."""
    hidden_sizes: tuple[Size, ...] = (512,)
    """Units of the dense layers that follow."""
    padding: Literal["same", "valid"] = "same"
    """Padding: "same" divides the size of an image by the stride and rounds up, as in the paper; or "valid"."""
    activation: Literal["relu", "tanh"] = "relu"
    """Activation of the hidden layers."""
    output: Literal["tanh", "clip", "linear"] = "tanh"
    """Function of the last layer: "tanh", "clip" or "linear". Use "linear" where the largest output is the action."""
    virtual_batch_norm: Annotated[int, Field(ge=0, le=4096)] = 0
    """Number of reference observations, collected once with random actions, over which hidden layers are normalised for
    each genome (Salimans et al. 2016; Salimans et al. 2017, section 2.2); 0 for none."""
    normalize_observations: Literal[False] = False
    """Not supported for images."""


PolicySettings = MlpSettings | ConvSettings


def policy_settings(table: Mapping[str, Any] | None) -> type[MlpSettings | ConvSettings]:
    """Return the settings class for a `[policy]` table, by its `kind`.

    Raises:
        UserError: `kind` names no policy.
    """
    kinds: dict[str, type[MlpSettings | ConvSettings]] = {"mlp": MlpSettings, "conv": ConvSettings}
    kind = str((table or {}).get("kind", "mlp"))
    if kind not in kinds:
        raise UserError(f"policy.kind: no policy '{kind}'{suggest(kind, kinds)}")
    return kinds[kind]
