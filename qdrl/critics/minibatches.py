"""Minibatches of TD3, sampled and prepared for a whole training phase ahead."""

from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from qdrl.compute.random import normal
from qdrl.critics.descriptors import similarity
from qdrl.critics.replay_buffer import ReplayBuffer, SampledTransitions
from qdrl.critics.settings import Td3Settings

_CHUNK_STEPS = 100  # minibatches gathered at once: 3 MB for an ant, which fit into the cache


@dataclass(frozen=True)
class Minibatch:
    """Inputs of one critic step, `(batch, ...)` float32 each, or of several steps, `(steps, batch, ...)`.

    Attributes:
        inputs: what critics see: action, observation, target descriptor.
        next_states: what the target actor sees: next observation, target descriptor.
        noise: smoothing noise of the next action, clipped.
        reward: `(batch, 1)`, scaled.
        discount: `(batch, 1)`, 0 where the episode terminated.
        weight: `(batch, 1)`, 0 where the transition is masked.
    """

    inputs: Tensor
    next_states: Tensor
    noise: Tensor
    reward: Tensor
    discount: Tensor
    weight: Tensor

    def unbind(self) -> list["Minibatch"]:
        """Return the minibatch of each step."""
        columns = (column.unbind() for column in vars(self).values())
        return [Minibatch(*tensors) for tensors in zip(*columns, strict=True)]


class MinibatchSampler:
    """Samples minibatches from a replay buffer.

    Args:
        settings: settings of TD3.
        size: transitions of a minibatch.
        actions: numbers in an action.
    """

    def __init__(self, settings: Td3Settings, size: int, actions: int) -> None:
        self._settings, self._size, self._actions = settings, size, actions

    def chunks(self, buffer: ReplayBuffer, generator: np.random.Generator, steps: int) -> Iterator[Minibatch]:
        """Yield the minibatches of a training phase in chunks of steps.

        All random numbers are drawn before the first chunk: indices of all transitions, then the noise.
        """
        settings = self._settings
        ages = buffer.draw(generator, (steps, self._size // 2 if settings.flipped_negatives else self._size))
        noise = normal(generator, (steps, self._size, self._actions), ages.device)
        noise = noise.mul_(settings.noise).clamp_(-settings.noise_clip, settings.noise_clip)
        for start in range(0, steps, _CHUNK_STEPS):
            part = slice(start, start + _CHUNK_STEPS)
            drawn = buffer.gather(ages[part])
            yield self._prepare(with_flipped(drawn) if settings.flipped_negatives else drawn, noise[part])

    def _prepare(self, transitions: SampledTransitions, noise: Tensor) -> Minibatch:
        settings, target = self._settings, transitions.target_descriptor
        scale = settings.reward_scale * similarity(transitions.descriptor, target, settings.length_scale)
        continues = 1 - transitions.terminated
        masked = transitions.truncated * continues if settings.truncation == "mask" else torch.zeros_like(continues)
        return Minibatch(
            inputs=torch.cat([transitions.action, transitions.observation, target], -1),
            next_states=torch.cat([transitions.next_observation, target], -1),
            noise=noise,
            reward=(scale * transitions.reward).unsqueeze(-1),
            discount=(settings.discount * continues).unsqueeze(-1),
            weight=(1 - masked).unsqueeze(-1),
        )


def with_flipped(transitions: SampledTransitions) -> SampledTransitions:
    """Return transitions `(steps, n, ...)`, followed in each step by the same ones with targets in reverse order."""
    again = replace(transitions, target_descriptor=transitions.target_descriptor.flip(-2))
    columns = {name: torch.cat([column, getattr(again, name)], dim=1) for name, column in vars(transitions).items()}
    return SampledTransitions(**columns)
