"""`qdrl doctor`."""

import os
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import click

_DRAWING_SECONDS = 60.0


@click.command()
def command() -> None:
    """Check this machine: what it offers and what is broken. Under mpirun the first rank prints.

    Every check prints a line; a broken part is reported in its line.

    \b
    Example:
      qdrl doctor
      mpirun -n 2 qdrl doctor
    """
    from qdrl.parallel.launcher import launched_rank
    from qdrl.parallel.ranks import OneProcess, connect

    first = not launched_rank()
    # MPI comes late: no process may be started after it, and an MPI that cannot start may end this one.
    before = {
        "python": _python,
        "torch": _torch,
        "devices": _devices,
        "MuJoCo": _mujoco,
        "HDF5": _hdf5,
        "memory": _memory,
        "OpenGL": _opengl,
    }
    if first:
        _print(before)
    trouble, ranks = None, OneProcess()
    try:
        ranks = connect()
        places = ranks.gather((os.uname().nodename, os.sched_getaffinity(0)))
    except Exception as error:  # a broken launcher or MPI is the finding
        trouble, places = error, [(os.uname().nodename, os.sched_getaffinity(0))]
    cores = set().union(*(cores for node, cores in places if node == os.uname().nodename))
    if first:
        _print({"MPI": lambda: _mpi(trouble), "cores": lambda: _cores(cores), "threads": lambda: _threads(cores)})
    ranks.leave()


def _print(checks: dict[str, Callable[[], str]]) -> None:
    for name, check in checks.items():
        try:
            finding = check()
        except Exception as error:  # a broken part is the finding
            finding = f"BROKEN: {_in_a_line(error)}"
        click.echo(f"{name:<9}{finding}")


def _in_a_line(error: Exception) -> str:
    from qdrl.errors import UserError

    text = " ".join(str(error).split())
    return text if isinstance(error, UserError) else f"{type(error).__name__}: {text}"


def _python() -> str:
    from qdrl.provenance.software import git_commit, packages

    found, (commit, plus, dirty) = packages(), git_commit().partition("+")
    return f"{found['python']}, qdrl {found['qdrl']} {commit[:12]}{plus}{dirty}".rstrip()


def _memory() -> str:
    from qdrl.compute.resource_limits import memory_limit

    limit, whole = memory_limit(), os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return f"{whole / 2**30:.1f} GiB" + (f", limited to {limit / 2**30:.1f} GiB for this process" * (limit < whole))


def _cores(cores: set[int]) -> str:
    from qdrl.compute.resource_limits import core_quota

    quota = core_quota()
    limited = f", limited to the CPU time of {quota:g}" if quota is not None and quota < len(cores) else ""
    return f"{os.cpu_count()}, of which this job may use {len(cores)}{limited}"


def _threads(cores: set[int]) -> str:
    """Return thread limits, and whether this node's ranks have more threads than the job has cores here."""
    from qdrl.parallel.launcher import THREAD_VARIABLES, local_size

    limits = ", ".join(f"{name}={os.environ.get(name, 'unset')}" for name in THREAD_VARIABLES)
    threads = os.environ.get("OMP_NUM_THREADS", "1")
    wanted = local_size() * (int(threads) if threads.isdecimal() else 1)
    return limits + (f"; OVERSUBSCRIBED: {wanted} threads on {len(cores)} cores" if wanted > len(cores) else "")


def _mpi(trouble: Exception | None) -> str:
    if trouble is not None:
        return f"BROKEN: {_in_a_line(trouble)}"
    try:
        from mpi4py import MPI
    except (ImportError, RuntimeError) as error:
        reason = _in_a_line(error).partition(": ")[2]
        return f"none ({reason}); one process works, `pip install 'qdrl[mpi]'` brings Open MPI"
    return _vendor(MPI)


def _vendor(mpi: Any) -> str:
    import mpi4py

    vendor = ".".join(str(part) for part in mpi.get_vendor()[1])
    return (
        f"{mpi.get_vendor()[0]} {vendor}, MPI {mpi.Get_version()[0]}.{mpi.Get_version()[1]},"
        f" mpi4py {mpi4py.__version__}, world of {mpi.COMM_WORLD.Get_size()}"
    )


def _torch() -> str:
    import torch

    return f"{torch.__version__}, {torch.get_num_threads()} threads, {torch.backends.cpu.get_cpu_capability()}"


def _devices() -> str:
    import torch

    found = ["cpu"]
    for index in range(torch.cuda.device_count()):
        free, total = (size / 1e9 for size in torch.cuda.mem_get_info(index))
        found.append(f"cuda:{index} {torch.cuda.get_device_name(index)}, {free:.1f} of {total:.1f} GB free")
    return f"{', '.join(found)}; MuJoCo Warp: {_warp()}"


def _warp() -> str:
    from importlib.metadata import PackageNotFoundError, version

    try:
        return f"{version('mujoco-warp')} on Warp {version('warp-lang')}"
    except PackageNotFoundError:
        return "none (pip install 'qdrl[gpu]')"


def _mujoco() -> str:
    import gymnasium

    from qdrl.physics.library import mujoco

    return f"{mujoco.__version__}, models of gymnasium {gymnasium.__version__}"


def _opengl() -> str:
    """Try to draw in a child process, because a broken OpenGL may abort the process that tries."""
    program = "from qdrl.report.video import check_rendering; print(check_rendering() or '')"
    command = [sys.executable, "-P", "-c", program]
    done = subprocess.run(  # noqa: S603 - this interpreter, this program
        command, capture_output=True, encoding="utf-8", errors="replace", timeout=_DRAWING_SECONDS, check=False
    )
    variable = f"MUJOCO_GL is {os.environ.get('MUJOCO_GL', 'unset')}"
    if done.returncode != 0:
        return f"BROKEN: {variable}, and a process that tried to render failed with exit code {done.returncode}"
    return done.stdout.strip() or f"{variable}; rendering works"


def _hdf5() -> str:
    import h5py

    return f"{h5py.version.hdf5_version}, h5py {h5py.__version__}, MPI build: {h5py.get_config().mpi}"
