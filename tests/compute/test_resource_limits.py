"""Resource limits set by containers and batch systems."""

import os
from pathlib import Path

import pytest

from qdrl.compute.resource_limits import allowed_cores, core_quota, memory_limit

WHOLE = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def _groups(folder: Path, membership: str, files: dict[str, str]) -> tuple[Path, Path]:
    for name, text in files.items():
        (folder / "cgroup" / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / "cgroup" / name).write_text(text + "\n")
    (folder / "membership").write_text(membership + "\n")
    return folder / "cgroup", folder / "membership"


@pytest.mark.parametrize(
    ("membership", "files", "limit"),
    [
        ("0::/job/step", {"job/step/memory.max": "max", "job/memory.max": str(2**20)}, 2**20),
        ("0::/job/step", {"job/step/memory.max": "4096", "job/memory.max": "8192"}, 4096),
        ("0::/", {"memory.max": "max"}, WHOLE),
        ("5:memory:/job\n0::/", {"memory/job/memory.limit_in_bytes": str(2**20)}, 2**20),
        ("5:memory:/", {"memory/memory.limit_in_bytes": "9223372036854771712"}, WHOLE),
        ("3:cpu,cpuacct:/job", {"cpu,cpuacct/job/memory.max": "7"}, WHOLE),
        ("0::/gone", {}, WHOLE),
    ],
)
def test_the_lowest_memory_limit_of_a_group_and_its_parents_counts(
    tmp_path: Path, membership: str, files: dict[str, str], limit: int
) -> None:
    assert memory_limit(*_groups(tmp_path, membership, files)) == limit


def test_a_cpu_quota_is_returned_in_cores(tmp_path: Path) -> None:
    assert core_quota(*_groups(tmp_path / "a", "0::/job", {"job/cpu.max": "150000 100000"})) == 1.5
    assert core_quota(*_groups(tmp_path / "b", "0::/job", {"job/cpu.max": "max 100000"})) is None
    assert core_quota(tmp_path, tmp_path / "no such file") is None


def test_there_is_at_least_one_allowed_core() -> None:
    assert len(allowed_cores()) >= 1
