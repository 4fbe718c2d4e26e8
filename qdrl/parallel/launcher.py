"""The process as its launcher (mpirun, srun) started it: thread limits, rank numbers, the end of a job.

A launcher is recognised by the environment variables that it sets. `QDRL_LAUNCHER=none` makes qdrl ignore them: every
process then runs alone. This module imports neither numpy nor torch, because their numbers of threads are fixed when
they are imported.
"""

import faulthandler
import os
import re
import sys
import traceback
from pathlib import Path
from typing import Any, NoReturn

THREAD_VARIABLES = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NUMEXPR_NUM_THREADS")
"""Environment variables that set the number of threads of a numeric library."""
LAUNCHER_SWITCH = "QDRL_LAUNCHER"
"""Environment variable whose value "none" makes qdrl ignore the launcher."""

_RANK_VARIABLES = ("OMPI_COMM_WORLD_RANK", "PMIX_RANK", "PMI_RANK", "MV2_COMM_WORLD_RANK")
_SIZE_VARIABLES = ("OMPI_COMM_WORLD_SIZE", "PMI_SIZE", "MV2_COMM_WORLD_SIZE")
_LOCAL_RANK_VARIABLES = (
    "OMPI_COMM_WORLD_LOCAL_RANK",
    "MPI_LOCALRANKID",
    "MV2_COMM_WORLD_LOCAL_RANK",
    "PALS_LOCAL_RANKID",
    "PMI_LOCAL_RANK",
    "SLURM_LOCALID",
)
_LOCAL_SIZE_VARIABLES = (
    "OMPI_COMM_WORLD_LOCAL_SIZE",
    "MPI_LOCALNRANKS",
    "MV2_COMM_WORLD_LOCAL_SIZE",
    "PALS_LOCAL_SIZE",
)
_ABORT_SECONDS = 10.0  # how long MPI_Abort may take before this process ends by itself


def limit_threads(environment: dict[str, str] | None = None) -> dict[str, str]:
    """Set the number of threads of each numeric library to one, except where the user has set it.

    Call it before numpy and torch are imported. Two threads on small networks were measured 30 times slower than one
    on a busy 2-core machine, and ranks share the node's cores anyway.

    Args:
        environment: variables to change; those of this process when left out.

    Returns:
        the active thread variables by name.
    """
    target: Any = os.environ if environment is None else environment
    for name in THREAD_VARIABLES:
        target.setdefault(name, "1")
    return {name: target[name] for name in THREAD_VARIABLES}


def launched_rank() -> int | None:
    """Return this process's rank from the launcher's variables, without starting MPI; None without a launcher."""
    return None if os.environ.get(LAUNCHER_SWITCH) == "none" else _first_number(_RANK_VARIABLES, None)


def launched_size() -> int | None:
    """Return the number of ranks from the launcher's variables, without starting MPI; None when no variable has it."""
    if os.environ.get(LAUNCHER_SWITCH) == "none":
        return None
    if (size := _first_number(_SIZE_VARIABLES, None)) is not None:
        return size
    # srun sets it for its own ranks. Under mpirun in an allocation it is the number of the batch script's tasks.
    by_srun = os.environ.get("SLURM_PROCID") == os.environ.get("PMIX_RANK", "none")
    return _first_number(("SLURM_STEP_NUM_TASKS",), None) if by_srun else None


def local_rank() -> int:
    """Return this process's number among the ranks of its node, from the launcher's variables; 0 when none has it."""
    return _first_number(_LOCAL_RANK_VARIABLES, 0) or 0


def local_size() -> int:
    """Return the number of the job's ranks on this node, from the launcher's variables; 1 when none has it."""
    return _first_number(_LOCAL_SIZE_VARIABLES, None) or _tasks_of_slurm() or 1


def separate_tasks() -> int:
    """Return how many tasks srun started without telling them of each other; 1 where it did, or without srun.

    A batch script and a step of one task also return 1: they have no step number, or a step size of 1.
    """
    if launched_rank() is not None or os.environ.get(LAUNCHER_SWITCH) == "none" or "SLURM_STEP_ID" not in os.environ:
        return 1
    return _first_number(("SLURM_STEP_NUM_TASKS",), 1) or 1


def _tasks_of_slurm() -> int | None:
    """Return this node's tasks of an srun step, from a text such as "4(x2),3"; None outside srun."""
    node, text = _first_number(("SLURM_NODEID",), None), os.environ.get("SLURM_STEP_TASKS_PER_NODE", "")
    if node is None or os.environ.get("SLURM_PROCID") != str(launched_rank()):
        return None
    counts: list[int] = []
    for part in re.finditer(r"(\d+)(?:\(x(\d+)\))?", text):
        counts += [int(part[1])] * int(part[2] or 1)
    return counts[node] if node < len(counts) else None


def _first_number(names: tuple[str, ...], default: int | None) -> int | None:
    """Return the value of the first of these variables that is a number."""
    return next((int(os.environ[name]) for name in names if os.environ.get(name, "").isdecimal()), default)


def abort(error: BaseException, rank: int) -> NoReturn:
    """End the whole MPI job because this rank failed: write its traceback to stderr and exit with code 1.

    Without it the other ranks would wait in a collective call for ever.

    Args:
        error: the exception that ended this rank's work.
        rank: this rank, for the message.
    """
    lines = traceback.format_exception(error)
    sys.stderr.write(f"qdrl: rank {rank} failed; the whole job is aborted\n{''.join(lines)}")
    sys.stderr.flush()
    end_all_ranks(1)
    raise SystemExit(1)


def end_all_ranks(code: int) -> None:
    """End the whole MPI job with an exit code; return where MPI does not run or has one rank.

    After a loss `MPI_Abort` was measured to hang in 1 job of 6 (Open MPI 5.0.11, ULFM). In that case this process ends
    alone with exit code 1, and the launcher ends with it.
    """
    mpi = sys.modules.get("mpi4py.MPI")
    if mpi is None or not mpi.Is_initialized() or mpi.COMM_WORLD.Get_size() == 1:
        return
    with Path(os.devnull).open("w", encoding="utf-8") as nowhere:
        # Abort keeps the interpreter lock, so a Python thread could not end the process; this watchdog needs no lock.
        faulthandler.dump_traceback_later(_ABORT_SECONDS, exit=True, file=nowhere)
        mpi.COMM_WORLD.Abort(code)
