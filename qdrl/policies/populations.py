"""Perceptrons of a whole population side by side: portable kernels on the CPU, or the products of BLAS and torch.

A row's actions never depend on its neighbours or on how many there are. `PortablePopulation` computes a slot at a
time. `LibraryPopulation` calls numpy's product a row at a time on the CPU, because torch's batched product was measured
to change the last bits of 128 -> 6 and 128 -> 17 layers with the batch; on other devices it calls torch's.
"""

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from qdrl.compute.arrays import native

if TYPE_CHECKING:
    from qdrl.policies.mlp import Mlp

_ACTIVATIONS = {"relu": torch.relu_, "tanh": torch.tanh_}
_SQUASHES = {"tanh": torch.tanh_, "clip": lambda values: values.clamp_(-1.0, 1.0), "linear": lambda values: values}


class Slots:
    """Genomes of a fixed number of slots.

    Args:
        slots: how many.
        parameters: length of a genome.
        device: where they lie.
    """

    def __init__(self, slots: int, parameters: int, device: str | torch.device = "cpu") -> None:
        self.genomes = torch.zeros(slots, parameters, device=device)

    def load(self, slots: Sequence[int], genomes: Tensor) -> None:
        """Put genomes `(len(slots), parameters)` into slots."""
        if isinstance(slots, range) and slots.step == 1:
            self.genomes[slots.start : slots.stop] = genomes
            return
        for slot, genome in zip(slots, genomes, strict=True):  # a list as index costs as much as several copies
            self.genomes[slot] = genome

    def move(self, source: int, target: int) -> None:
        """Let slot `target` compute what slot `source` computes."""
        self.genomes[target] = self.genomes[source]


class PortablePopulation(Slots):
    """Networks computed by `qdrl.compute.portable.kernels.forward`, all slots in one call.

    Args:
        mlp: the shape of the networks.
        slots: how many.
    """

    def __init__(self, mlp: "Mlp", slots: int) -> None:
        from qdrl.compute.portable.kernels import ACTIVATIONS, forward

        super().__init__(slots, mlp.parameters)
        self._forward = forward
        self._sizes = np.array(mlp.sizes, np.int64)
        self._codes = ACTIVATIONS[mlp.settings.activation], ACTIVATIONS[mlp.settings.output]
        self._scratch = np.zeros((2, max(mlp.sizes)), np.float32)
        self._actions = torch.zeros(slots, mlp.action_size)
        self._weights, self._results = self.genomes.numpy(), self._actions.numpy()

    def act(self, observations: Tensor) -> Tensor:
        """Return the actions of the first slots; see `LibraryPopulation.act`."""
        seen = np.ascontiguousarray(observations.numpy(), np.float32)
        self._forward(self._weights, seen, self._sizes, *self._codes, self._scratch, self._results)
        return self._actions[: len(observations)]


class LibraryPopulation(Slots):
    """Networks computed by the products of BLAS or torch.

    Args:
        mlp: the shape of the networks.
        slots: how many.
        device: where they compute.
    """

    def __init__(self, mlp: "Mlp", slots: int, device: str | torch.device = "cpu") -> None:
        super().__init__(slots, mlp.parameters, device)
        hidden = [_ACTIVATIONS[mlp.settings.activation]] * len(mlp.settings.hidden_sizes)
        self._activations = [*hidden, _SQUASHES[mlp.settings.output]]
        self._layers = mlp.split(self.genomes)
        self._outputs = [torch.zeros(slots, size, device=device) for size in mlp.sizes[1:]]
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
        """Cut views for this many slots; making them at every call took longer than the products of a few slots."""
        self._count = count
        layers = zip(self._layers, self._activations, self._outputs, strict=True)
        self._steps = [
            (self._make_affine(kernels[:count], biases[:count], output[:count]), activation, output[:count])
            for (kernels, biases), activation, output in layers
        ]


def _numpy_affine(kernels: Tensor, biases: Tensor, output: Tensor) -> Callable[[Tensor], None]:
    """A function from values to `values @ kernels + biases` in `output`, a row at a time: no row depends on another."""
    weights, offset, result = kernels.numpy(), biases.numpy(), output.numpy()
    rows, matmul, add = result[:, None, :], np.matmul, np.add

    def affine(values: Tensor) -> None:
        matmul(values.numpy()[:, None, :], weights, out=rows)
        add(result, offset, out=result)

    return affine


def _torch_affine(kernels: Tensor, biases: Tensor, output: Tensor) -> Callable[[Tensor], None]:
    rows, offset = output[:, None, :], biases[:, None, :]

    def affine(values: Tensor) -> None:
        torch.baddbmm(offset, values[:, None, :], kernels, out=rows)

    return affine
