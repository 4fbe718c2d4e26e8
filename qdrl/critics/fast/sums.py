"""Gradients of a loss that is a sum over the shards of a replay."""

import torch
from torch import Tensor

from qdrl.parallel.learners import Learners


class SummedGradient:
    """A gradient that is worked out shard by shard.

    Attributes:
        total: the gradient, which an optimiser reads.
        part: where a backward pass writes; the same memory where there is one shard only.

    Args:
        parameters: what it is the gradient of.
        shards: of the replay, in all.
    """

    def __init__(self, parameters: Tensor, shards: int) -> None:
        self.total = torch.zeros_like(parameters)
        self.part = self.total if shards == 1 else torch.zeros_like(parameters)
        self._shards = shards
        self._rooms = {1: self.part[None]}  # kept, for a graph may go on writing to one
        self._parts = self._rooms[1]

    def hold(self, shards: int) -> None:
        """Make room for the parts of the shards that this process holds."""
        if shards not in self._rooms:
            self._rooms[shards] = self.part.new_zeros(shards, *self.part.shape)
        self._parts = self._rooms[shards]

    def keep(self, index: int) -> None:
        """Keep what was written, as the part of the index-th of the held shards."""
        if len(self._parts) > 1:
            self._parts[index] = self.part

    def add_up(self, learners: Learners) -> None:
        """Collective over the learners. Make `total` of everyone's parts."""
        if self._shards > 1:
            learners.sum(self._parts, self.total)
