"""Convolutional networks for a whole population, each with weights of its own, straight from flat genome rows.

Order of the flat row: for each convolution its kernel, `(filters, channels, height, width)` row-major, and its bias
`(filters,)`; then for each dense layer its kernel, `(inputs, outputs)` row-major, and its bias. With virtual batch
normalisation each hidden layer's scale and offset, one a channel, follow its bias.

Every slot computes alone: weights differ, so that nothing is shared but the calls, and a row never depends on its
neighbours. One step of the 4-million-parameter network of Such et al. 2017 reads 16 MB of weights, nearly all of them
of its first dense layer; memory sets the pace.
"""

from collections.abc import Sequence
from itertools import pairwise
from math import prod
from typing import Annotated, Any, Literal

import numpy as np
import torch
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor
from torch.nn import functional

Size = Annotated[int, Field(ge=1, le=65536)]
_VBN_FLOOR = 1e-3


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

    Raises:
        ValueError: a kernel is larger than what it slides over.
    """

    def __init__(self, image: tuple[int, int, int], action_size: int, settings: ConvSettings) -> None:
        self.image, self.settings, self.action_size = image, settings, action_size
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
            "image": list(self.image),
            "layers": [self.observation_size, self.action_size],
            "order": "per layer: kernel, bias; kernels (filters, channels, height, width), then (inputs, outputs)",
            "parameters": self.parameters,
        }

    def population(self, slots: int) -> "ConvPopulation":
        """Networks that act side by side."""
        return ConvPopulation(self, slots)


class ConvPopulation:
    """Networks of a fixed number of slots; slot i computes the genome last loaded into it.

    Args:
        shape: of the networks.
        slots: how many.
    """

    def __init__(self, shape: Conv, slots: int) -> None:
        self._shape = shape
        self.genomes = torch.zeros(slots, shape.parameters)
        self._layers = [[part[slot] for part in layer] for slot in range(slots) for layer in shape.split(self.genomes)]
        self._per_slot = len(shape.shapes())
        self._actions = torch.zeros(slots, shape.action_size)
        self._reference: Tensor | None = None
        self._normalisation: list[list[tuple[Tensor, Tensor]]] = [[] for _ in range(slots)]

    def refer_to(self, observations: Tensor) -> None:
        """Observations `(n, observation_size)` that virtual batch normalisation is over; before the first `load`."""
        self._reference = observations.view(-1, *self._shape.image)

    def load(self, slots: Sequence[int], genomes: Tensor) -> None:
        """Put genomes `(len(slots), parameters)` into slots."""
        for slot, genome in zip(slots, genomes, strict=True):
            self.genomes[slot] = genome
            self._normalisation[slot] = []
            if self._shape.settings.virtual_batch_norm:
                if self._reference is None:
                    raise RuntimeError("virtual batch normalisation needs its reference observations first")
                self._forward(slot, self._reference, learning=True)

    def move(self, source: int, target: int) -> None:
        """Let slot `target` compute what slot `source` computes."""
        self.genomes[target] = self.genomes[source]
        self._normalisation[target] = self._normalisation[source]

    def act(self, observations: Tensor) -> Tensor:
        """Actions of the first slots; see `qdrl.policies.mlp.Population.act`."""
        for slot, observation in enumerate(observations):
            self._actions[slot] = self._forward(slot, observation.view(1, *self._shape.image))[0]
        return self._actions[: len(observations)]

    def _forward(self, slot: int, values: Tensor, *, learning: bool = False) -> Tensor:
        """Outputs `(n, actions)` of one slot's network; learning, it keeps what normalises each layer."""
        settings, layers = self._shape.settings, self._layers[slot * self._per_slot : (slot + 1) * self._per_slot]
        for index, (kernel, bias, *normal) in enumerate(layers):
            if kernel.ndim == 4:
                values = self._convolve(values, kernel, bias, settings.convolutions[index].stride)
            else:
                values = torch.addmm(bias, values.flatten(1), kernel)
            if normal:
                if learning:
                    self._normalisation[slot].append(_normaliser(values, *normal))
                scale, offset = self._normalisation[slot][index]
                values = values * scale + offset
            if index < len(layers) - 1:
                values = values.relu_() if settings.activation == "relu" else values.tanh_()
        match settings.output:
            case "tanh":
                return values.tanh_()
            case "clip":
                return values.clamp_(-1.0, 1.0)
            case _:
                return values

    def _convolve(self, values: Tensor, kernel: Tensor, bias: Tensor, stride: int) -> Tensor:
        if self._shape.settings.padding == "same":
            height, width = (_same_padding(size, kernel.shape[2], stride) for size in values.shape[2:])
            values = functional.pad(values, (*width, *height))
        return functional.conv2d(values, kernel, bias, stride=stride)


def _normaliser(values: Tensor, scale: Tensor, offset: Tensor) -> tuple[Tensor, Tensor]:
    """What makes these values' channels have the given scale and offset: values * first + second."""
    axes, shape = [0, *range(2, values.ndim)], (1, -1, *([1] * (values.ndim - 2)))
    mean, variance = values.mean(axes), values.var(axes, unbiased=False)
    factor = scale / (variance + _VBN_FLOOR).sqrt()
    return factor.view(shape), (offset - mean * factor).view(shape)


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
