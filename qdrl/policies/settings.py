"""Settings of policies: the `[policy]` table of an experiment. Importing this module does not import torch."""

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from qdrl.errors import UserError
from qdrl.naming import suggest

Size = Annotated[int, Field(ge=1, le=65536)]


class MlpSettings(BaseModel):
    """Shape of every policy in a run.

    Attributes:
        kind: "mlp", a multi-layer perceptron.
        hidden_sizes: Units of each hidden layer; empty for a linear policy.
        activation: Activation of the hidden layers.
        output: Function of the last layer: "tanh" squashes into [-1, 1], "clip" clips to it, "linear" does neither.
        normalize_observations: Subtract the running mean of the observations and divide by their running deviation.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    kind: Literal["mlp"] = "mlp"
    hidden_sizes: tuple[Size, ...] = (128, 128)
    activation: Literal["relu", "tanh"] = "relu"
    output: Literal["tanh", "clip", "linear"] = "tanh"
    normalize_observations: bool = False


class Convolution(BaseModel):
    """One convolution.

    Attributes:
        filters: Number of filters.
        size: Height and width of the kernel.
        stride: Distance between neighbouring kernel positions.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    filters: Size
    size: Size
    stride: Size = 1


class ConvSettings(BaseModel):
    """Shape of convolutional policies; the defaults are the large network of Such et al. 2017, 4 million parameters.

    Attributes:
        kind: "conv", a convolutional network.
        convolutions: Convolutions in order, the first on the image.
        hidden_sizes: Units of the dense layers that follow.
        padding: "same" divides the size of an image by the stride and rounds up, as in the paper; or "valid".
        activation: Activation of the hidden layers.
        output: Function of the last layer: "tanh", "clip" or "linear". Use "linear" where the largest output is the
            action.
        virtual_batch_norm: Number of reference observations, collected once with random actions, over which hidden
            layers are normalised for each genome (Salimans et al. 2016; Salimans et al. 2017, section 2.2); 0 for none.
        normalize_observations: Not supported for images.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    kind: Literal["conv"]
    convolutions: Annotated[tuple[Convolution, ...], Field(min_length=1)] = (
        Convolution(filters=32, size=8, stride=4),
        Convolution(filters=64, size=4, stride=2),
        Convolution(filters=64, size=3, stride=1),
    )
    hidden_sizes: tuple[Size, ...] = (512,)
    padding: Literal["same", "valid"] = "same"
    activation: Literal["relu", "tanh"] = "relu"
    output: Literal["tanh", "clip", "linear"] = "tanh"
    virtual_batch_norm: Annotated[int, Field(ge=0, le=4096)] = 0
    normalize_observations: Literal[False] = False


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
