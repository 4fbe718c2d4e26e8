"""Forward and backward passes over batches of a fixed size, written by hand on buffers that are made once.

A training step of TD3 is some twenty small products. Under automatic differentiation a third of its time goes to
building graphs, allocating and copying; here a pass is a list of calls, each bound to its buffers when it is built.
"""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Literal

import torch
from torch import Tensor

from qdrl.critics.products import product
from qdrl.policies.mlp import MlpSettings

Layer = tuple[Tensor, Tensor]
"""Kernels `(networks, inputs, outputs)` and biases `(networks, outputs)`, as `Mlp.split` cuts them."""

Activation = Literal["relu", "tanh", "clip", "linear"]
Call = Callable[[], object]


def activations_of(settings: MlpSettings) -> list[Activation]:
    """The activation of each layer, output included."""
    return [*[settings.activation] * len(settings.hidden_sizes), settings.output]


class Network:
    """Some networks of one shape side by side, on one batch.

    Args:
        layers: what they compute with, read at every pass. The first layer's biases may be
            `(networks, batch, outputs)`: an offset of its own for every sample.
        activations: one a layer.
        inputs: `(batch, inputs)`, read at every pass by all networks.
    """

    def __init__(self, layers: Sequence[Layer], activations: Sequence[Activation], inputs: Tensor) -> None:
        self.layers, self.activations, self.inputs = layers, activations, inputs
        self.outputs: list[Tensor] = []
        self._calls: list[Call] = []
        values = inputs
        for (kernels, biases), activation in zip(layers, activations, strict=True):
            output = torch.zeros(len(kernels), len(inputs), kernels.shape[-1], device=inputs.device)
            offsets = biases if biases.ndim == 3 else biases[:, None, :]
            self._calls += [product(values, kernels, output), partial(output.add_, offsets)]
            self._calls += _activate(activation, output)
            self.outputs.append(output)
            values = output

    def forward(self) -> Tensor:
        """Outputs of the last layer, `(networks, batch, outputs)`, which the next pass overwrites."""
        for call in self._calls:
            call()
        return self.outputs[-1]


class Gradient:
    """The backward pass of a network's last forward pass (Rumelhart, Hinton and Williams 1986).

    Attributes:
        outputs: `(networks, batch, outputs)`, the gradient of the loss with respect to the network's outputs. The
            caller fills it before each pass; a pass leaves it as it is.

    Args:
        network: what to go back through.
        parameters: where gradients of the layers go; None where they are not wanted.
        inputs: `(networks, batch, k)`, where gradients of the first k inputs go; None where they are not wanted.
    """

    def __init__(
        self, network: Network, parameters: Sequence[Layer] | None = None, inputs: Tensor | None = None
    ) -> None:
        self.outputs = torch.zeros_like(network.outputs[-1])
        self._ones = torch.ones(1, len(network.inputs), device=self.outputs.device)
        self._calls: list[Call] = []
        arriving, before = self.outputs, [network.inputs, *network.outputs]
        for layer in reversed(range(len(network.layers))):
            activation, kernels = network.activations[layer], network.layers[layer][0]
            # In place, but for the caller's buffer.
            delta = torch.zeros_like(arriving) if arriving is self.outputs and activation != "linear" else arriving
            self._calls += _differentiate(activation, arriving, network.outputs[layer], delta)
            if parameters is not None:
                self._calls += self._sum_over_batch(before[layer], delta, *parameters[layer])
            if layer:
                arriving = torch.zeros_like(network.outputs[layer - 1])
                self._calls.append(product(delta, kernels.transpose(1, 2), arriving))
            elif inputs is not None:
                first = kernels[:, : inputs.shape[-1]]
                self._calls.append(product(delta, first.transpose(1, 2), inputs))

    def backward(self) -> None:
        """Fill `parameters` and `inputs`."""
        for call in self._calls:
            call()

    def _sum_over_batch(self, values: Tensor, delta: Tensor, kernels: Tensor, biases: Tensor) -> list[Call]:
        """Gradients of a layer's kernels and biases; a product with ones is the fastest of sums over the batch."""
        return [
            product(values.transpose(-1, -2), delta, kernels),
            product(self._ones, delta, biases[:, None, :]),
        ]


def _activate(activation: Activation, values: Tensor) -> list[Call]:
    match activation:
        case "relu":
            return [partial(torch.relu_, values)]
        case "tanh":
            return [partial(torch.tanh_, values)]
        case "clip":
            return [partial(values.clamp_, -1.0, 1.0)]
        case "linear":
            return []


def _differentiate(activation: Activation, arriving: Tensor, outputs: Tensor, into: Tensor) -> list[Call]:
    """From the gradient of an activation's outputs to that of its inputs; torch's own kernels, called directly."""
    match activation:
        case "relu":
            backward = torch.ops.aten.threshold_backward.grad_input
            return [partial(backward, arriving, outputs, 0, grad_input=into)]
        case "tanh":
            return [partial(torch.ops.aten.tanh_backward.grad_input, arriving, outputs, grad_input=into)]
        case "clip":
            backward = torch.ops.aten.hardtanh_backward.grad_input
            return [partial(backward, arriving, outputs, -1.0, 1.0, grad_input=into)]
        case "linear":
            return []
