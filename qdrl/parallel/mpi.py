"""`MpiRanks`, the ranks of an MPI communicator; `qdrl.parallel.ranks.Ranks` documents the methods.

The communication between ranks is in this module and in `qdrl.parallel.learners`. mpi4py is imported only under a
launcher.
"""

import logging
import os
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Any, TypeVar, cast

import numpy as np

from qdrl.errors import RankLost
from qdrl.parallel.exchange import shards_of
from qdrl.parallel.learners import MpiLearners, block

if TYPE_CHECKING:
    from torch import Tensor

    from qdrl.evaluation import Evaluation, Transitions
    from qdrl.parallel.exchange import Training, TrainingResult

_Result = TypeVar("_Result")


class MpiRanks:
    """The ranks of an MPI communicator.

    Args:
        communicator: an mpi4py communicator; the world when left out.
    """

    def __init__(self, communicator: Any = None) -> None:
        from mpi4py import MPI

        self._mpi = MPI
        self._communicator: Any = MPI.COMM_WORLD if communicator is None else communicator
        self.rank: int = self._communicator.Get_rank()
        self.size: int = self._communicator.Get_size()
        self._groups: dict[int, MpiLearners] = {}
        self._windows: list[Any] = []
        self._survives_losses = os.environ.get("OMPI_MCA_mpi_ft_enable") == "1"  # noqa: SIM112 - its name

    @property
    def first(self) -> bool:
        """Return whether this is rank 0."""
        return self.rank == 0

    def rows(self, count: int) -> range:
        """Return this rank's rows of a generation of `count` rows."""
        return self._rows_of(self.rank, count)

    def any(self, flag: bool) -> bool:
        """Return whether any rank's flag is set (collective)."""
        return self.any_of(flag)[0]

    def any_of(self, *flags: bool) -> tuple[bool, ...]:
        """Return for each flag whether any rank has it set, with one message for all of them (collective)."""
        own, result = np.array(flags, np.uint8), np.empty(len(flags), np.uint8)
        self._together(lambda: self._communicator.Allreduce(own, result, op=self._mpi.MAX))
        return tuple(bool(flag) for flag in result)

    def from_first(self, value: Any) -> Any:
        """Return the first rank's value on every rank (collective)."""
        return self._together(lambda: self._communicator.bcast(value, root=0))

    def gather(self, value: Any) -> list[Any]:
        """Return every rank's value, in the order of ranks, on every rank (collective)."""
        return self._together(lambda: self._communicator.allgather(value))

    def shared(self, size: int, fill: Callable[[np.ndarray], None]) -> np.ndarray:
        """Return an array in the shared memory of this node, `(size,)` float32 (collective)."""
        return self._together(lambda: self._share_memory(size, fill))

    def _share_memory(self, size: int, fill: Callable[[np.ndarray], None]) -> np.ndarray:
        node = self._communicator.Split_type(self._mpi.COMM_TYPE_SHARED)
        try:
            own = size * 4 if node.Get_rank() == 0 else 0
            window = self._mpi.Win.Allocate_shared(own, 4, comm=node)
            memory, _ = window.Shared_query(0)
            numbers = np.frombuffer(cast("Any", memory), np.float32, count=size)
            if node.Get_rank() == 0:
                fill(numbers)
            node.Barrier()
        except self._mpi.Exception:
            if self._survives_losses:
                node.Revoke()  # ends the waiting of ranks that wait for others than the lost one
            raise
        self._windows.append(window)  # the memory is freed with the window
        return numbers

    def wait_for_all(self) -> None:
        """Return when all ranks have called it (collective)."""
        self._together(self._communicator.Barrier)

    def leave(self, code: int = 0) -> None:
        """End this process where the MPI survives losses, otherwise return (collective)."""
        if not self._survives_losses:
            return
        # MPI_Finalize after a loss was measured to hang in 1 job of 8 when ranks reach it at different times
        # (Open MPI 5.0.11); agreeing and exiting without it, in none of 33. A rank may also be lost during it.
        with suppress(self._mpi.Exception):
            self._communicator.Agree(1)
        logging.shutdown()
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)

    @property
    def exchange(self) -> "MpiRanks":
        """Return this object: it implements `qdrl.parallel.exchange.Exchange`."""
        return self

    def share(self, evaluation: "Evaluation", count: int) -> "Evaluation":
        """Return the evaluation with the small columns of all rows, on every rank (collective)."""
        from qdrl.evaluation import check_rows

        check_rows(evaluation, self.rows(count))
        columns = self._together(lambda: self._gather_columns(evaluation.columns(), count))
        return evaluation.with_columns(range(count), columns)

    def train(self, evaluation: "Evaluation", training: "Training", shards: int = 1) -> "TrainingResult":
        """Train on the transitions of all rows (collective); see `qdrl.parallel.exchange.Exchange.train`.

        The first ranks are the learners. They receive transitions in the order of rows.
        """
        own = shards_of(evaluation, shards)
        held = self._together(lambda: self._gather_shards(own))
        return self._together(
            lambda: self._broadcast(self._within(shards, lambda group: training(held, group)) if held else None)
        )

    def sum_blocks(self, block: "Callable[[int], Tensor]", blocks: int) -> "Tensor":
        """Return the sum of all terms, added in order, each computed by one rank (collective)."""
        import torch

        def sum_of(group: MpiLearners) -> "Tensor":
            parts = torch.stack([block(index) for index in group.shards])
            total = torch.empty_like(parts[0])
            group.sum(parts, total)
            return total

        def add_up() -> "Tensor":
            total = self._within(blocks, sum_of) if self.rank < blocks else None
            if self.size > blocks:  # some ranks compute no term
                known = None if total is None else {"total": total.numpy()}
                total = torch.from_numpy(self._broadcast(known)["total"])
            return cast("Tensor", total)

        return self._together(add_up)

    def _within(self, parts: int, work: Callable[[MpiLearners], _Result]) -> _Result:
        """Run work in the learner group of this many shards (collective over the group).

        On a loss the group's communicator is revoked, so that its other members notice the loss too.
        """
        if parts not in self._groups:
            members = self._communicator.Get_group().Incl(range(min(self.size, parts)))
            self._groups[parts] = MpiLearners(self._communicator.Create_group(members), parts)
        try:
            return work(self._groups[parts])
        except self._mpi.Exception:
            if self._survives_losses:
                self._groups[parts].revoke()
            raise

    def _gather_shards(self, shards: "Sequence[Transitions]") -> "Sequence[Transitions]":
        """Return the transitions of all ranks for the shards of this rank (collective).

        It takes two collective calls: one for the lengths of all parts, one for the messages to the learners.
        """
        from qdrl.parallel.messages import BLOCK_BYTES, TransitionMessages

        learners = min(self.size, len(shards))
        held = [block(rank, learners, len(shards)) if rank < learners else range(0) for rank in range(self.size)]
        lengths = self._communicator.allgather([(len(part), len(part.observations)) for part in shards])
        messages = TransitionMessages(shards[0], lengths, held, self.rank)
        outgoing, incoming = messages.pack(shards), np.empty((messages.received.sum(), BLOCK_BYTES), np.uint8)
        with self._row_type(outgoing) as row:
            self._communicator.Alltoallv(
                [outgoing, (messages.sent, _starts(messages.sent)), row],
                [incoming, (messages.received, _starts(messages.received)), row],
            )
        return messages.join(shards, incoming)

    def _broadcast(self, arrays: "TrainingResult | None") -> "TrainingResult":
        """Return the first rank's arrays on every rank (collective).

        They are pickled into one message: for a few megabytes this is faster than a message for each array.
        """
        return self._communicator.bcast(arrays if self.first else None, root=0)

    def _together(self, operation: Callable[[], _Result]) -> _Result:
        """Run a collective operation so that either all living ranks have its result or all raise `RankLost`."""
        if not self._survives_losses:
            return operation()
        result, done = None, False
        try:
            result, done = operation(), True
        except self._mpi.Exception as error:
            if error.Get_error_class() not in (self._mpi.ERR_PROC_FAILED, self._mpi.ERR_REVOKED):
                raise
            self._communicator.Revoke()  # ends the waiting of the other ranks
        try:
            done = bool(self._communicator.Agree(int(done)))
        except self._mpi.Exception:
            done = False
        if not done:
            self._communicator = self._communicator.Shrink()
            self._groups = {}
            before, self.rank, self.size = self.size, self._communicator.Get_rank(), self._communicator.Get_size()
            raise RankLost(f"{before - self.size} of {before} ranks died, {self.size} continue")
        return cast("_Result", result)

    def _rows_of(self, rank: int, count: int) -> range:
        return block(rank, self.size, count)

    def _gather_columns(self, columns: Mapping[str, "Tensor"], count: int) -> dict[str, "Tensor"]:
        """Return all ranks' rows of every column, in row order (collective).

        The columns are packed into one array of bytes, so that one collective call sends all of them.
        """
        import torch

        arrays = {name: np.ascontiguousarray(tensor.cpu().numpy()) for name, tensor in columns.items()}
        widths = {name: a.dtype.itemsize * int(np.prod(a.shape[1:])) for name, a in arrays.items()}
        own = np.hstack([a.view(np.uint8).reshape(len(a), widths[name]) for name, a in arrays.items()])
        packed = np.empty((count, own.shape[1]), np.uint8)
        self._allgather_rows(np.ascontiguousarray(own), packed, self._row_counts(count))
        shared, offset = {}, 0
        for name, array in arrays.items():
            piece = packed[:, offset : offset + widths[name]].copy()  # even a contiguous slice may be unaligned
            offset += widths[name]
            whole = piece.view(array.dtype).reshape(count, *array.shape[1:])
            shared[name] = torch.from_numpy(whole).to(columns[name].device)
        return shared

    def genomes(self, evaluation: "Evaluation", rows: "Tensor") -> "Tensor":
        """Return the requested rows' genomes from the ranks that evaluated them, on every rank (collective)."""
        import torch

        # Archives request rows in ascending order: then nothing has to be sorted, and no second copy is made.
        order = None if bool((rows[1:] >= rows[:-1]).all()) else rows.argsort(stable=True)
        ascending = rows if order is None else rows[order]
        requested, count = ascending.cpu().numpy(), len(evaluation.rows)
        bounds = [self._rows_of(rank, count) for rank in range(self.size)]
        edges = np.searchsorted(requested, [b.start for b in bounds] + [count])
        own = evaluation.own_genomes(ascending[edges[self.rank] : edges[self.rank + 1]])
        send = np.ascontiguousarray(own.cpu().numpy())
        receive = np.empty((len(requested), send.shape[1]), send.dtype)
        self._together(lambda: self._allgather_rows(send, receive, np.diff(edges)))
        genomes = torch.from_numpy(receive).to(own.device)
        return genomes if order is None else genomes[order.argsort().to(own.device)]

    def _row_counts(self, count: int) -> np.ndarray:
        return np.array([len(self._rows_of(rank, count)) for rank in range(self.size)])

    def _allgather_rows(self, send: np.ndarray, receive: np.ndarray, counts: np.ndarray) -> None:
        with self._row_type(send) as row:
            self._communicator.Allgatherv([send, len(send), row], [receive, (counts, _starts(counts)), row])

    @contextmanager
    def _row_type(self, array: np.ndarray) -> Iterator[Any]:
        """Create an MPI type of one row: counts are then numbers of rows, which fit into MPI's int32."""
        width = int(np.prod(array.shape[1:])) * array.dtype.itemsize
        row = self._mpi.BYTE.Create_contiguous(width).Commit()
        try:
            yield row
        finally:
            row.Free()


def _starts(counts: np.ndarray) -> np.ndarray:
    return np.concatenate([[0], np.cumsum(counts)[:-1]])
