"""Actor injection: turn the conditioned actor with a fixed descriptor into an unconditioned genome.

Faldor et al. 2024, "Synergizing Quality-Diversity with Descriptor-Conditioned Reinforcement Learning",
https://arxiv.org/abs/2401.08632. The first layer of the actor is linear in its inputs, so a fixed descriptor adds a
constant to it. With the kernel K, whose last d rows belong to the descriptor, and the bias b, the policy with

    kernel K[:-d],    bias b + descriptor @ K[-d:],    and all other layers unchanged

acts as the actor does.
"""

import torch
from torch import Tensor

from qdrl.policies.mlp import Mlp


def conditioned(policy: Mlp, dimensions: int) -> Mlp:
    """Return the shape of the conditioned actor of a policy: a descriptor follows the observation in its inputs.

    Args:
        policy: shape of the policy.
        dimensions: numbers in a descriptor.
    """
    return Mlp(policy.sizes[0] + dimensions, policy.sizes[-1], policy.settings, policy.arithmetic)


def inject(policy: Mlp, actor: Tensor, descriptors: Tensor) -> Tensor:
    """Return genomes that act as the conditioned actor does, one for each descriptor.

    Args:
        policy: shape of the genomes.
        actor: `(parameters,)` float32, a flat row of `conditioned(policy, d)`.
        descriptors: `(rows, d)` normalised to [-1, 1].

    Returns:
        `(rows, policy.parameters)` float32. A row's bits depend on its descriptor alone.

    Raises:
        ValueError: the actor's shape is not that of `conditioned(policy, d)`.
    """
    rows, dimensions = descriptors.shape
    shape = conditioned(policy, dimensions)
    if tuple(actor.shape) != (shape.parameters,):
        raise ValueError(
            f"the actor has shape {tuple(actor.shape)}, expected ({shape.parameters},): layers {shape.sizes} for "
            f"policies of {policy.sizes} and {dimensions} descriptor dimensions"
        )
    genomes = torch.empty(rows, policy.parameters, device=actor.device)
    pairs = zip(policy.split(genomes), shape.split(actor[None]), strict=True)
    for layer, ((kernels, biases), (kernel, bias)) in enumerate(pairs):
        kernels.copy_(kernel[:, : kernels.shape[1]])
        biases.copy_(bias)
        if layer == 0:
            for axis in range(dimensions):
                biases += descriptors[:, axis, None].to(genomes) * kernel[0, kernels.shape[1] + axis]
    return genomes
