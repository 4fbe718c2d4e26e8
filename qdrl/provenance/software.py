"""Origin of a file: versions, command, commit and licence. Stored in every file that a run writes."""

import os
import platform
import subprocess
import sys
from collections.abc import Mapping, Sequence
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from qdrl.provenance.processor import platform_fingerprint

_PACKAGES = ("qdrl", "numpy", "torch", "mujoco", "gymnasium", "ale-py", "numba", "h5py", "mpi4py", "evotorch")
_PACKAGE = Path(__file__).parents[1]
_OWN_FILE = Path(__file__).relative_to(_PACKAGE).as_posix()
_GIT_TIMEOUT_SECONDS = 20.0  # on a slower file system no commit is stored


def origin(
    seed: int | None,
    created_utc: str,
    *,
    ranks: int | None,
    commit: str,
    license: str | None = None,  # noqa: A002 - its name
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return the root attributes and the `meta` entries of a file; attributes that are None are absent.

    Args:
        seed: the run's seed.
        created_utc: time at which the run began, ISO 8601.
        ranks: number of ranks of the run; None for an archive that no experiment file made.
        commit: of the running source, see `git_commit`.
        license: licence of the file as the user stated it.
    """
    stated = {
        "created_utc": created_utc,
        "qdrl_version": version("qdrl"),
        "git_commit": commit,
        "seed": seed,
        "license": license,
    }
    command = {"arguments": [Path(sys.argv[0]).name, *map(as_unicode, sys.argv[1:])], "ranks": ranks}
    attributes = {name: value for name, value in stated.items() if value is not None}
    return attributes, {"command": command, "packages": packages()}


def without_repeats(earlier: Sequence[Mapping[str, Any]], now: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return the earlier jobs of a run, without those that had the same versions as the following job.

    Args:
        earlier: `before_generation`, `git_commit` and `packages` of each job.
        now: `git_commit` and `packages` of this one.
    """
    return [dict(job) for job, later in zip(earlier, [*earlier[1:], now], strict=False) if not _is_same(job, later)]


def _is_same(job: Mapping[str, Any], later: Mapping[str, Any]) -> bool:
    return all(job.get(name) == later.get(name) for name in ("git_commit", "packages"))


def as_unicode(text: str) -> str:
    """Return an argument or a file name as text that UTF-8 can encode, independent of the locale."""
    return os.fsencode(text).decode("utf-8", "backslashreplace")


def packages() -> dict[str, str]:
    """Return the versions of Python and of the packages that results depend on, and the platform fingerprint."""
    return {
        "python": platform.python_version(),
        **{name: _version(name) for name in _PACKAGES},
        **platform_fingerprint(),
    }


@cache
def _version(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return "not installed"


@cache
def git_commit() -> str:
    """Return the commit of this source tree, with "+dirty" if it was changed; empty if it is not a git checkout.

    The result is cached, so that a commit made during a run is never stored. Git is not called after MPI has started:
    with some MPIs a process that starts another one can hang or crash. `qdrl.parallel.ranks.connect` calls this
    function before it connects.
    """
    mpi = sys.modules.get("mpi4py.MPI")
    if mpi is not None and mpi.Is_initialized():
        return ""
    status = ["status", "--porcelain=v2", "--branch", "--untracked-files=all", "--ignored=matching", "--", "."]
    command = ["git", "-c", "status.relativePaths=true", "-C", str(_PACKAGE), *status]
    environment = {name: value for name, value in os.environ.items() if not name.startswith("GIT_")}
    environment |= {"GIT_OPTIONAL_LOCKS": "0", "LC_ALL": "C"}
    try:
        # Bytes, since file names may have any encoding.
        done = subprocess.run(command, capture_output=True, check=True, env=environment, timeout=_GIT_TIMEOUT_SECONDS)  # noqa: S603
    except (OSError, subprocess.SubprocessError):
        return ""
    return _commit_of(done.stdout.decode("utf-8", "replace").splitlines(), _OWN_FILE)


def _commit_of(status: list[str], own_file: str) -> str:
    """Return the commit from `git status --porcelain=v2 --branch`; empty if git does not track `own_file`."""
    commit = next((line.removeprefix("# branch.oid ") for line in status if line.startswith("# branch.oid ")), "")
    untracked = {line[2:] for line in status if line.startswith(("? ", "! "))}
    # The checkout is another project's, with qdrl installed in an ignored folder of it.
    if own_file in untracked or any(path == "./" or path.startswith("../") for path in untracked):
        return ""
    if commit in ("", "(initial)"):
        return ""
    changed = any(line.startswith(("1 ", "2 ", "u ", "? ")) for line in status)
    return f"{commit}+dirty" if changed else commit
