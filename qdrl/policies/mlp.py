"""Multi-layer perceptrons for a whole population at once, straight from flat genome rows.

Order of the flat row: for each layer its kernel, `(inputs, outputs)` row-major, then its bias `(outputs,)`.
"""

from itertools import pairwise
from typing import Annotated, Any, Literal

import numpy as np
import torch
from pydantic import BaseModel, ConfigDict, Field

from qdrl.compute.portable import PORTABLE, Arithmetic
from qdrl.policies.populations import LibraryPopulation, PortablePopulation


class MlpSettings(BaseModel):
    """Shape of every policy in a run.

    Attributes:
        kind: "mlp".
        hidden_sizes: units of each hidden layer; empty for a linear policy.
        activation: of the hidden layers.
        output: squashes the last layer into [-1, 1]: "tanh" smoothly, "clip" by cutting; "linear" leaves it.
        normalize_observations: subtract the running mean and divide by the running deviation of what policies see.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    kind: Literal["mlp"] = "mlp"
    hidden_sizes: tuple[Annotated[int, Field(ge=1, le=65536)], ...] = (128, 128)
    activation: Literal["relu", "tanh"] = "relu"
    output: Literal["tanh", "clip", "linear"] = "tanh"
    normalize_observations: bool = False


class Mlp:
    """The shape of one network: how a flat row is cut into layers, and how a first row is drawn.

    Args:
        observation_size: inputs.
        action_size: outputs.
        settings: layers and squashing.
        arithmetic: how the network's numbers are computed.
    """

    def __init__(
        self, observation_size: int, action_size: int, settings: MlpSettings, arithmetic: Arithmetic = PORTABLE
    ) -> None:
        self.settings = settings
        self.arithmetic: Arithmetic = arithmetic
        self.sizes = (observation_size, *settings.hidden_sizes, action_size)
        self.observation_size, self.action_size = observation_size, action_size
        self.parameters = sum(inputs * outputs + outputs for inputs, outputs in pairwise(self.sizes))

    def initial(self, generator: np.random.Generator) -> np.ndarray:
        """A random genome, `(parameters,)` float32.

        Kernels are uniform in +-sqrt(3 / inputs), so that their variance is 1 / inputs (LeCun et al. 1998,
        "Efficient BackProp", section 4.6), biases zero: the initialisation of the QDax family of papers.
        """
        row = np.zeros(self.parameters, np.float32)
        for kernel, _ in self.split(row[None]):
            bound = np.sqrt(3.0 / kernel.shape[1])
            kernel[0] = generator.uniform(-bound, bound, kernel.shape[1:])
        return row

    def split(self, genomes: Any) -> list[tuple[Any, Any]]:
        """Views of flat rows as layers.

        Args:
            genomes: `(rows, parameters)`, torch or numpy.

        Returns:
            for each layer, kernels `(rows, inputs, outputs)` and biases `(rows, outputs)`.
        """
        layers, start = [], 0
        for inputs, outputs in pairwise(self.sizes):
            middle, end = start + inputs * outputs, start + inputs * outputs + outputs
            layers.append((genomes[:, start:middle].reshape(-1, inputs, outputs), genomes[:, middle:end]))
            start = end
        return layers

    def population(self, slots: int, device: str | torch.device = "cpu") -> PortablePopulation | LibraryPopulation:
        """Return networks that act side by side."""
        if self.arithmetic == PORTABLE and torch.device(device).type == "cpu":
            return PortablePopulation(self, slots)
        return LibraryPopulation(self, slots, device)

    def describe(self) -> dict[str, Any]:
        """What a stored file says about its genomes."""
        return {
            "kind": "mlp",
            "arithmetic": self.arithmetic,
            "layers": list(self.sizes),
            "activation": self.settings.activation,
            "output": self.settings.output,
            "normalize_observations": self.settings.normalize_observations,
            "order": "per layer: kernel (inputs, outputs) row-major, then bias (outputs)",
            "parameters": self.parameters,
        }
