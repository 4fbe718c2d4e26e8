"""Some critic steps at once: what they learn from, where what comes of them is noted, and how a GPU takes them."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields

import torch

from qdrl.compute.cuda_graphs import GraphedCall
from qdrl.critics.minibatches import Minibatch


@dataclass(frozen=True)
class Chunk:
    """Steps of all held shards.

    Attributes:
        minibatches: one a shard, `(steps, batch, ...)` each column.
        errors: `(shards, steps, 2, batch, 1)`, takes w * (Q - y).
        values: `(shards, actor steps)`, takes the means of Q_1 of the actor's actions.
    """

    minibatches: Sequence[Minibatch]
    errors: torch.Tensor
    values: torch.Tensor

    def steps(self) -> list[tuple[Minibatch, ...]]:
        """What each step learns from, shard by shard."""
        return list(zip(*(minibatch.unbind() for minibatch in self.minibatches), strict=True))


def allocate_chunk(minibatches: Sequence[Minibatch], actor_steps: int) -> Chunk:
    """Room for what comes of these."""
    reward = minibatches[0].reward
    steps, batch, _ = reward.shape
    return Chunk(
        minibatches,
        reward.new_zeros(len(minibatches), steps, 2, batch, 1),
        reward.new_zeros(len(minibatches), actor_steps),
    )


Maker = Callable[[Sequence[Minibatch]], tuple[Chunk, GraphedCall]]
"""Makes a chunk of minibatches that it may keep, and what takes it."""


class ChunkGraphs:
    """Takes chunks on a GPU: one CUDA graph for each number of steps and turn of the actor's.

    Args:
        device: the GPU.
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._known: dict[tuple[int, ...], tuple[Chunk, GraphedCall]] = {}

    def take(self, key: tuple[int, ...], minibatches: Sequence[Minibatch], make: Maker) -> Chunk:
        """The chunk of these minibatches, taken; valid until the next of the same key.

        Args:
            key: chunks of the same key do the same.
            minibatches: what is learned from; copied to where the graph reads it.
            make: called when the first of a key come.
        """
        if key not in self._known:
            kept = [Minibatch(**{name: column.clone() for name, column in vars(one).items()}) for one in minibatches]
            self._known[key] = make(kept)
        chunk, work = self._known[key]
        for mine, given in zip(chunk.minibatches, minibatches, strict=True):
            for name in _COLUMNS:
                getattr(mine, name).copy_(getattr(given, name))
        work()
        return chunk


_COLUMNS = tuple(field.name for field in fields(Minibatch))
