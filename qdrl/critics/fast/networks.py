"""Forward and backward passes over batches of a fixed size, written by hand on buffers that are made once.

A training step of TD3 is some twenty small products. Under automatic differentiation a third of its time goes to
building graphs, allocating and copying; here a pass is a list of calls, each bound to its buffers when it is built.

A genome holds a layer's kernel, `(inputs, outputs)` row-major, and then its bias: together one matrix of one row more.
So inputs carry a column of ones at their end, and one product does what two and an addition would; on a layer of 256
units it costs 1 % more than the kernel's alone.
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
    """Views of flat rows `(networks, parameters)` as `(networks, inputs + 1, outputs)` a layer, the bias last."""
    layers, start = [], 0
    for inputs, outputs in pairwise(mlp.sizes):
        end = start + (inputs + 1) * outputs
        layers.append(rows[:, start:end].view(-1, inputs + 1, outputs))
        start = end
    return layers


def activations(settings: MlpSettings) -> list[Activation]:
    """The activation of each layer, output included."""
    return [*(settings.activation for _ in settings.hidden_sizes), settings.output]


def with_ones(*shape: int, device: torch.device) -> Tensor:
    """Zeros of a shape and one column more, of ones, in the last dimension."""
    values = torch.zeros(*shape[:-1], shape[-1] + 1, device=device)
    values[..., -1] = 1
    return values


class Network:
    """Some networks of one shape side by side, on one batch.

    Attributes:
        outputs: `(networks, batch, units)` of each layer after a pass, hidden ones with their column of ones.

    Args:
        layers: `(networks, inputs + 1, outputs)` each, read at every pass; see `matrices`.
        activations: one a layer.
        inputs: the last column ones, read at every pass: `(batch, inputs + 1)` by all networks, or `(networks, batch,
            inputs + 1)`.
        into: `(networks, batch, outputs)`, where the last layer writes; a buffer of its own where left out.
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
        """Outputs of the last layer, `(networks, batch, outputs)`, which the next pass overwrites.

        Args:
            offset: in the shape of `outputs[0]`, added to the first layer before its activation.
        """
        for layer, (multiply, activate) in enumerate(zip(self._products, self._activations, strict=True)):
            multiply()
            if offset is not None and layer == 0:
                self.outputs[0].add_(offset)
            activate()
        return self.outputs[-1]


class Gradient:
    """The backward pass of a network's last forward pass (Rumelhart, Hinton and Williams 1986).

    Attributes:
        outputs: `(networks, batch, outputs)`, the gradient of the loss with respect to the network's outputs. The
            caller fills it before each pass; a pass leaves it as it is.

    Args:
        network: what to go back through.
        parameters: where gradients of the layers go, in their shapes; None where they are not wanted.
        inputs: `(networks, batch, k)`, where gradients of the first k inputs go; None where they are not wanted.
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
                # As wide as the outputs with their ones, so that the activation's backward pass is one sweep.
                arriving = delta = torch.zeros_like(network.outputs[layer - 1])
                self._calls.append(product(units, kernel, arriving[..., :-1]))
            elif inputs is not None:
                self._calls.append(product(units, kernel[..., : inputs.shape[-1]], inputs))

    def backward(self) -> None:
        """Fill `parameters` and `inputs`."""
        for call in self._calls:
            call()


def _activate(activation: Activation, output: Tensor, units: int) -> Call:
    match activation:
        case "relu":
            return partial(torch.relu_, output)  # ones stay ones, and memory without gaps is one sweep
        case "tanh":
            return _tanh(output[..., :units])
        case "clip":
            return partial(output[..., :units].clamp_, -1.0, 1.0)
        case "linear":
            return lambda: None


def _tanh(values: Tensor) -> Call:
    """On 100 x 8 actions numpy's takes 1 us, torch's 3, and 7 between products."""
    array = native(values)
    if isinstance(array, np.ndarray):
        return partial(np.tanh, array, out=array)
    return partial(torch.tanh_, values)


def _differentiate(activation: Activation, arriving: Tensor, outputs: Tensor, into: Tensor) -> Call:
    """From the gradient of an activation's outputs to that of its inputs; torch's own kernels, called directly."""
    match activation:
        case "relu":
            return partial(torch.ops.aten.threshold_backward.grad_input, arriving, outputs, 0, grad_input=into)
        case "tanh":
            return partial(torch.ops.aten.tanh_backward.grad_input, arriving, outputs, grad_input=into)
        case "clip":
            return partial(torch.ops.aten.hardtanh_backward.grad_input, arriving, outputs, -1.0, 1.0, grad_input=into)
        case "linear":
            raise AssertionError("a linear layer has no activation to differentiate")
