"""Read a file in a child process, so that a crash, a hang or excessive memory is reported as a problem of the file.

A damaged file can crash the process that reads it inside libhdf5, or keep it busy without end. A file that passes here
can be opened by the parent process.
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

_BASE_MEMORY_BYTES = 256 * 2**20  # for the checks, whatever the size of the file
_MEMORY_PER_FILE_BYTE = 16  # EXPANSION twice: for a dataset and what is computed from it
_BASE_SECONDS = 20  # of processor time
_BYTES_PER_SECOND = 10 * 2**20  # read in each further second


def inspect(path: Path) -> list[str]:
    """Return all problems of a file, each with its place, after reading every dataset in a child process.

    The result for an unchanged file is cached.
    """
    return list(_inspected(path, identity(path)))


def can_start_processes() -> bool:
    """Return whether child processes are safe: after MPI_Init they may corrupt memory of the interconnect."""
    mpi = sys.modules.get("mpi4py.MPI")
    return mpi is None or not mpi.Is_initialized()


def check(path: Path) -> list[str]:
    """Return all problems of a file. `inspect` runs this in the child process, whose limits must be set."""
    try:
        with open_hdf5(path) as file:
            return find_problems(file, path.stat().st_size, thorough=True)
    except UserError as error:
        return [str(error).removeprefix(f"{path}: ")]
    except MemoryError:
        return ["reading it takes more memory than its size accounts for"]


def limit_resources(path: Path) -> None:
    """Limit the memory and processor time of this process according to the file's size."""
    size = path.stat().st_size
    pages = (
        int(Path("/proc/self/statm").read_text(encoding="utf-8").split()[0])
        if Path("/proc/self/statm").exists()
        else 2**18
    )
    memory = pages * resource.getpagesize() + _BASE_MEMORY_BYTES + _MEMORY_PER_FILE_BYTE * size
    seconds = _seconds(size)
    resource.setrlimit(resource.RLIMIT_AS, (memory, memory))
    resource.setrlimit(resource.RLIMIT_CPU, (seconds, seconds + 5))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


def run_child(path: Path, seconds: float) -> tuple[int | None, str]:
    """Run `check` in a new Python process.

    Returns:
        the exit code, negative for a signal and None after `seconds` without an end; the printed text.
    """
    package = Path(__file__).parents[2]
    search = os.pathsep.join([str(package), *filter(None, [os.environ.get("PYTHONPATH")])])
    # -P: do not import from the current folder. One thread: memory limits count the stacks of all threads.
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
    code, printed = run_child(path, 3.0 * _seconds(version[2]))  # wall-clock time, for a busy machine
    if code is None or -code in (signal.SIGXCPU, signal.SIGKILL):
        return (f"reading it takes longer than {_seconds(version[2])} s; the file is damaged",)
    if code < 0:
        return (f"reading it crashed the HDF5 library (signal {-code}); the file is damaged",)
    if code != 0:
        return (f"reading it failed (exit code {code}); the file is damaged",)
    return tuple(json.loads(printed))


def _seconds(size: int) -> int:
    return _BASE_SECONDS + size // _BYTES_PER_SECOND


def main() -> None:
    """Check the file named by the first argument; print the problems as JSON."""
    path = Path(sys.argv[1])
    limit_resources(path)
    sys.stdout.write(json.dumps(check(path)))


if __name__ == "__main__":
    main()
