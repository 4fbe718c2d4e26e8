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

    def resized(self, hidden_sizes: tuple[int, ...] | None) -> "Mlp":
        """Return the same network with hidden layers of other sizes; itself for the same sizes or None."""
        if hidden_sizes in (None, self.settings.hidden_sizes):
            return self
        settings = self.settings.model_copy(update={"hidden_sizes": hidden_sizes})
        return Mlp(self.observation_size, self.action_size, settings, self.arithmetic)

    def initial(self, generator: np.random.Generator) -> np.ndarray:
        """Return a random genome, `(parameters,)` float32.

        With `initialization` "lecun_uniform", kernels are uniform in +-sqrt(3 / inputs), so that their variance is
        1 / inputs (LeCun et al. 1998, "Efficient BackProp", section 4.6). The QDax family of papers initialises this
        way. With "normalized_columns", the columns of kernels are normal vectors scaled to norm 1, those of the last
        kernel to norm 0.01 (`normc_initializer` in the code of Salimans et al. 2017). Biases are zero.
        """
        row = np.zeros(self.parameters, np.float32)
        layers = self.split(row[None])
        for index, ((inputs, outputs), (kernel, _)) in enumerate(zip(pairwise(self.sizes), layers, strict=True)):
            if self.settings.initialization == "normalized_columns":
                norm = 0.01 if index == len(layers) - 1 else 1.0
                kernel[0] = _normalized_columns(generator, inputs, outputs, norm)
                continue
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
            "initialization": self.settings.initialization,
            "normalize_observations": self.settings.normalize_observations,
            "observation_clip": self.settings.observation_clip,
            "deviation_floor": self.settings.deviation_floor,
            "order": "per layer: kernel (inputs, outputs) row-major, then bias (outputs)",
            "parameters": self.parameters,
        }


def _normalized_columns(generator: np.random.Generator, inputs: int, outputs: int, norm: float) -> np.ndarray:
    """Return a normal matrix `(inputs, outputs)` with columns of this Euclidean norm, the same bits on every CPU."""
    kernel = generator.standard_normal((inputs, outputs), np.float32).astype(np.float64)
    squares = np.zeros(outputs)
    for weights in kernel:  # numpy's sum adds in an order that depends on the processor
        squares += weights * weights
    return kernel * (norm / np.sqrt(squares))
