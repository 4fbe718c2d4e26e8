"""Differences between this machine and the one that made a file, as far as they may change bits."""

from typing import Any

from qdrl.analysis.decode import arithmetic_of
from qdrl.archives.stored import StoredArchive
from qdrl.compute.arithmetic import BLAS
from qdrl.provenance.software import packages

_PORTABLE_TRAINING = ("map_elites", "deep_ga")  # element-wise operations and comparisons only


def rerun_notes(archive: StoredArchive, generation: int | None = None) -> list[str]:
    """Return one line for each difference that may change an elite's episode.

    Args:
        archive: the archive of the elite.
        generation: of the elite; the last one of the run when left out.
    """
    here, there = packages(), _packages_at(archive, generation)
    name = str(_table(archive.meta.get("task")).get("name"))
    simulated = archive.meta.get("mjcf") is not None or name.startswith("gym:")
    relevant = ("mujoco", "gymnasium") if simulated else ("ale-py",) if name.startswith("atari:") else ()
    notes = [_other_version(package, there, here) for package in relevant if _differs(package, there, here)]
    if (simulated or archive.lineages is not None) and _differs("libm", there, here):
        notes.append(
            f"the file was made with {there.get('libc')} on {there.get('processor')}, this is {here['libc']} on"
            f" {here['processor']}: their sines differ in the last bit, and MuJoCo's episodes may differ"
        )
    if arithmetic_of(archive) == BLAS and there.get("processor") != here["processor"]:
        maker = there.get("processor", "a processor that it does not name")
        notes.append(
            f"arithmetic 'blas' depends on the processor, and the file was made on {maker}:"
            f" episodes on {here['processor']} may differ"
        )
    return notes


def resume_notes(stored: StoredArchive) -> list[str]:
    """Return one line for each difference that may change the result of a resumed run."""
    return rerun_notes(stored) + training_notes(stored)


def training_notes(stored: StoredArchive) -> list[str]:
    """Return one line if training that continues on this machine has other bits than on the original one."""
    here, there = packages(), _table(stored.meta.get("packages"))
    algorithm = str(_table(_table(stored.meta.get("config")).get("algorithm")).get("name"))
    if algorithm in _PORTABLE_TRAINING or not (_differs("processor", there, here) or _differs("libm", there, here)):
        return []
    return [
        f"the checkpoint was made on {there.get('processor')} with {there.get('libc')}, this is {here['processor']}"
        f" with {here['libc']}: training continues, but not to the same bits"
    ]


def _table(value: Any) -> dict[str, Any]:
    """Return a JSON object unchanged, and an empty one for any other value."""
    return value if isinstance(value, dict) else {}


def _packages_at(archive: StoredArchive, generation: int | None) -> dict[str, Any]:
    """Return the package versions of a generation's evaluations: a run may be resumed with other versions."""
    earlier = _table(archive.meta.get("command")).get("earlier", ())
    for job in earlier if isinstance(earlier, list) else ():
        before = job.get("before_generation") if isinstance(job, dict) else None
        if isinstance(before, int) and generation is not None and generation < before:
            return _table(job.get("packages"))
    return _table(archive.meta.get("packages"))


def _differs(name: str, there: dict[str, Any], here: dict[str, str]) -> bool:
    return name in there and there[name] != here[name]


def _other_version(package: str, there: dict[str, Any], here: dict[str, str]) -> str:
    return (
        f"the file was made with {package} {there[package]}, this is {package} {here[package]}: episodes may differ;"
        f" to reproduce them: pip install {package}=={there[package]}"
    )
