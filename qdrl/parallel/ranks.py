"""Who computes which rows: MPI ranks, or one process.

Rank discipline: `share`, `any`, `from_first`, `shared`, `gather`, `wait_for_all`, `leave` and the methods of `exchange`
are collective; every rank calls them in the same order. Everything else is local.

Under `mpirun --with-ft ulfm` (Open MPI 5) a killed rank is survived: the collective call during which it is missed
raises `RankLost` on all others, which by then are a smaller communicator and can do the generation again.

`qdrl.parallel.mpi` is imported only under a launcher (mpirun, srun), so one process needs no MPI library at all. A
launcher is known by the variables that it sets; `QDRL_LAUNCHER=none` makes qdrl ignore them, and every process runs
alone. This module imports neither numpy nor torch: their numbers of threads are fixed when they are.
"""

import faulthandler
import os
import re
import sys
import traceback
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn, Protocol, TypeVar

from qdrl.errors import RankLost, UserError
from qdrl.parallel.exchange import LOCAL, Exchange
from qdrl.parallel.start_watch import watched_start
from qdrl.provenance.software import git_commit

if TYPE_CHECKING:
    from collections.abc import Callable

    import numpy as np

    from qdrl.evaluation import Evaluation

_Result = TypeVar("_Result")

THREAD_VARIABLES = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NUMEXPR_NUM_THREADS")
_RANK_VARIABLES = ("OMPI_COMM_WORLD_RANK", "PMIX_RANK", "PMI_RANK", "MV2_COMM_WORLD_RANK")
_SIZE_VARIABLES = ("OMPI_COMM_WORLD_SIZE", "PMI_SIZE", "MV2_COMM_WORLD_SIZE")
_LAUNCHER = "QDRL_LAUNCHER"
_ABORT_SECONDS = 10.0  # how long MPI_Abort may take before this process ends by itself

_LOCAL_RANK_VARIABLES = (
    "OMPI_COMM_WORLD_LOCAL_RANK",
    "MPI_LOCALRANKID",
    "MV2_COMM_WORLD_LOCAL_RANK",
    "PALS_LOCAL_RANKID",
    "PMI_LOCAL_RANK",
    "SLURM_LOCALID",
)


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
    """Return this process's rank as its launcher states it, without starting MPI; None when no launcher is there."""
    return None if os.environ.get(_LAUNCHER) == "none" else _stated(_RANK_VARIABLES, None)


def local_rank() -> int:
    """This process's number among the ranks of its node, as the launcher states it; 0 when none does."""
    return _stated(_LOCAL_RANK_VARIABLES, 0) or 0


def local_size() -> int:
    """How many ranks of the job this node has, as the launcher states it; 1 when none does."""
    names = ("OMPI_COMM_WORLD_LOCAL_SIZE", "MPI_LOCALNRANKS", "MV2_COMM_WORLD_LOCAL_SIZE", "PALS_LOCAL_SIZE")
    return _stated(names, None) or _tasks_of_slurm() or 1


def _tasks_of_slurm() -> int | None:
    """Return this node's tasks of an srun step, from a text such as "4(x2),3"; None outside srun."""
    node, text = _stated(("SLURM_NODEID",), None), os.environ.get("SLURM_STEP_TASKS_PER_NODE", "")
    if node is None or os.environ.get("SLURM_PROCID") != str(launched_rank()):
        return None
    counts: list[int] = []
    for part in re.finditer(r"(\d+)(?:\(x(\d+)\))?", text):
        counts += [int(part[1])] * int(part[2] or 1)
    return counts[node] if node < len(counts) else None


def _stated(names: tuple[str, ...], otherwise: int | None) -> int | None:
    """The first of some variables that holds a number."""
    return next((int(os.environ[name]) for name in names if os.environ.get(name, "").isdecimal()), otherwise)


def launched_size() -> int | None:
    """How many ranks the launcher says it started, without starting MPI; None when it does not say."""
    if os.environ.get(_LAUNCHER) == "none":
        return None
    if (size := _stated(_SIZE_VARIABLES, None)) is not None:
        return size
    # srun's own ranks say it; under mpirun in an allocation it would be the number of the batch script's tasks.
    by_srun = os.environ.get("SLURM_PROCID") == os.environ.get("PMIX_RANK", "none")
    return _stated(("SLURM_STEP_NUM_TASKS",), None) if by_srun else None


def separate_tasks() -> int:
    """Return how many tasks srun started without telling them of each other; 1 where it did, or there is no srun.

    A batch script and a step of one task are no such tasks: they have no step number, or say that they are one.
    """
    if launched_rank() is not None or os.environ.get(_LAUNCHER) == "none" or "SLURM_STEP_ID" not in os.environ:
        return 1
    return _stated(("SLURM_STEP_NUM_TASKS",), 1) or 1


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

    def share(self, evaluation: "Evaluation", count: int) -> "Evaluation":
        """Collective. Return the evaluation with the small columns of all rows, on every rank.

        Args:
            evaluation: this rank's rows.
            count: rows of the generation.

        Raises:
            ValueError: the evaluation has other rows than this rank's.
        """
        ...

    @property
    def exchange(self) -> Exchange:
        """The collectives that an algorithm's `tell` may use."""
        ...

    def any(self, flag: bool) -> bool:
        """Collective. Return whether any rank's flag is set."""
        ...

    def any_of(self, *flags: bool) -> tuple[bool, ...]:
        """Collective. Return for each flag whether any rank has it set; one message for all flags."""
        ...

    def from_first(self, value: Any) -> Any:
        """Collective. The first rank's value, everywhere (a small object)."""
        ...

    def shared(self, size: int, fill: "Callable[[np.ndarray], None]") -> "np.ndarray":
        """Collective. `(size,)` float32 that the ranks of a node have in common; one of them fills it.

        Args:
            size: how many numbers.
            fill: given the empty numbers, writes them all; the same on every rank.
        """
        ...

    def gather(self, value: Any) -> list[Any]:
        """Collective. Every rank's value (a small object), in the order of ranks, everywhere."""
        ...

    def wait_for_all(self) -> None:
        """Collective. Return when all ranks have called it."""
        ...

    def leave(self, code: int = 0) -> None:
        """Collective. The job's last call; where ranks may be lost it ends this process.

        Args:
            code: the exit code with which this process will end, the same on every rank.
        """
        ...


class OneProcess:
    """The loop without MPI."""

    rank = 0
    size = 1
    first = True

    def rows(self, count: int) -> range:
        return range(count)

    @property
    def exchange(self) -> Exchange:
        return LOCAL

    def share(self, evaluation: "Evaluation", count: int) -> "Evaluation":
        from qdrl.evaluation import check_rows

        check_rows(evaluation, self.rows(count))
        return evaluation

    def any(self, flag: bool) -> bool:
        return flag

    def any_of(self, *flags: bool) -> tuple[bool, ...]:
        return flags

    def from_first(self, value: Any) -> Any:
        return value

    def shared(self, size: int, fill: "Callable[[np.ndarray], None]") -> "np.ndarray":
        import numpy as np

        numbers = np.empty(size, np.float32)
        fill(numbers)
        return numbers

    def gather(self, value: Any) -> list[Any]:
        return [value]

    def wait_for_all(self) -> None:
        pass

    def leave(self, code: int = 0) -> None:
        pass


def repeat_after_losses(work: "Callable[[], _Result]", note: "Callable[[RankLost], None]") -> "_Result":
    """Collective. Return what collective work gives, done again by the remaining ranks whenever a rank is lost.

    Args:
        work: may be done several times.
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
            f"srun started {tasks} tasks that cannot find each other, and each would be a whole run: use"
            f" `srun --mpi=pmix`, `srun --mpi=pmi2` or mpirun; for separate runs set {_LAUNCHER}=none"
        )
    if (rank := launched_rank()) is None:
        return OneProcess()
    if rank == 0:
        git_commit()  # remembered: once MPI has started, no other process may be
    try:
        with watched_start():
            from qdrl.parallel.mpi import MpiRanks

            ranks = MpiRanks()
            _meet(ranks)
    except (ImportError, RuntimeError) as error:  # mpi4py raises RuntimeError where it finds no MPI library
        return _alone_or_refused(error)
    launched = launched_size() or ranks.size
    if launched != ranks.size or (launched_rank() or 0) >= ranks.size:
        raise UserError(
            f"{launched} ranks were launched but mpi4py's MPI sees {ranks.size}: it is bound to another MPI"
            " than the launcher's; `qdrl doctor` names it"
        )
    return ranks


def _alone_or_refused(error: Exception) -> Ranks:
    """Run alone where the launcher started one rank and MPI is missing; with several that would be several runs."""
    size, reason = launched_size(), str(error).partition("\n")[0]
    if size == 1:
        sys.stderr.write(f"qdrl: launched as a single rank without MPI ({reason}); running as one process\n")
        return OneProcess()
    launched = "ranks were launched" if size is None else f"{size} ranks were launched"
    raise UserError(
        f"{launched} but MPI cannot be used ({reason}): pip install 'qdrl[mpi]', or load the cluster's MPI module and"
        f" reinstall mpi4py; to run as one process set {_LAUNCHER}=none"
    )


def _meet(ranks: Ranks) -> None:
    """Collective. Return once all ranks are known to have started; from then on a death is noticed by every call."""
    try:
        ranks.any(False)
    except RankLost as loss:
        raise UserError(f"{loss} while the job started; start it again") from loss


def abort(error: BaseException, rank: int) -> NoReturn:
    """End the whole MPI job because this rank failed: its traceback on stderr, exit code 1.

    Without it the other ranks would wait in a collective call for ever.
    """
    lines = traceback.format_exception(error)
    sys.stderr.write(f"qdrl: rank {rank} failed; the whole job is aborted\n{''.join(lines)}")
    sys.stderr.flush()
    end_all_ranks(1)
    raise SystemExit(1)


def end_all_ranks(code: int) -> None:
    """End the whole MPI job with an exit code; return where MPI does not run or has one rank.

    After a loss `MPI_Abort` was measured to hang in 1 job of 6 (Open MPI 5.0.11, ULFM); this process then ends
    alone, and the launcher with it.
    """
    mpi = sys.modules.get("mpi4py.MPI")
    if mpi is None or not mpi.Is_initialized() or mpi.COMM_WORLD.Get_size() == 1:
        return
    with Path(os.devnull).open("w", encoding="utf-8") as nowhere:
        # A thread that needs no interpreter lock, which Abort keeps; it ends the process with exit code 1.
        faulthandler.dump_traceback_later(_ABORT_SECONDS, exit=True, file=nowhere)
        mpi.COMM_WORLD.Abort(code)
