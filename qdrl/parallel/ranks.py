"""The processes that run one job: the `Ranks` protocol, a single process, and `connect`.

Collective calls: `share`, `any`, `from_first`, `shared`, `gather`, `wait_for_all`, `leave` and the methods of
`exchange`. Every rank makes them in the same order. All other calls are local.

Under `mpirun --with-ft ulfm` (Open MPI 5) a job survives the death of a rank. The collective call that notices the loss
raises `RankLost` on all other ranks. These then form a smaller communicator and can repeat the generation.

`qdrl.parallel.mpi` is imported only under a launcher (mpirun, srun), so a single process needs no MPI library. This
module imports neither numpy nor torch; see `qdrl.parallel.launcher`.
"""

import sys
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

from qdrl.errors import RankLost, UserError
from qdrl.parallel.exchange import LOCAL, Exchange
from qdrl.parallel.launcher import LAUNCHER_SWITCH, launched_rank, launched_size, separate_tasks
from qdrl.parallel.start_watch import watched_start
from qdrl.provenance.software import git_commit

if TYPE_CHECKING:
    from collections.abc import Callable

    import numpy as np

    from qdrl.evaluation import Evaluation

_Result = TypeVar("_Result")


class Ranks(Protocol):
    """The processes of a job, as one of them sees them.

    Attributes:
        rank: number of this process, in [0, size).
        size: number of processes.
    """

    rank: int
    size: int

    @property
    def first(self) -> bool:
        """Return whether this is the rank that writes files and prints."""
        ...

    def rows(self, count: int) -> range:
        """Return this rank's rows of a generation of `count` rows.

        The ranks have contiguous blocks of rows. Their sizes differ by one at most.
        """
        ...

    def share(self, evaluation: "Evaluation", count: int) -> "Evaluation":
        """Return the evaluation with the small columns of all rows, on every rank (collective).

        Args:
            evaluation: this rank's rows.
            count: rows of the generation.

        Raises:
            ValueError: the evaluation has other rows than this rank's.
        """
        ...

    @property
    def exchange(self) -> Exchange:
        """Return the collectives that an algorithm's `tell` may use."""
        ...

    def any(self, flag: bool) -> bool:
        """Return whether any rank's flag is set (collective)."""
        ...

    def any_of(self, *flags: bool) -> tuple[bool, ...]:
        """Return for each flag whether any rank has it set, with one message for all of them (collective)."""
        ...

    def from_first(self, value: Any) -> Any:
        """Return the first rank's value, a small object, on every rank (collective)."""
        ...

    def shared(self, size: int, fill: "Callable[[np.ndarray], None]") -> "np.ndarray":
        """Return an array in memory that the ranks of a node share (collective).

        Args:
            size: number of elements.
            fill: writes all elements of an uninitialised array. One rank of each node calls it. It must write the same
                elements on every rank.

        Returns:
            `(size,)` float32.
        """
        ...

    def gather(self, value: Any) -> list[Any]:
        """Return every rank's value, a small object, in the order of ranks, on every rank (collective)."""
        ...

    def wait_for_all(self) -> None:
        """Return when all ranks have called it (collective)."""
        ...

    def leave(self, code: int = 0) -> None:
        """End the job; the last call of every rank (collective). Where the job survives losses, end this process.

        Args:
            code: the exit code with which this process will end, the same on every rank.
        """
        ...


class OneProcess:
    """The ranks of a job without MPI: this process alone."""

    rank = 0
    size = 1
    first = True

    def rows(self, count: int) -> range:
        """Return all rows."""
        return range(count)

    @property
    def exchange(self) -> Exchange:
        """Return the exchange of a single process."""
        return LOCAL

    def share(self, evaluation: "Evaluation", count: int) -> "Evaluation":
        """Return the evaluation itself: it has all rows."""
        from qdrl.evaluation import check_rows

        check_rows(evaluation, self.rows(count))
        return evaluation

    def any(self, flag: bool) -> bool:
        """Return this process's flag."""
        return flag

    def any_of(self, *flags: bool) -> tuple[bool, ...]:
        """Return this process's flags."""
        return flags

    def from_first(self, value: Any) -> Any:
        """Return the value itself."""
        return value

    def shared(self, size: int, fill: "Callable[[np.ndarray], None]") -> "np.ndarray":
        """Return a filled array in this process's own memory, `(size,)` float32."""
        import numpy as np

        numbers = np.empty(size, np.float32)
        fill(numbers)
        return numbers

    def gather(self, value: Any) -> list[Any]:
        """Return a list of this value."""
        return [value]

    def wait_for_all(self) -> None:
        """Return at once."""

    def leave(self, code: int = 0) -> None:
        """Return at once."""


def repeat_after_losses(work: "Callable[[], _Result]", note: "Callable[[RankLost], None]") -> "_Result":
    """Run collective work and return its result; whenever a rank is lost, the remaining ranks repeat it (collective).

    Args:
        work: safe to call several times.
        note: called with each loss, on every remaining rank.
    """
    while True:
        try:
            return work()
        except RankLost as loss:
            note(loss)


def connect() -> Ranks:
    """Return the ranks of this job: all of MPI's world under a launcher, otherwise this process alone.

    Raises:
        UserError: several ranks were launched and cannot work together: mpi4py or its MPI is missing, mpi4py found
            another MPI than the launcher's, or srun started tasks that know nothing of each other.
    """
    if (tasks := separate_tasks()) > 1:
        raise UserError(
            f"srun started {tasks} tasks without a common MPI, and each would start a run of its own: use"
            f" `srun --mpi=pmix`, `srun --mpi=pmi2` or mpirun; for separate runs set {LAUNCHER_SWITCH}=none"
        )
    if (rank := launched_rank()) is None:
        return OneProcess()
    if rank == 0:
        git_commit()  # the result is cached: after MPI has started, no process may be started
    try:
        with watched_start():
            from qdrl.parallel.mpi import MpiRanks

            ranks = MpiRanks()
            _wait_for_start(ranks)
    except (ImportError, RuntimeError) as error:  # mpi4py raises RuntimeError where it finds no MPI library
        return _without_mpi(error)
    launched = launched_size() or ranks.size
    if launched != ranks.size or (launched_rank() or 0) >= ranks.size:
        raise UserError(
            f"{launched} ranks were launched but mpi4py's MPI sees {ranks.size}: mpi4py uses another MPI library"
            " than the launcher; `qdrl doctor` shows which"
        )
    return ranks


def _without_mpi(error: Exception) -> Ranks:
    """Return this process alone where the launcher started a single rank.

    Raises:
        UserError: the launcher started several ranks; each of them would be a whole run.
    """
    size, reason = launched_size(), str(error).partition("\n")[0]
    if size == 1:
        sys.stderr.write(f"qdrl: launched as a single rank without MPI ({reason}); running as one process\n")
        return OneProcess()
    launched = "ranks were launched" if size is None else f"{size} ranks were launched"
    raise UserError(
        f"{launched} but MPI cannot be used ({reason}): pip install 'qdrl[mpi]', or load the cluster's MPI module and"
        f" reinstall mpi4py; to run as one process set {LAUNCHER_SWITCH}=none"
    )


def _wait_for_start(ranks: Ranks) -> None:
    """Return when all ranks have started (collective). From then on every collective call notices a lost rank.

    Raises:
        UserError: a rank was lost while the job started.
    """
    try:
        ranks.any(False)
    except RankLost as loss:
        raise UserError(f"{loss} while the job started; start it again") from loss
