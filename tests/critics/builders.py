"""Transitions and networks of small sizes, and torch's own layers with autograd to hold ours against."""

import numpy as np
import torch
from torch import Tensor, nn

from qdrl.critics.replay_buffer import LabelledTransitions, ReplayBuffer
from qdrl.policies.mlp import Mlp

MODULES = {"relu": nn.ReLU, "tanh": nn.Tanh, "clip": lambda: nn.Hardtanh(-1, 1), "linear": nn.Identity}


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.from_numpy(np.random.default_rng([seed, *shape]).standard_normal(shape, np.float32))


def transitions(count: int, observations: int, actions: int, dimensions: int, seed: int = 0) -> LabelledTransitions:
    """Random ones, of which a tenth are terminated, a tenth truncated and a few both."""
    draw = np.random.default_rng(seed)
    flags = draw.random((2, count)) < 0.1
    return LabelledTransitions(
        observation=normal(count, observations, seed=seed + 1),
        action=normal(count, actions, seed=seed + 2).clamp(-1, 1),
        reward=normal(count, seed=seed + 3).abs(),
        next_observation=normal(count, observations, seed=seed + 4),
        terminated=torch.from_numpy(flags[0]),
        truncated=torch.from_numpy(flags[1]),
        descriptor=torch.from_numpy(draw.uniform(-1, 1, (count, dimensions))),
        target_descriptor=torch.from_numpy(draw.uniform(-1, 1, (count, dimensions))),
    )


def replay_of(held: LabelledTransitions, capacity: int | None = None) -> ReplayBuffer:
    replay = ReplayBuffer(
        capacity or len(held.reward), held.observation.shape[1], held.action.shape[1], held.descriptor.shape[1]
    )
    replay.add(held)
    return replay


def sequential(mlp: Mlp, genome: Tensor) -> nn.Sequential:
    """A genome as torch's layers in float64, cut out of its row by counting."""
    modules, start = [], 0
    for inputs, outputs in zip(mlp.sizes[:-1], mlp.sizes[1:], strict=True):
        layer = nn.Linear(inputs, outputs).double()
        layer.weight.data = genome[start : start + inputs * outputs].double().view(inputs, outputs).T.clone()
        start += inputs * outputs
        layer.bias.data = genome[start : start + outputs].double().clone()
        start += outputs
        modules += [layer, MODULES[mlp.settings.activation]()]
    return nn.Sequential(*modules[:-1], MODULES[mlp.settings.output]())


def row_of(network: nn.Sequential, gradient: bool = False) -> Tensor:
    """The way back: a network's weights, or their gradients, as a flat row."""
    parts = []
    for layer in network:
        if isinstance(layer, nn.Linear):
            weight, bias = (layer.weight.grad, layer.bias.grad) if gradient else (layer.weight, layer.bias)
            assert weight is not None
            assert bias is not None
            parts += [weight.T.reshape(-1), bias]
    return torch.cat(parts).detach()
