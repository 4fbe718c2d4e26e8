"""Convert an archive in memory to a stored one, to save it or to plot it. Imports no torch by itself."""

import os
from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from qdrl.archives.axes import Axis
from qdrl.archives.described import Described
from qdrl.archives.hdf5 import write_archive
from qdrl.archives.stored import StoredArchive
from qdrl.errors import UserError
from qdrl.provenance.software import git_commit, origin

if TYPE_CHECKING:
    from qdrl.archives.base import AnyArchive


def save(
    archive: "AnyArchive",
    path: str | Path,
    task: Described,
    *,
    seed: int | None = None,
    emitters: Sequence[str] | None = None,
    config: Mapping[str, Any] | None = None,
    license: str | None = None,  # noqa: A002 - the attribute's name in the file
) -> Path:
    """Write an archive in memory to a file; see `qdrl.Archive.save`."""
    stored = snapshot(archive, task)
    created_utc = datetime.now(UTC).isoformat(timespec="seconds")
    attributes, meta = origin(seed, created_utc, ranks=None, commit=git_commit(), license=license)
    whole = replace(
        stored,
        emitters=stored.emitters if emitters is None else tuple(emitters),
        attributes=attributes,
        meta=stored.meta | meta | {"config": None if config is None else dict(config)},
        genomes=_genomes(archive),
    )
    try:
        write_archive(path, whole)
    except OSError as error:
        reason = os.strerror(error.errno) if error.errno else " ".join(str(error).split())
        raise UserError(f"cannot write {path}: {reason}") from error
    return Path(path)


def stored_view(archive: "StoredArchive | AnyArchive", task: Described | None = None) -> StoredArchive:
    """Return a stored archive unchanged, and the `snapshot` of an archive in memory."""
    return archive if isinstance(archive, StoredArchive) else snapshot(archive, task)


def snapshot(archive: "AnyArchive", task: Described | None = None) -> StoredArchive:
    """Return a copy of an archive's elites as a stored archive, without genomes.

    Args:
        archive: an `Archive` or a `NoveltyArchive`.
        task: names the axes and the fitness; generic names are used when left out.

    Raises:
        ValueError: the task has another number of axes or parameters than the archive.
    """
    if task is not None:
        _check(archive, task)
    return without_genomes(archive, task)


def without_genomes(
    archive: "AnyArchive", task: Described | None, generations: Sequence[int] | np.ndarray = ()
) -> StoredArchive:
    """Return a stored archive without genomes, history and origin; the task is not checked against the archive.

    Args:
        archive: an `Archive` or a `NoveltyArchive`, of weights or of lineages.
        task: names the axes and the fitness; generic names are used when left out.
        generations: whose observation statistics are needed in addition to those of the elites.
    """
    geometry, columns = archive.geometry, archive.columns()
    axes = _axes(geometry.lower, geometry.upper)
    meta: dict[str, Any] = {}
    normalizer = None
    if task is not None:
        axes = tuple(
            replace(named, lower=a.lower, upper=a.upper) for named, a in zip(task.spec.axes, axes, strict=True)
        )
        described = {"task": task.spec.describe(), "policy": task.describe_policy()}
        meta = described | {"mjcf": task.mjcf, "assets": dict(task.assets)}
        needed = np.concatenate([columns["generation"], generations]).astype(np.int64)
        normalizer = task.state_dict(np.unique(needed).tolist())
    if normalizer is not None:
        normalizer = {name: values for name, values in normalizer.items() if name != "deviation"}  # derived from var
    return StoredArchive(
        axes=axes,
        kind=geometry.kind,
        shape=geometry.shape,
        centroids=geometry.centroids,
        fitness_name="fitness" if task is None else task.spec.fitness_name,
        offsets=archive.offsets,
        emitters=tuple(f"emitter {number}" for number in range(int(columns["emitter"].max(initial=0)) + 1)),
        elites=columns,
        meta=meta,
        normalizer=normalizer,
        neighbours=getattr(geometry, "neighbours", None),
    )


def _axes(lower: np.ndarray, upper: np.ndarray) -> tuple[Axis, ...]:
    bounds = zip(lower.tolist(), upper.tolist(), strict=True)
    return tuple(Axis(f"descriptor {number}", "1", *ends) for number, ends in enumerate(bounds))


def _check(archive: "AnyArchive", task: Described) -> None:
    ours = {"descriptor axes": len(archive.geometry.lower), "parameters": archive.parameters}
    theirs = {"descriptor axes": len(task.spec.axes), "parameters": task.parameters}
    if ours != theirs:
        name, count = next((name, count) for name, count in ours.items() if count != theirs[name])
        raise ValueError(f"the archive has {count} {name}, task '{task.spec.name}' has {theirs[name]}")


def _genomes(archive: "AnyArchive") -> np.ndarray:
    """Return the genomes of all elites as files store them, `(elites, parameters)` float32."""
    genomes = archive.genomes_of(archive.occupied_cells).cpu().numpy()
    if genomes.dtype.kind != "f":
        raise ValueError(
            f"genomes of dtype {genomes.dtype} are indices of lineages, which only a run can save; use float32 weights"
        )
    rounded = genomes.astype(np.float32)
    if not (exact := (rounded == genomes) & np.isfinite(rounded)).all():
        row = int(np.argmin(exact.all(axis=1)))
        cell = int(archive.occupied_cells[row])
        raise ValueError(f"the genome of cell {cell} must be finite in float32, the dtype of archive files")
    return rounded
