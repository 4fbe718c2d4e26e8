"""Descriptors as critics see them: in [-1, 1], and how much an episode's counts towards a target's."""

import numpy as np
import torch
from torch import Tensor


def normalize(descriptor: Tensor, lower: np.ndarray, upper: np.ndarray) -> Tensor:
    """Descriptors in units of their bounds: 2 (d - lower) / (upper - lower) - 1, cut to [-1, 1].

    Cutting keeps a robot that was thrown far out of bounds from feeding a critic numbers that no target has; the
    published tasks cut the descriptor itself.

    Args:
        descriptor: `(..., d)` in the task's units.
        lower: `(d,)` bounds.
        upper: `(d,)` bounds.

    Returns:
        `(..., d)` float32.
    """
    low, high = (torch.from_numpy(np.asarray(bound, np.float64)).to(descriptor.device) for bound in (lower, upper))
    return (2 * (descriptor.double() - low) / (high - low) - 1).clamp(-1, 1).float()


def similarity(descriptor: Tensor, target: Tensor, length_scale: float) -> Tensor:
    """S(d, d') = exp(-||d - d'|| / length_scale), by which a conditioned critic scales rewards.

    Faldor et al. 2023, "MAP-Elites with Descriptor-Conditioned Gradients and Archive Distillation into a Single
    Policy", section 4.1. Their length is 0.008 in units that differ between tasks; Faldor et al. 2024 use 0.1 on
    descriptors in [-1, 1], and so does qdrl.

    Args:
        descriptor: `(..., d)` observed, normalised.
        target: `(..., d)` aimed at, normalised.
        length_scale: distance at which a reward counts 1/e.

    Returns:
        `(...,)`, 1 where both agree; ones for descriptors of no dimensions.
    """
    return torch.exp(torch.linalg.vector_norm(descriptor - target, dim=-1) / -length_scale)
