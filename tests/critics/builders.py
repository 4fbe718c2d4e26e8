"""Transitions and replay buffers of small sizes."""

import numpy as np
import torch
from torch import Tensor

from qdrl.critics.replay_buffer import ReplayBuffer, SampledTransitions


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.from_numpy(np.random.default_rng([seed, *shape]).standard_normal(shape, np.float32))


def transitions(count: int, observations: int, actions: int, dimensions: int, seed: int = 0) -> SampledTransitions:
    """Return random transitions: a tenth terminated, a tenth truncated and a few both."""
    draw = np.random.default_rng(seed)
    flags = draw.random((2, count)) < 0.1
    return SampledTransitions(
        observation=normal(count, observations, seed=seed + 1),
        action=normal(count, actions, seed=seed + 2).clamp(-1, 1),
        reward=normal(count, seed=seed + 3).abs(),
        next_observation=normal(count, observations, seed=seed + 4),
        terminated=torch.from_numpy(flags[0]),
        truncated=torch.from_numpy(flags[1]),
        descriptor=torch.from_numpy(draw.uniform(-1, 1, (count, dimensions))),
        target_descriptor=torch.from_numpy(draw.uniform(-1, 1, (count, dimensions))),
    )


def buffer_of(given: SampledTransitions, capacity: int | None = None) -> ReplayBuffer:
    buffer = ReplayBuffer(
        capacity or len(given.reward), given.observation.shape[1], given.action.shape[1], given.descriptor.shape[1]
    )
    buffer.add(given)
    return buffer
