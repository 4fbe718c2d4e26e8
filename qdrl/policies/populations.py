"""Perceptrons of a whole population, computed by portable kernels on the CPU or by BLAS and torch.

A row's actions never depend on the other rows or on their number. `PortablePopulation` computes one slot at a time.
`LibraryPopulation` calls numpy's product one row at a time on the CPU, because torch's batched product was measured
to change the last bits of 128 -> 6 and 128 -> 17 layers with the batch size; on other devices it calls torch's product.
"""

from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from torch import Tensor

from qdrl.compute.arrays import native

_ACTIVATIONS = {"relu": torch.relu_, "tanh": torch.tanh_}
_SQUASHES = {"tanh": torch.tanh_, "clip": lambda values: values.clamp_(-1.0, 1.0), "linear": lambda values: values}


def count_parameters(sizes: Sequence[int]) -> int:
    """Return the length of a flat row of a perceptron with these layer sizes, inputs first."""
    return sum(inputs * outputs + outputs for inputs, outputs in pairwise(sizes))


def split_layers(genomes: Any, sizes: Sequence[int]) -> list[tuple[Any, Any]]:
    """Return views of flat rows `(rows, parameters)` as layers; see `qdrl.policies.mlp.Mlp.split`."""
    layers, start = [], 0
    for inputs, outputs in pairwise(sizes):
        middle, end = start + inputs * outputs, start + inputs * outputs + outputs
        layers.append((genomes[:, start:middle].reshape(-1, inputs, outputs), genomes[:, middle:end]))
        start = end
    return layers


class Slots:
    """Genomes of a fixed number of slots.

    Args:
        slots: Number of slots.
        parameters: Length of a genome.
        device: Device that holds the genomes.
    """

    def __init__(self, slots: int, parameters: int, device: str | torch.device = "cpu") -> None:
        self.genomes = torch.zeros(slots, parameters, device=device)

    def load(self, slots: Sequence[int], genomes: Tensor) -> None:
        """Copy genomes `(len(slots), parameters)` into slots."""
        if isinstance(slots, range) and slots.step == 1:
            self.genomes[slots.start : slots.stop] = genomes
            return
        for slot, genome in zip(slots, genomes, strict=True):  # a list as index costs as much as several copies
            self.genomes[slot] = genome

    def move(self, source: int, target: int) -> None:
        """Copy the network of slot `source` into slot `target`."""
        self.genomes[target] = self.genomes[source]


class PortablePopulation(Slots):
    """Networks computed by `qdrl.compute.arithmetic.kernels.forward`, all slots in one call.

    Args:
        sizes: Units of each layer, inputs and outputs included.
        activation: Activation of the hidden layers, a key of `kernels.ACTIVATIONS`.
        output: Function of the last layer, a key of `kernels.ACTIVATIONS`.
        slots: Number of slots.
    """

    def __init__(self, sizes: Sequence[int], activation: str, output: str, slots: int) -> None:
        from qdrl.compute.arithmetic.kernels import ACTIVATIONS, forward

        super().__init__(slots, count_parameters(sizes))
        self._forward = forward
        self._sizes = np.array(sizes, np.int64)
        self._codes = ACTIVATIONS[activation], ACTIVATIONS[output]
        self._scratch = np.zeros((2, max(sizes)), np.float32)
        self._actions = torch.zeros(slots, sizes[-1])
        self._weights, self._results = self.genomes.numpy(), self._actions.numpy()

    def act(self, observations: Tensor) -> Tensor:
        """Return the actions of the first slots; see `LibraryPopulation.act`."""
        inputs = np.ascontiguousarray(observations.numpy(), np.float32)
        self._forward(self._weights, inputs, self._sizes, *self._codes, self._scratch, self._results)
        return self._actions[: len(observations)]


class LibraryPopulation(Slots):
    """Networks computed by the products of BLAS or torch.

    Args:
        sizes: Units of each layer, inputs and outputs included.
        activation: Activation of the hidden layers: "relu" or "tanh".
        output: Function of the last layer: "tanh", "clip" or "linear".
        slots: Number of slots.
        device: Device that computes them.
    """

    def __init__(
        self, sizes: Sequence[int], activation: str, output: str, slots: int, device: str | torch.device = "cpu"
    ) -> None:
        super().__init__(slots, count_parameters(sizes), device)
        self._activations = [*[_ACTIVATIONS[activation]] * (len(sizes) - 2), _SQUASHES[output]]
        self._layers = split_layers(self.genomes, sizes)
        self._outputs = [torch.zeros(slots, size, device=device) for size in sizes[1:]]
        self._make_affine = _numpy_affine if isinstance(native(self.genomes), np.ndarray) else _torch_affine
        self._count, self._steps = -1, []

    def act(self, observations: Tensor) -> Tensor:
        """Return the actions of the first slots.

        Args:
            observations: `(n, observation_size)` float32 of slots 0..n-1.

        Returns:
            `(n, action_size)` float32, a view that the next call overwrites.
        """
        if len(observations) != self._count:
            self._prepare(len(observations))
        values = observations
        for affine, activation, output in self._steps:
            affine(values)
            values = activation(output)
        return values

    def _prepare(self, count: int) -> None:
        """Build views for `count` slots; building them at every call took longer than the products of a few slots."""
        self._count = count
        layers = zip(self._layers, self._activations, self._outputs, strict=True)
        self._steps = [
            (self._make_affine(kernels[:count], biases[:count], output[:count]), activation, output[:count])
            for (kernels, biases), activation, output in layers
        ]


def _numpy_affine(kernels: Tensor, biases: Tensor, output: Tensor) -> Callable[[Tensor], None]:
    """Return a function that writes `values @ kernels + biases` into `output` one independent row at a time."""
    weights, offset, result = kernels.numpy(), biases.numpy(), output.numpy()
    rows, matmul, add = result[:, None, :], np.matmul, np.add

    def affine(values: Tensor) -> None:
        matmul(values.numpy()[:, None, :], weights, out=rows)
        add(result, offset, out=result)

    return affine


def _torch_affine(kernels: Tensor, biases: Tensor, output: Tensor) -> Callable[[Tensor], None]:
    """Return a function that writes `values @ kernels + biases` into `output` with one batched product."""
    rows, offset = output[:, None, :], biases[:, None, :]

    def affine(values: Tensor) -> None:
        torch.baddbmm(offset, values[:, None, :], kernels, out=rows)

    return affine
