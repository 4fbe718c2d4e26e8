"""`qdrl doctor`."""

import os
from collections.abc import Callable

import click


@click.command()
def command() -> None:
    """Say what this machine offers and what is amiss. Under mpirun the first rank speaks.

    \b
    Example:
      qdrl doctor
      mpirun -n 2 qdrl doctor
    """
    from qdrl.ranks import connect

    checks: dict[str, Callable[[], str]] = {
        "python": _python,
        "cores": lambda: f"{os.cpu_count()}, of which this process may use {len(os.sched_getaffinity(0))}",
        "threads": _threads,
        "MPI": _mpi,
        "torch": _torch,
        "devices": _devices,
        "MuJoCo": _mujoco,
        "OpenGL": _opengl,
        "HDF5": _hdf5,
    }
    ranks = connect()
    if not ranks.first:
        return
    for name, check in checks.items():
        try:
            finding = check()
        except Exception as error:  # a broken part is the finding
            finding = f"BROKEN: {type(error).__name__}: {error}"
        click.echo(f"{name:<9}{finding}")


def _python() -> str:
    from qdrl.origin import git_commit, packages

    found = packages()
    return f"{found['python']}, qdrl {found['qdrl']} {git_commit()[:12]}".rstrip()


def _threads() -> str:
    from qdrl.ranks import THREAD_VARIABLES, launched_rank

    limits = ", ".join(f"{name}={os.environ.get(name, 'unset')}" for name in THREAD_VARIABLES)
    world = int(os.environ.get("OMPI_COMM_WORLD_LOCAL_SIZE", "1")) if launched_rank() is not None else 1
    wanted = world * int(os.environ.get("OMP_NUM_THREADS", "1"))
    cores = len(os.sched_getaffinity(0))
    return limits + (f"; OVERSUBSCRIBED: {wanted} threads on {cores} cores" if wanted > cores and world > 1 else "")


def _mpi() -> str:
    try:
        from mpi4py import MPI
    except (ImportError, RuntimeError) as error:
        return f"none ({str(error).splitlines()[0]}); one process works, `pip install qdrl[mpi]` brings Open MPI"
    import mpi4py

    vendor = ".".join(str(part) for part in MPI.get_vendor()[1])
    return (
        f"{MPI.get_vendor()[0]} {vendor}, MPI {MPI.Get_version()[0]}.{MPI.Get_version()[1]},"
        f" mpi4py {mpi4py.__version__}, world of {MPI.COMM_WORLD.Get_size()}"
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
    import mujoco

    return f"{mujoco.__version__}, models of gymnasium {gymnasium.__version__}"


def _opengl() -> str:
    from qdrl.report.video import check_rendering

    return check_rendering() or f"MUJOCO_GL is {os.environ.get('MUJOCO_GL', 'unset')} and draws"


def _hdf5() -> str:
    import h5py

    return f"{h5py.version.hdf5_version}, h5py {h5py.__version__}, MPI build: {h5py.get_config().mpi}"
