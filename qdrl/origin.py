"""Where a file comes from: versions, command, commit. Kept in every file a run writes."""

import platform
import subprocess
import sys
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from qdrl.processor import machine

_PACKAGES = ("qdrl", "numpy", "torch", "mujoco", "gymnasium", "ale-py", "numba", "h5py", "mpi4py", "evotorch")
ARCHIVE_LICENSE = "CC-BY-4.0"


def origin(seed: int, created_utc: str, *, ranks: int) -> tuple[dict[str, Any], dict[str, Any]]:
    """Root attributes and `meta` entries of a file.

    Args:
        seed: the run's seed.
        created_utc: when the run began.
        ranks: how many ranks run it.
    """
    attributes = {
        "created_utc": created_utc,
        "qdrl_version": version("qdrl"),
        "git_commit": git_commit(),
        "seed": seed,
        "license": ARCHIVE_LICENSE,
    }
    command = {"arguments": [Path(sys.argv[0]).name, *sys.argv[1:]], "ranks": ranks}
    return attributes, {"command": command, "packages": packages()}


def packages() -> dict[str, str]:
    """Return versions of Python and of the packages that results depend on, and the machine; see `qdrl.processor`."""
    found = {"python": platform.python_version()}
    for name in _PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = "not installed"
    return found | machine()


def git_commit() -> str:
    """Commit of this source tree, "+dirty" when changed since; empty when it is no checkout."""
    here = Path(__file__).parent

    def git(*arguments: str) -> str:
        command = ["git", "-C", str(here), *arguments]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()  # noqa: S603

    try:
        if git("ls-files", Path(__file__).name) == "":  # a checkout of something else around an installed qdrl
            return ""
        return git("rev-parse", "HEAD") + ("+dirty" if git("status", "--porcelain", "--", ".") else "")
    except (OSError, subprocess.CalledProcessError):
        return ""
