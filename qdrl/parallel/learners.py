"""The learner group: the processes that train critics together.

The replay buffer is divided into shards, and each process of the group has some of them. The number of shards is a
setting of the algorithm, independent of the number of processes. Sums over shards are added in the order of shards, so
k shards give bit-identical results on one process and on k processes.

Every method is collective over the group.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from qdrl.errors import UserError

State = dict[str, np.ndarray]
"""Arrays of a shard by name."""


def block(index: int, blocks: int, count: int) -> range:
    """Return the items of one of several contiguous blocks, whose sizes differ by one at most.

    Args:
        index: number of the block, in [0, blocks).
        blocks: number of blocks.
        count: number of items.
    """
    return range(index * count // blocks, (index + 1) * count // blocks)


class Learners(Protocol):
    """The learner group as one of its processes sees it.

    Attributes:
        count: number of shards of the group.
        shards: the local shards, which are those of this process.
    """

    count: int
    shards: range

    def sum(self, parts: Tensor, out: Tensor) -> None:
        """Sum over all shards in their order; every process gets the same bits.

        Args:
            parts: `(local shards, ...)`, contiguous.
            out: `(...)`, contiguous; receives the sum.
        """
        ...

    def join(self, parts: Tensor) -> Tensor:
        """Return the parts of all shards on every process.

        Args:
            parts: `(local shards, ...)`.

        Returns:
            `(count, ...)`, in the order of shards.
        """
        ...

    def collect(self, states: Sequence[State]) -> list[State] | None:
        """Return the arrays of all shards on the group's first process, None on the others.

        Args:
            states: arrays of each local shard.

        Raises:
            UserError: a process of the group was lost.
        """
        ...


class OneLearner:
    """A learner group of this process alone.

    Args:
        count: number of shards.
    """

    def __init__(self, count: int = 1) -> None:
        self.count, self.shards = count, range(count)

    def sum(self, parts: Tensor, out: Tensor) -> None:
        """Sum over the shards in their order."""
        _sum_in_order(parts, out)

    def join(self, parts: Tensor) -> Tensor:
        """Return the parts themselves: all shards are local."""
        return parts

    def collect(self, states: Sequence[State]) -> list[State] | None:
        """Return the states themselves: all shards are local."""
        return list(states)


class MpiLearners:
    """A learner group of MPI processes, each of which has at least one shard.

    Args:
        communicator: an mpi4py communicator of the group; its first process is the job's first rank.
        count: number of shards, at least the number of processes.
    """

    def __init__(self, communicator: Any, count: int) -> None:
        self._communicator = communicator
        self._size: int = communicator.Get_size()
        self._rank: int = communicator.Get_rank()
        self._held = [block(rank, self._size, count) for rank in range(self._size)]
        self._plans: dict[tuple[int, np.dtype[Any]], _Plan] = {}
        self.count, self.shards = count, self._held[self._rank]

    def sum(self, parts: Tensor, out: Tensor) -> None:
        """Sum over all shards: each process adds one slice of the vector and sends the sum to the others."""
        if self._size == 1:
            _sum_in_order(parts, out)
            return
        if out.device.type != "cpu":  # messages are sent from host memory
            total = torch.empty_like(out, device="cpu")
            self.sum(parts.cpu(), total)
            out.copy_(total)
            return
        if out.numel() < _SMALL:
            _sum_in_order(self.join(parts), out)
            return
        vector = out.numpy().reshape(-1)
        plan = self._plans.get((vector.size, vector.dtype)) or self._plan(vector)
        given = parts.numpy().reshape(len(parts), -1)
        if len(given) > 1:
            given = np.concatenate([given[:, piece].ravel() for piece in plan.slices])
        self._communicator.Alltoallv([given, plan.sent], [plan.received, plan.arriving])
        _sum_in_order(torch.from_numpy(plan.received), out.view(-1)[plan.slices[self._rank]])
        self._communicator.Allgatherv(plan.in_place, [vector, plan.whole])

    def join(self, parts: Tensor) -> Tensor:
        """Gather the parts of all shards; see `Learners.join`."""
        given = np.ascontiguousarray(parts.numpy())
        joined = np.empty((self.count, *given.shape[1:]), given.dtype)
        layout = _layout([len(held) * given[0].size for held in self._held])
        self._communicator.Allgatherv(given, [joined, layout])
        return torch.from_numpy(joined)

    def collect(self, states: Sequence[State]) -> list[State] | None:
        """Gather the arrays of all shards on the first process; see `Learners.collect`."""
        from mpi4py import MPI

        try:
            return self._collect(states)
        except MPI.Exception as error:
            if error.Get_error_class() not in (MPI.ERR_PROC_FAILED, MPI.ERR_REVOKED):
                raise
            raise UserError(LOST) from error

    def revoke(self) -> None:
        """Revoke the communicator, so that no process of the group waits for a lost one."""
        self._communicator.Revoke()

    def _collect(self, states: Sequence[State]) -> list[State] | None:
        shapes = [{name: (a.shape, a.dtype.str) for name, a in state.items()} for state in states]
        gathered = self._communicator.gather(shapes, root=0)
        if self._rank:
            for state in states:
                for array in state.values():
                    self._communicator.Send(np.ascontiguousarray(array), dest=0)
            return None
        collected = list(states)
        for source in range(1, self._size):
            for shard in gathered[source]:
                state = {name: np.empty(shape, dtype) for name, (shape, dtype) in shard.items()}
                for array in state.values():
                    self._communicator.Recv(array, source=source)
                collected.append(state)
        return collected

    def _plan(self, total: np.ndarray) -> "_Plan":
        """Return how a vector is summed; it is cached, because a generation has thousands of sums."""
        from mpi4py import MPI

        slices = [block(rank, self._size, total.size) for rank in range(self._size)]
        own = len(slices[self._rank])
        plan = _Plan(
            slices=[slice(piece.start, piece.stop) for piece in slices],
            received=np.empty((self.count, own), total.dtype),
            sent=_layout([len(self.shards) * len(piece) for piece in slices]),
            arriving=_layout([len(held) * own for held in self._held]),
            whole=_layout([len(piece) for piece in slices]),
            in_place=MPI.IN_PLACE,
        )
        return self._plans.setdefault((total.size, total.dtype), plan)


@dataclass(frozen=True)
class _Plan:
    """How a vector is summed: its slices by process, buffers, and (counts, displacements) of the messages."""

    slices: list[slice]
    received: np.ndarray
    sent: tuple[list[int], list[int]]
    arriving: tuple[list[int], list[int]]
    whole: tuple[list[int], list[int]]
    in_place: Any


_SMALL = 1024  # below this many numbers one message with all parts is faster than two with slices
LOST = "a learner rank was lost together with its part of the replay buffer: resume from the last checkpoint"
"""Message of the `UserError` after the loss of a rank of the group."""


def _sum_in_order(parts: Tensor, out: Tensor) -> None:
    if len(parts) == 1:
        out.copy_(parts[0])
        return
    torch.add(parts[0], parts[1], out=out)
    for part in parts[2:]:
        out += part


def _layout(counts: list[int]) -> tuple[list[int], list[int]]:
    return counts, [0, *accumulate(counts[:-1])]
