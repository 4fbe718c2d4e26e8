"""Batches of critic steps: inputs, output buffers, CUDA-graph execution."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields

import torch

from qdrl.compute.cuda_graphs import GraphedCall
from qdrl.critics.minibatches import Minibatch


@dataclass(frozen=True)
class Chunk:
    """Consecutive critic steps on the shards of this process.

    Attributes:
        minibatches: one a shard; each column is `(steps, batch, ...)`.
        errors: `(shards, steps, 2, batch, 1)`, receives w * (Q - y) of both critics.
        values: `(shards, actor steps)`, receives the means of Q_1 of the actor's actions.
    """

    minibatches: Sequence[Minibatch]
    errors: torch.Tensor
    values: torch.Tensor

    def steps(self) -> list[tuple[Minibatch, ...]]:
        """Return the minibatches of each step, one a shard."""
        return list(zip(*(minibatch.unbind() for minibatch in self.minibatches), strict=True))


def allocate_chunk(minibatches: Sequence[Minibatch], actor_steps: int) -> Chunk:
    """Allocate output buffers for these minibatches.

    Args:
        minibatches: one a shard.
        actor_steps: number of actor steps among the critic steps.
    """
    reward = minibatches[0].reward
    steps, batch, _ = reward.shape
    return Chunk(
        minibatches,
        reward.new_zeros(len(minibatches), steps, 2, batch, 1),
        reward.new_zeros(len(minibatches), actor_steps),
    )


ChunkFactory = Callable[[Sequence[Minibatch]], tuple[Chunk, GraphedCall]]
"""Build a chunk that owns its minibatches, and the callable that runs it."""


class ChunkGraphs:
    """Runs chunks on a GPU with one CUDA graph for each kind of chunk.

    Args:
        device: the GPU.
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._chunks: dict[tuple[int, ...], tuple[Chunk, GraphedCall]] = {}

    def run(self, key: tuple[int, ...], minibatches: Sequence[Minibatch], make: ChunkFactory) -> Chunk:
        """Run a chunk on these minibatches and return it; it is valid until the next call with the same key.

        Args:
            key: the kind of chunk: chunks with equal keys do the same operations on tensors of the same shapes.
            minibatches: the inputs, copied into the memory that the graph reads.
            make: builds the chunk of a new key.
        """
        if key not in self._chunks:
            owned = [Minibatch(**{name: column.clone() for name, column in vars(one).items()}) for one in minibatches]
            self._chunks[key] = make(owned)
        chunk, work = self._chunks[key]
        for mine, given in zip(chunk.minibatches, minibatches, strict=True):
            for name in _COLUMNS:
                getattr(mine, name).copy_(getattr(given, name))
        work()
        return chunk


_COLUMNS = tuple(field.name for field in fields(Minibatch))
