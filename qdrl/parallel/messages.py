"""Transitions as messages of bytes: one from each rank to each learner."""

from collections.abc import Iterator, Sequence

import numpy as np
import torch

from qdrl.evaluation import Transitions

BLOCK_BYTES = 4096
"""Size of a block. Messages are whole blocks, so that MPI's int32 counts suffice for any number of transitions."""
_ALIGNMENT_BYTES = 8


class TransitionMessages:
    """The messages that send the transitions of all ranks to the learners, as one of the ranks sees them.

    A rank sends nothing to itself.

    Attributes:
        sent: `(ranks,)` number of blocks to each rank.
        received: `(ranks,)` number of blocks from each rank.

    Args:
        like: transitions with the same sizes of observations and actions.
        lengths: numbers of steps and of observations of each shard, for each rank.
        held: the shards of each rank as a learner; an empty range for a rank that is none.
        rank: this rank.
    """

    def __init__(
        self,
        like: Transitions,
        lengths: Sequence[Sequence[tuple[int, int]]],
        held: Sequence[range],
        rank: int,
    ) -> None:
        self._like, self._lengths, self._held, self._rank = like, lengths, held, rank
        ranks = range(len(held))
        self.sent = np.array(
            [0 if to == rank else sum(self._blocks(rank, shard) for shard in held[to]) for to in ranks]
        )
        self.received = np.array(
            [0 if source == rank else sum(self._blocks(source, shard) for shard in held[rank]) for source in ranks]
        )

    def pack(self, shards: Sequence[Transitions]) -> np.ndarray:
        """Return the messages to all ranks, one after the other.

        Args:
            shards: this rank's own transitions of each shard.

        Returns:
            `(blocks, BLOCK_BYTES)` uint8.
        """
        messages, start = np.empty((self.sent.sum(), BLOCK_BYTES), np.uint8), 0
        for shard in (shard for to, held in enumerate(self._held) if to != self._rank for shard in held):
            stop = start + self._blocks(self._rank, shard)
            _write(shards[shard], messages[start:stop].reshape(-1))
            start = stop
        return messages

    def join(self, shards: Sequence[Transitions], messages: np.ndarray) -> list[Transitions]:
        """Return the transitions of all ranks for each shard of this rank.

        Args:
            shards: this rank's own transitions of each shard.
            messages: the messages from all ranks, one after the other, `(blocks, BLOCK_BYTES)` uint8.
        """
        parts: dict[int, list[Transitions]] = {shard: [] for shard in self._held[self._rank]}
        start, device = 0, self._like.row.device
        for source in range(len(self._held)):
            for shard, of_shard in parts.items():
                if source == self._rank:
                    of_shard.append(shards[shard])
                    continue
                stop = start + self._blocks(source, shard)
                part = _read(self._like, self._lengths[source][shard], messages[start:stop].reshape(-1))
                of_shard.append(part.to(device))
                start = stop
        return [
            Transitions.join([part for part in of_shard if len(part)] or of_shard[:1]) for of_shard in parts.values()
        ]

    def _blocks(self, source: int, shard: int) -> int:
        end = max(stop for _, _, stop, _ in _layout(self._like, *self._lengths[source][shard]))
        return -(-end // BLOCK_BYTES)


def _write(transitions: Transitions, message: np.ndarray) -> None:
    for name, start, stop, shape in _layout(transitions, len(transitions), len(transitions.observations)):
        values = getattr(transitions, name).cpu().numpy()
        message[start:stop].view(values.dtype).reshape(shape)[...] = values


def _read(like: Transitions, lengths: tuple[int, int], message: np.ndarray) -> Transitions:
    """Return the transitions of a message as views of its bytes."""
    columns = {}
    for name, start, stop, shape in _layout(like, *lengths):
        dtype = torch.empty(0, dtype=getattr(like, name).dtype).numpy().dtype
        columns[name] = torch.from_numpy(message[start:stop].view(dtype).reshape(shape))
    return Transitions(**columns)


def _layout(like: Transitions, steps: int, observations: int) -> Iterator[tuple[str, int, int, tuple[int, ...]]]:
    """Yield name, first byte, end and shape of each column."""
    start = 0
    for name, column in vars(like).items():
        shape = (observations if name == "observations" else steps, *column.shape[1:])
        stop = start + int(np.prod(shape)) * column.element_size()
        yield name, start, stop, shape
        start = -(-stop // _ALIGNMENT_BYTES) * _ALIGNMENT_BYTES
