"""Who computes which rows: MPI ranks, or one process.

Rank discipline: `share`, `any`, `from_first`, `shared`, `wait_for_all`, `leave`, and `take_genomes` and `learn` of a
shared evaluation are collective; every rank calls them in the same order. Everything else is local.

Under `mpirun --with-ft ulfm` (Open MPI 5) a killed rank is survived: the collective call during which it is missed
raises `RankLost` on all others, which by then are a smaller communicator and can do the generation again.

`qdrl.mpi` is imported only under a launcher (mpirun, srun), so one process needs no MPI library at all. This module
imports neither numpy nor torch: their numbers of threads are fixed when they are.
"""

import faulthandler
import os
import sys
import traceback
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn, Protocol, TypeVar

from qdrl.errors import RankLost, UserError
from qdrl.start_watch import watched_start

if TYPE_CHECKING:
    from collections.abc import Callable

    import numpy as np

    from qdrl.evaluation import Evaluation

_Result = TypeVar("_Result")

THREAD_VARIABLES = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NUMEXPR_NUM_THREADS")
_RANK_VARIABLES = ("OMPI_COMM_WORLD_RANK", "PMIX_RANK", "PMI_RANK", "MV2_COMM_WORLD_RANK")
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
    """This process's rank as its launcher states it, without starting MPI; None when no launcher is there."""
    for name in _RANK_VARIABLES:
        if name in os.environ:
            return int(os.environ[name])
    return None


def local_rank() -> int:
    """This process's number among the ranks of its node, as the launcher states it; 0 when none does."""
    return _stated(_LOCAL_RANK_VARIABLES, 0)


def local_size() -> int:
    """How many ranks of the job this node has, as the launcher states it; 1 when none does."""
    return _stated(("OMPI_COMM_WORLD_LOCAL_SIZE", "MPI_LOCALNRANKS", "MV2_COMM_WORLD_LOCAL_SIZE", "PALS_LOCAL_SIZE"), 1)


def _stated(names: tuple[str, ...], otherwise: int) -> int:
    return next((int(os.environ[name]) for name in names if name in os.environ), otherwise)


def launched_size() -> int | None:
    """How many ranks the launcher says it started, without starting MPI; None when it does not say."""
    for name in ("OMPI_COMM_WORLD_SIZE", "PMI_SIZE", "MV2_COMM_WORLD_SIZE"):
        if name in os.environ:
            return int(os.environ[name])
    # srun's own ranks say it; under mpirun in an allocation it would be the number of the batch script's tasks.
    by_srun = os.environ.get("SLURM_PROCID") == os.environ.get("PMIX_RANK", "none")
    return int(os.environ["SLURM_STEP_NUM_TASKS"]) if by_srun and "SLURM_STEP_NUM_TASKS" in os.environ else None


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

    def shared(self, size: int, fill: "Callable[[np.ndarray], None]") -> "np.ndarray":
        """Collective. `(size,)` float32 that the ranks of a node have in common; one of them fills it.

        Args:
            size: how many numbers.
            fill: given the empty numbers, writes them all; the same on every rank.
        """
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

    def share(self, evaluation: "Evaluation") -> "Evaluation":
        return evaluation

    def any(self, flag: bool) -> bool:
        return flag

    def from_first(self, value: Any) -> Any:
        return value

    def shared(self, size: int, fill: "Callable[[np.ndarray], None]") -> "np.ndarray":
        import numpy as np

        numbers = np.empty(size, np.float32)
        fill(numbers)
        return numbers

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
    """The ranks of this job: all of MPI's world under a launcher, otherwise this process alone.

    Raises:
        UserError: mpi4py found another MPI than the one that launched the job, so that every rank is alone.
    """
    if launched_rank() is None:
        return OneProcess()
    with watched_start():
        from qdrl.mpi import MpiRanks

        ranks = MpiRanks()
        _meet(ranks)
    launched = launched_size() or ranks.size
    if launched != ranks.size or (launched_rank() or 0) >= ranks.size:
        raise UserError(
            f"{launched} ranks were launched but mpi4py's MPI sees {ranks.size}: it is bound to another MPI"
            " than the launcher's; `qdrl doctor` names it"
        )
    return ranks


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
    with Path(os.devnull).open("w") as nowhere:
        # A thread that needs no interpreter lock, which Abort keeps; it ends the process with exit code 1.
        faulthandler.dump_traceback_later(_ABORT_SECONDS, exit=True, file=nowhere)
        mpi.COMM_WORLD.Abort(code)
