"""Hand-written forward and backward passes over batches of a fixed size, on buffers that are allocated once.

A training step of TD3 is about twenty small matrix products. Automatic differentiation spends a third of the time on
building graphs, allocating and copying. Here a pass is a list of calls that are bound to their buffers when it is
built.

A genome holds the kernel of a layer, `(inputs, outputs)` row-major, followed by its bias: together one matrix with one
more row. Inputs therefore end with a column of ones, and one product computes kernel and bias; for a layer of 256 units
it costs 1 % more than the kernel alone.
"""

from collections.abc import Callable, Sequence
from functools import partial
from itertools import pairwise
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from qdrl.compute.arrays import native
from qdrl.critics.fast.products import product
from qdrl.policies.mlp import Mlp, MlpSettings

Activation = Literal["relu", "tanh", "clip", "linear"]
Call = Callable[[], object]


def matrices(mlp: Mlp, rows: Tensor) -> list[Tensor]:
    """Return views of flat rows as one matrix a layer, whose last row is the bias.

    Args:
        mlp: shape of the networks.
        rows: `(networks, parameters)`.

    Returns:
        `(networks, inputs + 1, outputs)` for each layer.
    """
    layers, start = [], 0
    for inputs, outputs in pairwise(mlp.sizes):
        end = start + (inputs + 1) * outputs
        layers.append(rows[:, start:end].view(-1, inputs + 1, outputs))
        start = end
    return layers


def activations(settings: MlpSettings) -> list[Activation]:
    """Return the activation of each layer, output layer included."""
    return [*(settings.activation for _ in settings.hidden_sizes), settings.output]


def with_ones(*shape: int, device: torch.device) -> Tensor:
    """Return zeros of a shape whose last dimension is extended by a column of ones."""
    values = torch.zeros(*shape[:-1], shape[-1] + 1, device=device)
    values[..., -1] = 1
    return values


class Network:
    """Networks of one shape, computed together on one batch.

    Attributes:
        outputs: `(networks, batch, units)` of each layer after a pass; hidden layers end with a column of ones.

    Args:
        layers: `(networks, inputs + 1, outputs)` each, read at every pass; see `matrices`.
        activations: one a layer.
        inputs: read at every pass, ends with a column of ones: `(batch, inputs + 1)` for all networks, or `(networks,
            batch, inputs + 1)`.
        into: `(networks, batch, outputs)`, receives the outputs of the last layer; allocated by default.
    """

    def __init__(
        self, layers: Sequence[Tensor], activations: Sequence[Activation], inputs: Tensor, into: Tensor | None = None
    ) -> None:
        self.layers, self.activations, self.inputs = layers, activations, inputs
        networks, batch, device = len(layers[0]), inputs.shape[-2], inputs.device
        self.outputs = [with_ones(networks, batch, layer.shape[-1], device=device) for layer in layers[:-1]]
        last = torch.zeros(networks, batch, layers[-1].shape[-1], device=device) if into is None else into
        self.outputs.append(last)
        self._products, self._activations = [], []
        for layer, activation, values, output in zip(
            layers, activations, [inputs, *self.outputs], self.outputs, strict=False
        ):
            self._products.append(product(values, layer, output[..., : layer.shape[-1]]))
            self._activations.append(_activate(activation, output, layer.shape[-1]))

    def forward(self, offset: Tensor | None = None) -> Tensor:
        """Run the networks; return `(networks, batch, outputs)`, which the next pass overwrites.

        Args:
            offset: added to the first layer before its activation, in the shape of `outputs[0]`.
        """
        for layer, (multiply, activate) in enumerate(zip(self._products, self._activations, strict=True)):
            multiply()
            if offset is not None and layer == 0:
                self.outputs[0].add_(offset)
            activate()
        return self.outputs[-1]


class Gradient:
    """The backward pass that follows a forward pass of a network.

    Attributes:
        outputs: `(networks, batch, outputs)`, the gradient of the loss with respect to the network's outputs. The
            caller fills it before each pass; a pass does not change it.

    Args:
        network: the network to differentiate.
        parameters: receive the gradients of the layers, in their shapes; None to skip them.
        inputs: `(networks, batch, k)`, receives the gradients of the first k inputs; None to skip them.
    """

    def __init__(
        self, network: Network, parameters: Sequence[Tensor] | None = None, inputs: Tensor | None = None
    ) -> None:
        self.outputs = torch.zeros_like(network.outputs[-1], memory_format=torch.contiguous_format)
        self._calls: list[Call] = []
        before = [network.inputs, *network.outputs]
        arriving, delta = self.outputs, torch.zeros_like(self.outputs)
        for layer in reversed(range(len(network.layers))):
            matrix, activation = network.layers[layer], network.activations[layer]
            if activation == "linear":
                delta = arriving
            else:
                self._calls.append(_differentiate(activation, arriving, network.outputs[layer], delta))
            units = delta[..., : matrix.shape[-1]]
            if parameters is not None:
                self._calls.append(product(before[layer].transpose(-1, -2), units, parameters[layer]))
            kernel = matrix[:, :-1].transpose(1, 2)
            if layer:
                # As wide as the outputs with their column of ones, so that the activation's backward pass reads memory
                # without gaps.
                arriving = delta = torch.zeros_like(network.outputs[layer - 1])
                self._calls.append(product(units, kernel, arriving[..., :-1]))
            elif inputs is not None:
                self._calls.append(product(units, kernel[..., : inputs.shape[-1]], inputs))

    def backward(self) -> None:
        """Compute the gradients of `parameters` and `inputs`."""
        for call in self._calls:
            call()


def _activate(activation: Activation, output: Tensor, units: int) -> Call:
    match activation:
        case "relu":
            return partial(torch.relu_, output)  # the column of ones stays, and memory has no gaps
        case "tanh":
            return _tanh(output[..., :units])
        case "clip":
            return partial(output[..., :units].clamp_, -1.0, 1.0)
        case "linear":
            return lambda: None


def _tanh(values: Tensor) -> Call:
    """Return a call that applies tanh in place.

    For 100 x 8 actions numpy takes 1 us and torch 3, or 7 between products.
    """
    array = native(values)
    if isinstance(array, np.ndarray):
        return partial(np.tanh, array, out=array)
    return partial(torch.tanh_, values)


def _differentiate(activation: Activation, arriving: Tensor, outputs: Tensor, into: Tensor) -> Call:
    """Return a call that computes the gradient of an activation's inputs, by torch's own kernels."""
    match activation:
        case "relu":
            return partial(torch.ops.aten.threshold_backward.grad_input, arriving, outputs, 0, grad_input=into)
        case "tanh":
            return partial(torch.ops.aten.tanh_backward.grad_input, arriving, outputs, grad_input=into)
        case "clip":
            return partial(torch.ops.aten.hardtanh_backward.grad_input, arriving, outputs, -1.0, 1.0, grad_input=into)
        case "linear":
            raise AssertionError("a linear layer has no activation to differentiate")
