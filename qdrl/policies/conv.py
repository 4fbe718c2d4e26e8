"""Convolutional policies, computed from flat genome rows; see `qdrl.policies.conv_shape` for their order.

The default network and its initialisation are those of Such et al. 2017 (https://arxiv.org/abs/1712.06567).
"""

from math import prod
from typing import Any

import numpy as np
import torch

from qdrl.compute.arithmetic import PORTABLE, Arithmetic
from qdrl.policies.conv_populations import LibraryConvPopulation, PortableConvPopulation
from qdrl.policies.conv_shape import ConvShape
from qdrl.policies.settings import ConvSettings


class Conv(ConvShape):
    """The shape of one convolutional network; see `qdrl.policies.base.Policy`.

    Args:
        image: Channels, height and width of an observation.
        action_size: Number of outputs.
        settings: Layers.
        arithmetic: How the network is computed.

    Raises:
        ValueError: A kernel is larger than its input.
    """

    def __init__(
        self,
        image: tuple[int, int, int],
        action_size: int,
        settings: ConvSettings,
        arithmetic: Arithmetic = PORTABLE,
    ) -> None:
        super().__init__(image, action_size, settings)
        self.arithmetic: Arithmetic = arithmetic

    def initial(self, generator: np.random.Generator) -> np.ndarray:
        """Return a random genome, `(parameters,)` float32.

        Kernels are normal with variance 1 / inputs, the last layer's a hundredth of that, biases zero: as in the code
        of Such et al. 2017.
        """
        row = np.zeros(self.parameters, np.float32)
        layers = self.split(torch.from_numpy(row)[None])
        for index, (kernel, *rest) in enumerate(layers):
            shape = kernel.shape[1:]
            inputs = prod(shape[1:]) if len(shape) == 4 else shape[0]
            scale = (0.1 if index == len(layers) - 1 else 1.0) / np.sqrt(inputs)
            kernel.copy_(torch.from_numpy(generator.standard_normal(shape, np.float32) * np.float32(scale)))
            if len(rest) == 3:
                rest[1].fill_(1.0)
        return row

    def describe(self) -> dict[str, Any]:
        """Return the description of the genomes that files store."""
        return {
            **self.settings.model_dump(mode="json"),
            "arithmetic": self.arithmetic,
            "image": list(self.image),
            "layers": [self.observation_size, self.action_size],
            "order": "per layer: kernel, bias; kernels (filters, channels, height, width), then (inputs, outputs)",
            "parameters": self.parameters,
        }

    def population(self, slots: int) -> PortableConvPopulation | LibraryConvPopulation:
        """Return networks in `slots` slots."""
        kind = PortableConvPopulation if self.arithmetic == PORTABLE else LibraryConvPopulation
        return kind(self, slots)
