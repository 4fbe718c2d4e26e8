"""Actor injection: the conditioned actor, aimed at one descriptor, as an ordinary genome (Faldor et al. 2024).

The actor's first layer is linear in its inputs, so what a fixed descriptor adds to it is a bias: with the kernel K
whose last rows belong to the descriptor,

    K[:-d],    b + descriptor @ K[-d:],    and all other layers as they are

is the unconditioned policy that acts as the actor does.
"""

import torch
from torch import Tensor

from qdrl.policies.mlp import Mlp


def conditioned(policy: Mlp, dimensions: int) -> Mlp:
    """The shape of an actor that becomes this policy: the same layers, with a descriptor after the observation."""
    return Mlp(policy.sizes[0] + dimensions, policy.sizes[-1], policy.settings, policy.arithmetic)


def inject(policy: Mlp, actor: Tensor, descriptors: Tensor) -> Tensor:
    """Genomes that act as the conditioned actor does, each aimed at its descriptor.

    Args:
        policy: shape of the genomes.
        actor: `(parameters,)` float32, a flat row of `conditioned(policy, d)`.
        descriptors: `(rows, d)` normalised to [-1, 1].

    Returns:
        `(rows, policy.parameters)` float32. A row's bits depend on its descriptor alone.

    Raises:
        ValueError: the actor is not that of this policy and descriptors of these dimensions.
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
