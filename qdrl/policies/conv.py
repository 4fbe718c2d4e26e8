"""Convolutional networks for a whole population, each with weights of its own, straight from flat genome rows.

Order of the flat row: for each convolution its kernel, `(filters, channels, height, width)` row-major, and its bias
`(filters,)`; then for each dense layer its kernel, `(inputs, outputs)` row-major, and its bias. With virtual batch
normalisation each hidden layer's scale and offset, one a channel, follow its bias.
"""

from itertools import pairwise
from math import prod
from typing import Annotated, Any, Literal

import numpy as np
import torch
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor

from qdrl.compute.portable import PORTABLE, Arithmetic
from qdrl.policies.conv_populations import LibraryConvPopulation, PortableConvPopulation

Size = Annotated[int, Field(ge=1, le=65536)]


class Convolution(BaseModel):
    """One convolution.

    Attributes:
        filters: how many.
        size: height and width of the kernel.
        stride: steps between its places.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    filters: Size
    size: Size
    stride: Size = 1


class ConvSettings(BaseModel):
    """Shape of convolutional policies; defaults are the large network of Such et al. 2017, 4 million parameters.

    Attributes:
        kind: "conv".
        convolutions: from the image on.
        hidden_sizes: units of dense layers after them.
        padding: "same", as there: an image's size is divided by the stride, rounded up; or "valid".
        activation: of hidden layers.
        output: squashes the last layer: "tanh", "clip" or "linear"; "linear" where the largest output is the action.
        virtual_batch_norm: observations, seen by random actions once, that hidden layers are normalised over, anew for
            each genome (Salimans et al. 2016; Salimans et al. 2017, section 2.2); 0 for none.
        normalize_observations: not for images.
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


class Conv:
    """The shape of one network; see `qdrl.policies.Policy`.

    Args:
        image: channels, height and width of an observation.
        action_size: outputs.
        settings: layers.
        arithmetic: how the network's numbers are computed.

    Raises:
        ValueError: a kernel is larger than what it slides over.
    """

    def __init__(
        self,
        image: tuple[int, int, int],
        action_size: int,
        settings: ConvSettings,
        arithmetic: Arithmetic = PORTABLE,
    ) -> None:
        self.image, self.settings, self.action_size = image, settings, action_size
        self.arithmetic: Arithmetic = arithmetic
        self.observation_size = prod(image)
        self.images = _images(image, settings)
        dense = [prod(self.images[-1]), *settings.hidden_sizes, action_size]
        self._convolutions = [
            (layer.filters, inputs[0], layer.size, layer.size)
            for layer, inputs in zip(settings.convolutions, self.images, strict=False)
        ]
        self._dense = list(pairwise(dense))
        self.parameters = sum(prod(shape) for layer in self.shapes() for shape in layer)

    def shapes(self) -> list[list[tuple[int, ...]]]:
        """Of each layer's kernel, bias and, normalised, scale and offset, in the order of the flat row."""
        kernels = [*self._convolutions, *self._dense]
        layers = []
        for index, kernel in enumerate(kernels):
            units = (kernel[0] if len(kernel) == 4 else kernel[1],)
            normalised = self.settings.virtual_batch_norm > 0 and index < len(kernels) - 1
            layers.append([kernel, units, units, units] if normalised else [kernel, units])
        return layers

    def split(self, genomes: Tensor) -> list[list[Tensor]]:
        """Views of flat rows `(rows, parameters)` as each layer's parts, `(rows, *shape)`."""
        layers, start = [], 0
        for shapes in self.shapes():
            parts = []
            for shape in shapes:
                end = start + prod(shape)
                parts.append(genomes[:, start:end].view(-1, *shape))
                start = end
            layers.append(parts)
        return layers

    def initial(self, generator: np.random.Generator) -> np.ndarray:
        """A random genome, `(parameters,)` float32.

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
        """What a stored file says about its genomes."""
        return {
            **self.settings.model_dump(mode="json"),
            "arithmetic": self.arithmetic,
            "image": list(self.image),
            "layers": [self.observation_size, self.action_size],
            "order": "per layer: kernel, bias; kernels (filters, channels, height, width), then (inputs, outputs)",
            "parameters": self.parameters,
        }

    def margins(self, index: int, *, before: bool = True) -> tuple[int, int]:
        """Return the rows and columns of zeros before, or after, the input of a convolution."""
        layer, (_, *sides) = self.settings.convolutions[index], self.images[index]
        if self.settings.padding == "valid":
            return 0, 0
        height, width = (_same_padding(side, layer.size, layer.stride)[0 if before else 1] for side in sides)
        return height, width

    def population(self, slots: int) -> PortableConvPopulation | LibraryConvPopulation:
        """Return networks that act side by side."""
        kind = PortableConvPopulation if self.arithmetic == PORTABLE else LibraryConvPopulation
        return kind(self, slots)


def _images(image: tuple[int, int, int], settings: ConvSettings) -> list[tuple[int, int, int]]:
    """Channels, height and width before each convolution, and after the last."""
    images = [image]
    for layer in settings.convolutions:
        _, *size = images[-1]
        if settings.padding == "same":
            sides = [-(-side // layer.stride) for side in size]
        else:
            sides = [(side - layer.size) // layer.stride + 1 for side in size]
            if min(side - layer.size for side in size) < 0:
                raise ValueError(f"a kernel of {layer.size} does not fit into {size[0]} x {size[1]} points")
        images.append((layer.filters, sides[0], sides[1]))
    return images


def _same_padding(side: int, kernel: int, stride: int) -> tuple[int, int]:
    """Zeros before and after, as TensorFlow's SAME has them."""
    total = max((-(-side // stride) - 1) * stride + kernel - side, 0)
    return total // 2, total - total // 2
