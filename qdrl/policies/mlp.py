"""Multi-layer perceptrons for a whole population at once, computed from flat genome rows.

A flat row holds, for each layer, its kernel `(inputs, outputs)` row-major, then its bias `(outputs,)`.
"""

from itertools import pairwise
from typing import Any

import numpy as np
import torch

from qdrl.compute.arithmetic import PORTABLE, Arithmetic
from qdrl.policies.populations import LibraryPopulation, PortablePopulation, count_parameters, split_layers
from qdrl.policies.settings import MlpSettings


class Mlp:
    """The shape of one perceptron; see `qdrl.policies.base.Policy`.

    Args:
        observation_size: Number of inputs.
        action_size: Number of outputs.
        settings: Layers and squashing.
        arithmetic: How the network is computed.
    """

    def __init__(
        self, observation_size: int, action_size: int, settings: MlpSettings, arithmetic: Arithmetic = PORTABLE
    ) -> None:
        self.settings = settings
        self.arithmetic: Arithmetic = arithmetic
        self.sizes = (observation_size, *settings.hidden_sizes, action_size)
        self.observation_size, self.action_size = observation_size, action_size
        self.parameters = count_parameters(self.sizes)

    def initial(self, generator: np.random.Generator) -> np.ndarray:
        """Return a random genome, `(parameters,)` float32.

        Kernels are uniform in +-sqrt(3 / inputs), so that their variance is 1 / inputs (LeCun et al. 1998,
        "Efficient BackProp", section 4.6); biases are zero. The QDax family of papers initialises this way.
        """
        row = np.zeros(self.parameters, np.float32)
        for (inputs, outputs), (kernel, _) in zip(pairwise(self.sizes), self.split(row[None]), strict=True):
            bound = np.sqrt(3.0 / inputs)
            kernel[0] = generator.uniform(-bound, bound, (inputs, outputs))
        return row

    def split(self, genomes: Any) -> list[tuple[Any, Any]]:
        """Return views of flat rows as layers.

        Args:
            genomes: `(rows, parameters)`, torch or numpy.

        Returns:
            For each layer, kernels `(rows, inputs, outputs)` and biases `(rows, outputs)`.
        """
        return split_layers(genomes, self.sizes)

    def population(self, slots: int, device: str | torch.device = "cpu") -> PortablePopulation | LibraryPopulation:
        """Return networks in `slots` slots on a device."""
        functions = self.settings.activation, self.settings.output
        if self.arithmetic == PORTABLE and torch.device(device).type == "cpu":
            return PortablePopulation(self.sizes, *functions, slots)
        return LibraryPopulation(self.sizes, *functions, slots, device)

    def describe(self) -> dict[str, Any]:
        """Return the description of the genomes that files store."""
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
