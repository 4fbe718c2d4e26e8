"""Read a file in a process of its own, so that a crash, a hang or too much memory becomes a verdict.

A file whose bytes were changed can end the process that reads it inside libhdf5, or keep it busy for ever. What passed
here can be opened by the process that asked.
"""

import json
import os
import resource
import signal
import subprocess
import sys
from functools import lru_cache
from pathlib import Path

from qdrl.archives.files import open_hdf5
from qdrl.archives.layout import find_problems
from qdrl.archives.seals import Identity, identity
from qdrl.errors import UserError

_MEMORY = 256 * 2**20  # bytes for the checks besides what the file's size accounts for
_COPIES = 16  # bytes of memory for a byte of the file: EXPANSION twice, a dataset and what is computed from it
_SECONDS = 20  # of processor time, and one more for each _SPEED bytes
_SPEED = 10 * 2**20


def inspect(path: Path) -> list[str]:
    """Return everything wrong with a file, with the place of each; every dataset is read, in a child process.

    A file that was inspected before and has not changed since is not read again.
    """
    return list(_inspected(path, identity(path)))


def can_start_processes() -> bool:
    """Whether child processes are safe here: after MPI_Init they may break the interconnect's memory."""
    mpi = sys.modules.get("mpi4py.MPI")
    return mpi is None or not mpi.Is_initialized()


def check(path: Path) -> list[str]:
    """Return everything wrong with a file; run by `inspect` in the child, whose limits must be set."""
    try:
        with open_hdf5(path) as file:
            return find_problems(file, path.stat().st_size, thorough=True)
    except UserError as error:
        return [str(error).removeprefix(f"{path}: ")]
    except MemoryError:
        return ["reading it takes more memory than its size accounts for"]


def limit_resources(path: Path) -> None:
    """Limit this process to the memory and processor time that the file's size accounts for."""
    size = path.stat().st_size
    pages = (
        int(Path("/proc/self/statm").read_text(encoding="utf-8").split()[0])
        if Path("/proc/self/statm").exists()
        else 2**18
    )
    memory = pages * resource.getpagesize() + _MEMORY + _COPIES * size
    seconds = _seconds(size)
    resource.setrlimit(resource.RLIMIT_AS, (memory, memory))
    resource.setrlimit(resource.RLIMIT_CPU, (seconds, seconds + 5))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


def run_child(path: Path, seconds: float) -> tuple[int | None, str]:
    """Run `check` in a new Python process.

    Returns:
        its exit code, negative for a signal, None when it was stopped after so many seconds; what it printed.
    """
    package = Path(__file__).parents[2]
    search = os.pathsep.join([str(package), *filter(None, [os.environ.get("PYTHONPATH")])])
    # -P: the current folder may hold anything. One thread: limits of memory count the stacks of all.
    environment = os.environ | {"PYTHONPATH": search, "OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-P", "-m", "qdrl.archives.inspection", str(path.absolute())]
    try:
        done = subprocess.run(  # noqa: S603 - our own interpreter and module
            command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, timeout=seconds, env=environment, check=False
        )
    except subprocess.TimeoutExpired:
        return None, ""
    return done.returncode, done.stdout.decode(errors="replace")


@lru_cache(maxsize=64)
def _inspected(path: Path, version: Identity) -> tuple[str, ...]:
    code, printed = run_child(path, 3.0 * _seconds(version[2]))  # seconds of the clock: the machine may be busy
    if code is None or -code in (signal.SIGXCPU, signal.SIGKILL):
        return (f"reading it takes longer than {_seconds(version[2])} s; the file is damaged",)
    if code < 0:
        return (f"reading it crashed the HDF5 library (signal {-code}); the file is damaged",)
    if code != 0:
        return (f"reading it failed (exit code {code}); the file is damaged",)
    return tuple(json.loads(printed))


def _seconds(size: int) -> int:
    return _SECONDS + size // _SPEED


def main() -> None:
    """Check the file named by the first argument; print the problems as JSON."""
    path = Path(sys.argv[1])
    limit_resources(path)
    sys.stdout.write(json.dumps(check(path)))


if __name__ == "__main__":
    main()
