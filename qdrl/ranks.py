"""Who computes which rows: MPI ranks, or one process.

Rank discipline: `share`, `any`, `from_first`, `leave`, and `take_genomes` and `learn` of a shared evaluation are
collective; every rank calls them in the same order. Everything else is local. Nothing else in the project knows MPI.

Under `mpirun --with-ft ulfm` (Open MPI 5) a killed rank is survived: the collective call during which it is missed
raises `RankLost` on all others, which by then are a smaller communicator and can do the generation again.

mpi4py is imported only under a launcher (mpirun, srun), so one process needs no MPI library at all.
"""

import os
import sys
import traceback
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, NoReturn, Protocol, TypeVar, cast

import numpy as np

from qdrl.errors import UserError

if TYPE_CHECKING:
    from torch import Tensor

    from qdrl.evaluation import Evaluation, Learned, Lesson, Transitions

THREAD_VARIABLES = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NUMEXPR_NUM_THREADS")
_Result = TypeVar("_Result")
_RANK_VARIABLES = ("OMPI_COMM_WORLD_RANK", "PMIX_RANK", "PMI_RANK", "MV2_COMM_WORLD_RANK")


def limit_threads(environment: dict[str, str] | None = None) -> dict[str, str]:
    """Give this process one thread a numeric library, unless the user said otherwise.

    Must run before torch and numpy are imported. Two threads on small networks were measured 30 times slower
    than one on a busy 2-core machine, and ranks share the node's cores anyway.

    Returns:
        the thread variables in force, by name.
    """
    target: Any = os.environ if environment is None else environment
    for name in THREAD_VARIABLES:
        target.setdefault(name, "1")
    return {name: target[name] for name in THREAD_VARIABLES}


def launched_rank() -> int | None:
    """This process's rank as its launcher states it, without starting MPI; None when no launcher is there."""
    for name in _RANK_VARIABLES:
        if name in os.environ:
            return int(os.environ[name])
    return None


class RankLost(Exception):  # noqa: N818 - an event to go on from, not an error
    """A rank died; the ranks object already stands for those that are left."""


class Ranks(Protocol):
    """The processes that run the loop together."""

    rank: int
    size: int

    @property
    def first(self) -> bool:
        """Whether this is the rank that writes files and speaks."""
        ...

    def rows(self, count: int) -> range:
        """This rank's rows of a generation of `count` rows: contiguous blocks, sizes differing by one at most."""
        ...

    def share(self, evaluation: "Evaluation") -> "Evaluation":
        """Collective. Give every rank the small columns of all rows, and a way to fetch genomes."""
        ...

    def any(self, flag: bool) -> bool:
        """Collective. Whether any rank's flag is set."""
        ...

    def from_first(self, value: Any) -> Any:
        """Collective. The first rank's value, everywhere (a small object)."""
        ...

    def leave(self) -> None:
        """Collective. The job's last call."""
        ...


class OneProcess:
    """The loop without MPI."""

    rank = 0
    size = 1
    first = True

    def rows(self, count: int) -> range:
        return range(count)

    def share(self, evaluation: "Evaluation") -> "Evaluation":
        return evaluation

    def any(self, flag: bool) -> bool:
        return flag

    def from_first(self, value: Any) -> Any:
        return value

    def leave(self) -> None:
        pass


class MpiRanks:
    """The loop on every rank of an MPI communicator.

    Args:
        communicator: an mpi4py communicator; the world when left out.
    """

    def __init__(self, communicator: Any = None) -> None:
        from mpi4py import MPI

        self._mpi = MPI
        self._communicator = MPI.COMM_WORLD if communicator is None else communicator
        self.rank: int = self._communicator.Get_rank()
        self.size: int = self._communicator.Get_size()
        self._lost = False
        self._survives_losses = os.environ.get("OMPI_MCA_mpi_ft_enable") == "1"  # noqa: SIM112 - its name

    @property
    def first(self) -> bool:
        return self.rank == 0

    def rows(self, count: int) -> range:
        return self._rows_of(self.rank, count)

    def any(self, flag: bool) -> bool:
        return self._together(lambda: bool(self._communicator.allreduce(int(flag), op=self._mpi.MAX)))

    def from_first(self, value: Any) -> Any:
        return self._together(lambda: self._communicator.bcast(value, root=0))

    def leave(self) -> None:
        if not self._lost:
            return
        # MPI_Finalize after a loss was measured to hang in 1 job of 8 when ranks reach it at different times
        # (Open MPI 5.0.11); leaving together without it, in none of 33.
        self._communicator.Barrier()
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(0)

    def share(self, evaluation: "Evaluation") -> "Evaluation":
        def gather() -> tuple[int, dict[str, "Tensor"]]:
            count = self._communicator.allreduce(len(evaluation.rows))
            return count, self._gather_columns(evaluation.columns(), count)

        count, columns = self._together(gather)
        take = self._genome_exchange(evaluation.take_genomes, count)
        return evaluation.with_columns(range(count), columns, take, self._first_learns)

    def _first_learns(self, lesson: "Lesson", own: "Transitions") -> "Learned":
        """Collective. The first rank learns from all ranks' transitions, in row order; everyone gets the result."""
        transitions = self._together(lambda: self._gather_transitions(own))
        learned = None if transitions is None else lesson(transitions)
        return self._together(lambda: self._broadcast(learned))

    def _gather_transitions(self, own: "Transitions") -> "Transitions | None":
        import torch

        counts = np.array(self._communicator.allgather(len(own)))
        gathered = {}
        for name, tensor in vars(own).items():
            send = np.ascontiguousarray(tensor.numpy())
            receive = np.empty((counts.sum() if self.first else 0, *send.shape[1:]), send.dtype)
            with self._row_type(send) as row:
                message = [receive, (counts, _starts(counts)), row] if self.first else None
                self._communicator.Gatherv([send, len(send), row], message, root=0)
            gathered[name] = torch.from_numpy(receive)
        return type(own)(**gathered) if self.first else None

    def _broadcast(self, arrays: "Learned | None") -> "Learned":
        shapes = None if arrays is None else {name: (a.shape, a.dtype.str) for name, a in arrays.items()}
        shapes = self._communicator.bcast(shapes, root=0)
        given = arrays or {name: np.empty(shape, dtype) for name, (shape, dtype) in shapes.items()}
        for array in given.values():
            self._communicator.Bcast(array, root=0)
        return given

    def _together(self, operation: Callable[[], _Result]) -> _Result:
        """Run a collective operation so that either all living ranks have its result or all see `RankLost`."""
        if not self._survives_losses:
            return operation()
        result, done = None, False
        try:
            result, done = operation(), True
        except self._mpi.Exception as error:
            if error.Get_error_class() not in (self._mpi.ERR_PROC_FAILED, self._mpi.ERR_REVOKED):
                raise
            self._communicator.Revoke()  # wakes the ranks that still wait in it
        try:
            done = bool(self._communicator.Agree(int(done)))
        except self._mpi.Exception:
            done = False
        if not done:
            self._communicator = self._communicator.Shrink()
            self._lost = True
            before, self.rank, self.size = self.size, self._communicator.Get_rank(), self._communicator.Get_size()
            raise RankLost(f"{before - self.size} of {before} ranks died, {self.size} go on")
        return cast("_Result", result)

    def _rows_of(self, rank: int, count: int) -> range:
        return range(rank * count // self.size, (rank + 1) * count // self.size)

    def _gather_columns(self, columns: Mapping[str, "Tensor"], count: int) -> dict[str, "Tensor"]:
        """All ranks' rows of every column, in row order, with one message: rows are packed as bytes."""
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

    def _genome_exchange(self, take_own: Callable[["Tensor"], "Tensor"], count: int) -> Callable[["Tensor"], "Tensor"]:
        import torch

        def take(rows: "Tensor") -> "Tensor":
            """Collective. Every rank gets the asked rows' genomes from the ranks that hold them."""
            asked = rows.cpu().numpy()
            bounds = [self._rows_of(rank, count) for rank in range(self.size)]
            edges = np.searchsorted(asked, [b.start for b in bounds] + [count])
            own = take_own(rows[edges[self.rank] : edges[self.rank + 1]])
            send = np.ascontiguousarray(own.cpu().numpy())
            receive = np.empty((len(asked), send.shape[1]), send.dtype)
            self._together(lambda: self._allgather_rows(send, receive, np.diff(edges)))
            return torch.from_numpy(receive).to(own.device)

        return take

    def _row_counts(self, count: int) -> np.ndarray:
        return np.array([len(self._rows_of(rank, count)) for rank in range(self.size)])

    def _allgather_rows(self, send: np.ndarray, receive: np.ndarray, counts: np.ndarray) -> None:
        with self._row_type(send) as row:
            self._communicator.Allgatherv([send, len(send), row], [receive, (counts, _starts(counts)), row])

    @contextmanager
    def _row_type(self, array: np.ndarray) -> Iterator[Any]:
        """One MPI element a row keeps counts small however long a row is."""
        width = int(np.prod(array.shape[1:])) * array.dtype.itemsize
        row = self._mpi.BYTE.Create_contiguous(width).Commit()
        try:
            yield row
        finally:
            row.Free()


def _starts(counts: np.ndarray) -> np.ndarray:
    return np.concatenate([[0], np.cumsum(counts)[:-1]])


def connect() -> Ranks:
    """The ranks of this job: all of MPI's world under a launcher, otherwise this process alone.

    Raises:
        UserError: mpi4py found another MPI than the one that launched the job, so that every rank is alone.
    """
    if launched_rank() is None:
        return OneProcess()
    ranks = MpiRanks()
    launched = int(os.environ.get("OMPI_COMM_WORLD_SIZE", ranks.size))
    if launched != ranks.size:
        raise UserError(
            f"mpirun launched {launched} ranks but mpi4py's MPI sees {ranks.size}: it is bound to another MPI"
            " than this mpirun's; `qdrl doctor` names it"
        )
    return ranks


def abort(error: BaseException, rank: int) -> NoReturn:
    """End the whole MPI job because this rank failed: its traceback on stderr, exit code 1.

    Without it the other ranks would wait in a collective call for ever.
    """
    from mpi4py import MPI

    lines = traceback.format_exception(error)
    sys.stderr.write(f"qdrl: rank {rank} failed; the whole job is aborted\n{''.join(lines)}")
    sys.stderr.flush()
    MPI.COMM_WORLD.Abort(1)
    raise SystemExit(1)
