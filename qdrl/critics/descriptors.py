"""Descriptors as critics see them: normalised to [-1, 1] and compared with a target.

Faldor et al. 2023, "MAP-Elites with Descriptor-Conditioned Gradients and Archive Distillation into a Single Policy",
https://arxiv.org/abs/2303.03832.
"""

import numpy as np
import torch
from torch import Tensor


def normalize(descriptor: Tensor, lower: np.ndarray, upper: np.ndarray) -> Tensor:
    """Return descriptors in units of their bounds: 2 (d - lower) / (upper - lower) - 1, clipped to [-1, 1].

    A robot may leave the bounds by far; clipping keeps its descriptor in the range of the targets. The published tasks
    clip the descriptor itself.

    Args:
        descriptor: `(..., d)` in the units of the task.
        lower: `(d,)` bounds.
        upper: `(d,)` bounds.

    Returns:
        `(..., d)` float32.
    """
    low, high = (torch.from_numpy(np.asarray(bound, np.float64)).to(descriptor.device) for bound in (lower, upper))
    return (2 * (descriptor.double() - low) / (high - low) - 1).clamp(-1, 1).float()


def similarity(descriptor: Tensor, target: Tensor, length_scale: float) -> Tensor:
    """Return S(d, d') = exp(-||d - d'|| / length_scale), the factor that scales the rewards of a conditioned critic.

    Faldor et al. 2023, section 4.1. They use a length scale of 0.008 in units that differ between tasks; Faldor et al.
    2024 use 0.1 for descriptors in [-1, 1], and so does qdrl.

    Args:
        descriptor: `(..., d)` observed, normalised.
        target: `(..., d)` target, normalised.
        length_scale: distance at which a reward is scaled by 1/e.

    Returns:
        `(...,)` in (0, 1]; 1 where both agree and where descriptors have no dimensions.
    """
    return torch.exp(torch.linalg.vector_norm(descriptor - target, dim=-1) / -length_scale)
