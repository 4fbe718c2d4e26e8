"""Cores and memory that this process may use, with the limits of containers and batch systems."""

import os
import resource
from collections.abc import Iterator
from pathlib import Path

_CGROUPS = Path("/sys/fs/cgroup")
_UNLIMITED_BYTES = 2**60  # cgroup v1 writes a number near 2**63 for "no limit"


def allowed_cores() -> frozenset[int]:
    """Return the numbers of the cores that this process may run on."""
    return frozenset(os.sched_getaffinity(0))


def core_quota(root: Path = _CGROUPS, membership: Path = Path("/proc/self/cgroup")) -> float | None:
    """Return the CPU time quota of this process's control groups, in cores; None without a quota.

    Args:
        root: the folder where control groups are mounted.
        membership: the file that lists this process's groups.
    """
    shares = []
    for text in _read_all("cpu.max", root, membership):
        quota, period = [*text.split(), "100000"][:2]
        if quota.isdecimal():
            shares.append(int(quota) / int(period))
    return min(shares) if shares else None


def memory_limit(root: Path = _CGROUPS, membership: Path = Path("/proc/self/cgroup")) -> int:
    """Return the bytes of memory that this process may use: the machine's memory or the lowest limit.

    Args:
        root: the folder where control groups are mounted.
        membership: the file that lists this process's groups.
    """
    limits = [os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")]
    for name in ("memory.max", "memory.limit_in_bytes"):
        limits += [int(text) for text in _read_all(name, root, membership) if text.isdecimal()]
    address_space = resource.getrlimit(resource.RLIMIT_AS)[0]
    if address_space != resource.RLIM_INFINITY:
        limits.append(address_space)
    return min(limit for limit in limits if limit < _UNLIMITED_BYTES)


def _read_all(name: str, root: Path, membership: Path) -> Iterator[str]:
    """Yield the contents of a file in this process's control groups and their parents (cgroup versions 1 and 2)."""
    try:
        lines = membership.read_text(encoding="utf-8").splitlines()
    except OSError:
        return
    for line in lines:
        _, controllers, path = line.split(":", 2)
        if controllers and name.partition(".")[0] not in controllers.split(","):
            continue
        top = root / controllers if controllers else root
        group = top / path.lstrip("/")
        for folder in (group, *group.parents):
            if not folder.is_relative_to(top):
                break
            try:
                yield (folder / name).read_text(encoding="utf-8").strip()
            except OSError:  # the root group has no limits, and a container does not see its parents
                continue
