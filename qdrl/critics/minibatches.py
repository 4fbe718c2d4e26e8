"""What TD3 learns from, step by step: drawn, weighed and noised for a whole training phase ahead."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from qdrl.compute.random import normal
from qdrl.critics.descriptors import similarity
from qdrl.critics.replay_buffer import LabelledTransitions, ReplayBuffer
from qdrl.critics.settings import Td3Settings

_CHUNK = 100  # steps whose minibatches are gathered at once: 3 MB on an ant, which stay in the cache


@dataclass(frozen=True)
class Minibatch:
    """What one critic step learns from, `(batch, ...)` float32 each, or several, `(steps, batch, ...)`.

    Attributes:
        inputs: what critics see: action, observation, target descriptor.
        next_states: what the actor sees next: observation, target descriptor.
        noise: smoothing noise of the next action, cut.
        reward: `(batch, 1)`, scaled.
        discount: `(batch, 1)`, 0 where terminated.
        weight: `(batch, 1)`, 0 where masked.
    """

    inputs: Tensor
    next_states: Tensor
    noise: Tensor
    reward: Tensor
    discount: Tensor
    weight: Tensor

    def unbind(self) -> list["Minibatch"]:
        """One by one."""
        return [
            Minibatch(*tensors) for tensors in zip(*(column.unbind() for column in vars(self).values()), strict=True)
        ]


class MinibatchSampler:
    """Draws minibatches from a replay.

    Args:
        settings: of TD3.
        size: transitions a minibatch.
        actions: numbers in an action.
    """

    def __init__(self, settings: Td3Settings, size: int, actions: int) -> None:
        self._settings, self._size, self._actions = settings, size, actions

    def chunks(self, replay: ReplayBuffer, generator: np.random.Generator, steps: int) -> Iterator[Minibatch]:
        """All steps of a phase, some at a time; every random number is drawn before the first."""
        settings, ages = self._settings, replay.draw(generator, (steps, self._size))
        noise = normal(generator, (*ages.shape, self._actions), ages.device)
        noise = noise.mul_(settings.noise).clamp_(-settings.noise_clip, settings.noise_clip)
        for start in range(0, steps, _CHUNK):
            part = slice(start, start + _CHUNK)
            yield self._prepare(replay.take(ages[part]), noise[part])

    def _prepare(self, transitions: LabelledTransitions, noise: Tensor) -> Minibatch:
        settings, target = self._settings, transitions.target_descriptor
        scale = settings.reward_scale * similarity(transitions.descriptor, target, settings.length_scale)
        going_on = 1 - transitions.terminated
        masked = transitions.truncated * going_on if settings.truncation == "mask" else torch.zeros_like(going_on)
        return Minibatch(
            inputs=torch.cat([transitions.action, transitions.observation, target], -1),
            next_states=torch.cat([transitions.next_observation, target], -1),
            noise=noise,
            reward=(scale * transitions.reward).unsqueeze(-1),
            discount=(settings.discount * going_on).unsqueeze(-1),
            weight=(1 - masked).unsqueeze(-1),
        )
