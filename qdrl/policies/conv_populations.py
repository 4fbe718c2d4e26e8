"""Convolutional networks of a whole population, each with its own weights.

Slots are computed separately, so a row never depends on the other rows. `PortableConvPopulation` uses the kernels of
`qdrl.compute.arithmetic`; `LibraryConvPopulation` uses torch, whose bits depend on the processor. One step of the
4-million-parameter network of Such et al. 2017 reads 16 MB of weights, nearly all of its first dense layer, and is
bound by memory bandwidth: the kernels were measured to take 2.3 ms a step, torch 2.2 ms.
"""

from collections.abc import Sequence
from math import prod
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from qdrl.policies.conv_shape import ConvShape

_VBN_FLOOR = 1e-3


class ConvSlots:
    """Slots, their genomes, and the statistics of virtual batch normalisation.

    Args:
        shape: Layers of the networks.
        slots: Number of slots.
    """

    def __init__(self, shape: ConvShape, slots: int) -> None:
        self._shape = shape
        self.genomes = torch.zeros(slots, shape.parameters)
        self._actions = torch.zeros(slots, shape.action_size)
        self._reference: Tensor | None = None
        self._statistics: list[list[Any]] = [[] for _ in range(slots)]

    def set_reference(self, observations: Tensor) -> None:
        """Set the reference observations `(n, observation_size)` of virtual batch normalisation; call before `load`."""
        self._reference = observations.view(-1, *self._shape.image)

    def load(self, slots: Sequence[int], genomes: Tensor) -> None:
        """Copy genomes `(len(slots), parameters)` into slots."""
        for slot, genome in zip(slots, genomes, strict=True):
            self.genomes[slot] = genome
            self._prepare_weights(slot)
            self._statistics[slot] = []
            if self._shape.settings.virtual_batch_norm:
                if self._reference is None:
                    raise RuntimeError("set the reference observations of virtual batch normalisation first")
                self._forward(slot, self._reference, fitting=True)

    def move(self, source: int, target: int) -> None:
        """Copy the network of slot `source` into slot `target`."""
        self.genomes[target] = self.genomes[source]
        self._prepare_weights(target)
        self._statistics[target] = self._statistics[source]

    def act(self, observations: Tensor) -> Tensor:
        """Return the actions of the first slots; see `qdrl.policies.populations.LibraryPopulation.act`."""
        for slot, observation in enumerate(observations):
            self._actions[slot] = self._forward(slot, observation.view(1, *self._shape.image))[0]
        return self._actions[: len(observations)]

    def _prepare_weights(self, slot: int) -> None:
        """Prepare the weights of a slot whose genome changed."""

    def _forward(self, slot: int, values: Tensor, *, fitting: bool = False) -> Tensor:
        """Return the outputs `(n, actions)` of one slot; when fitting, store the statistics of each layer."""
        raise NotImplementedError


class PortableConvPopulation(ConvSlots):
    """Networks computed by the kernels of `qdrl.compute.arithmetic`. See `ConvSlots` for the arguments."""

    def __init__(self, shape: ConvShape, slots: int) -> None:
        from qdrl.compute.arithmetic import kernels

        super().__init__(shape, slots)
        self._kernels = kernels
        self._weights: list[list[np.ndarray]] = [[] for _ in range(slots)]
        convolutions = [kernel for kernel, *_ in shape.shapes() if len(kernel) == 4]
        self._margins = [np.array(shape.margins(index), np.int64) for index in range(len(convolutions))]
        self._patches = [np.zeros(prod(kernel[1:]), np.float32) for kernel in convolutions]
        self._sums = [np.zeros(kernel[0], np.float32) for kernel in convolutions]

    def _prepare_weights(self, slot: int) -> None:
        """Reorder each convolution's weights for the kernels; dense layers have the right order in the genome."""
        genome, layers, start = self.genomes[slot].numpy(), [], 0
        for kernel, units, *normal in self._shape.shapes():
            size, (outputs,) = prod(kernel), units
            weights = genome[start : start + size + outputs]
            if len(kernel) == 4:
                weights = np.concatenate([weights[:size].reshape(outputs, -1).T.reshape(-1), weights[size:]])
            layers.append(weights)
            start += size + outputs + sum(prod(part) for part in normal)
        self._weights[slot] = layers

    def _forward(self, slot: int, values: Tensor, *, fitting: bool = False) -> Tensor:
        settings, kernels, shapes = self._shape.settings, self._kernels, self._shape.shapes()
        current = np.ascontiguousarray(values.numpy())
        for index, (kernel, _, *normal) in enumerate(shapes):
            current = self._layer(current, slot, index, kernel)
            if normal:
                if fitting:
                    self._statistics[slot].append(self._normaliser(current, slot, index))
                kernels.scale(current.reshape(*current.shape[:2], -1), *self._statistics[slot][index])
            activation = settings.activation if index < len(shapes) - 1 else settings.output
            kernels.activate(current.reshape(-1), kernels.ACTIVATIONS[activation])
        return torch.from_numpy(current)

    def _layer(self, values: np.ndarray, slot: int, index: int, kernel: tuple[int, ...]) -> np.ndarray:
        """Return the sums of one layer, `(n, filters, height, width)` or `(n, units)`."""
        weights, rows = self._weights[slot][index], len(values)
        if len(kernel) == 2:
            sums = np.empty((rows, kernel[1]), np.float32)
            self._kernels.dense(values.reshape(rows, -1), weights, sums)
            return sums
        layer = self._shape.settings.convolutions[index]
        images = np.empty((rows, *self._shape.images[index + 1]), np.float32)
        buffers = self._patches[index], self._sums[index]
        self._kernels.convolve(values, weights, layer.size, layer.stride, self._margins[index], *buffers, images)
        return images

    def _normaliser(self, values: np.ndarray, slot: int, index: int) -> tuple[np.ndarray, np.ndarray]:
        """Return the float32 factors and summands that give the channels of these values a layer's scale and offset."""
        scale, offset = (part[slot].numpy() for part in self._shape.split(self.genomes)[index][2:])
        mean, variance = np.empty(len(scale)), np.empty(len(scale))
        self._kernels.moments(values.reshape(*values.shape[:2], -1), mean, variance)
        factor = scale / np.sqrt(variance + _VBN_FLOOR)
        return factor.astype(np.float32), (offset - mean * factor).astype(np.float32)


class LibraryConvPopulation(ConvSlots):
    """Networks computed by torch. See `ConvSlots` for the arguments."""

    def __init__(self, shape: ConvShape, slots: int) -> None:
        super().__init__(shape, slots)
        self._layers = [[part[slot] for part in layer] for slot in range(slots) for layer in shape.split(self.genomes)]
        self._per_slot = len(shape.shapes())

    def _forward(self, slot: int, values: Tensor, *, fitting: bool = False) -> Tensor:
        settings, layers = self._shape.settings, self._layers[slot * self._per_slot : (slot + 1) * self._per_slot]
        for index, (kernel, bias, *normal) in enumerate(layers):
            if kernel.ndim == 4:
                values = self._convolve(values, index, kernel, bias)
            else:
                values = torch.addmm(bias, values.flatten(1), kernel)
            if normal:
                if fitting:
                    self._statistics[slot].append(_normaliser(values, *normal))
                scale, offset = self._statistics[slot][index]
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

    def _convolve(self, values: Tensor, index: int, kernel: Tensor, bias: Tensor) -> Tensor:
        if self._shape.settings.padding == "same":
            (top, left), (bottom, right) = (self._shape.margins(index, before=before) for before in (True, False))
            values = functional.pad(values, (left, right, top, bottom))
        return functional.conv2d(values, kernel, bias, stride=self._shape.settings.convolutions[index].stride)


def _normaliser(values: Tensor, scale: Tensor, offset: Tensor) -> tuple[Tensor, Tensor]:
    """Return the factor and summand that give the channels of these values a scale and offset."""
    axes, shape = [0, *range(2, values.ndim)], (1, -1, *([1] * (values.ndim - 2)))
    mean, variance = values.mean(axes), values.var(axes, unbiased=False)
    factor = scale / (variance + _VBN_FLOOR).sqrt()
    return factor.view(shape), (offset - mean * factor).view(shape)
