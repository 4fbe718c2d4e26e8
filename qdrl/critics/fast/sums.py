"""Gradients of a loss that is a sum over the shards of a replay buffer."""

import torch
from torch import Tensor

from qdrl.parallel.learners import Learners


class SummedGradient:
    """A gradient that is computed shard by shard and summed over all learners.

    Attributes:
        total: the sum, in the shape of the parameters; an optimiser reads it.
        part: where a backward pass writes the gradient of one shard; the same memory as `total` with one shard.

    Args:
        parameters: the parameters of the loss.
        shards: number of shards on all learners together.
    """

    def __init__(self, parameters: Tensor, shards: int) -> None:
        self.total = torch.zeros_like(parameters)
        self.part = self.total if shards == 1 else torch.zeros_like(parameters)
        self._shards = shards
        self._buffers = {1: self.part[None]}  # never freed, for a CUDA graph may still write to one
        self._parts = self._buffers[1]

    def allocate(self, shards: int) -> None:
        """Allocate buffers for the gradients of this process's shards."""
        if shards not in self._buffers:
            self._buffers[shards] = self.part.new_zeros(shards, *self.part.shape)
        self._parts = self._buffers[shards]

    def store(self, index: int) -> None:
        """Store `part` as the gradient of this process's shard number `index`."""
        if len(self._parts) > 1:
            self._parts[index] = self.part

    def reduce(self, learners: Learners) -> None:
        """Set `total` to the sum over the shards of all learners. Collective over the learners."""
        if self._shards > 1:
            learners.sum(self._parts, self.total)
