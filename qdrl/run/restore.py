"""Restore a run from its files: exactly from checkpoint.h5, inexactly from archive.h5."""

from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np

from qdrl.analysis.decode import arithmetic_of
from qdrl.analysis.differences import resume_notes
from qdrl.archives.hdf5 import open_archive, read_checkpoint
from qdrl.archives.seals import Identity, check_seal, identity
from qdrl.archives.stored import StoredArchive
from qdrl.compute.arithmetic import PORTABLE, Arithmetic
from qdrl.errors import UserError
from qdrl.run.build import Parts
from qdrl.run.compatibility import notes_on_code, refuse_another_experiment, refuse_other_evaluations
from qdrl.run.history import History, Past


@dataclass(frozen=True)
class Restored:
    """What restoring a run found.

    Attributes:
        past: the run before this job.
        warning: one line about files that do not fit each other, None where they do.
        notes: differences between this machine and the run's own that change bits, and changed code, a line each.
        identity: of the checkpoint that was read; None where there was none.
        replaced: files that the run will overwrite and whose content is nowhere else; they are copied first.
        suffix: names the copies of these files.
    """

    past: Past = field(default_factory=Past)
    warning: str | None = None
    replaced: tuple[Path, ...] = ()
    suffix: str = "before"
    notes: tuple[str, ...] = ()
    identity: Identity | None = None


def restore_run(parts: Parts, folder: Path, *, from_archive: bool, accept_changed_code: bool = False) -> Restored:
    """Restore a run into its parts. Writes nothing.

    Args:
        parts: the run's parts as they are before its first generation.
        folder: the run folder.
        from_archive: continue from the elites of archive.h5, for a run that has no readable checkpoint.
        accept_changed_code: continue although the source of the user's own code has changed.

    Raises:
        UserError: a needed file is missing, damaged or of another experiment; the message says how to continue.
    """
    archive, checkpoint, metrics = (folder / name for name in ("archive.h5", "checkpoint.h5", "metrics.csv"))
    if from_archive:
        return _restore_elites(parts, folder, accept_changed_code=accept_changed_code)
    if checkpoint.is_file():
        read = identity(checkpoint)
        stored, state = _read(checkpoint)
        changed_names = refuse_other_evaluations(stored, parts, accept_changed_code=accept_changed_code)
        restore_checkpoint(parts, stored, state)
        age = _age_of(archive, stored)
        return Restored(
            _past(stored, parts.algorithm.generation, changed_names, is_saved=age == "same"),
            f"{archive} is not older than checkpoint.h5" if age == "newer" else None,
            (archive,) if age == "newer" else (),
            notes=(*resume_notes(stored), *notes_on_code(changed_names)),
            identity=read,
        )
    if archive.exists():
        raise UserError(f"{folder} has no checkpoint.h5 and cannot be resumed exactly; {_alternatives(folder)}")
    if not any((folder / name).exists() for name in ("log.txt", "figures")):
        raise UserError(f"{folder} is not a run folder; `qdrl evolve {folder / 'config.toml'}` starts a run")
    had_rows = metrics.is_file() and metrics.stat().st_size > 0
    return Restored(
        warning=f"{folder} has no checkpoint.h5 yet: the run starts again from generation 0",
        replaced=(metrics,) if had_rows else (),
    )


def read_checkpoint_of(folder: Path) -> tuple[StoredArchive, dict[str, Any]]:
    """Read a run's checkpoint.

    Raises:
        UserError: it is missing or damaged.
    """
    return _read(folder / "checkpoint.h5")


def restore_checkpoint(parts: Parts, stored: StoredArchive, state: Mapping[str, Any]) -> None:
    """Restore a checkpoint into a run's parts.

    Args:
        parts: the parts as they are before the first generation; change.
        stored: the checkpoint's archive.
        state: the checkpoint's state.

    Raises:
        UserError: the checkpoint is of another experiment, or its state does not fit the parts.
    """
    refuse_another_experiment(stored.meta["config"] or {}, parts.experiment, "checkpoint")
    try:
        _load_state(parts, stored, state)
    except UserError:
        raise
    except (LookupError, TypeError, ValueError, AttributeError, ArithmeticError, RuntimeError, MemoryError) as error:
        # An algorithm may raise any of these on a state that no run wrote.
        reason = f"{type(error).__name__}: {' '.join(str(error).split())}"[:300]
        raise UserError(f"{stored.path}: its state does not fit this experiment: {reason}") from error


def _load_state(parts: Parts, stored: StoredArchive, state: Mapping[str, Any]) -> None:
    """Load archive, algorithm and task from a checkpoint.

    Raises:
        ValueError: they do not agree with each other.
    """
    nodes = state["algorithm"]["nodes"] if parts.algorithm.holds_lineages else None
    genomes = stored.all_genomes() if nodes is None else nodes
    parts.archive.load_state_dict({**stored.elites, "genome": genomes, **state.get("archive", {})})
    parts.archive.offsets = stored.offsets  # a run keeps the definition of its QD score, older than format 1.2 or not
    parts.algorithm.load_state_dict(state["algorithm"])
    if "task" in state:
        parts.task.load_state_dict(state["task"])
    generations = stored.history.get("generation", np.empty(0))
    done = int(generations[-1]) + 1 if len(generations) else 0
    if parts.algorithm.generation != done:
        raise ValueError(f"the algorithm is in generation {parts.algorithm.generation}, the history ends before {done}")


def stored_settings(folder: Path) -> dict[str, Any]:
    """Return the settings that a run's files hold, for a folder whose config.toml was lost.

    Raises:
        UserError: no file of the folder holds them.
    """
    for name in ("checkpoint.h5", "archive.h5"):
        if (folder / name).is_file():
            if (settings := open_archive(folder / name).meta["config"]) is None:
                raise UserError(f"{folder / name} holds no settings: it was saved from Python, not by a run")
            return settings
    raise UserError(f"{folder} is not a run folder: it has no config.toml")


def stored_arithmetic(folder: Path) -> Arithmetic:
    """Return the arithmetic of a run's files, so that one archive never mixes two; the default one without files.

    A file that cannot be read is skipped here; restoring it reports why.
    """
    for name in ("checkpoint.h5", "archive.h5"):
        if (folder / name).is_file():
            with suppress(UserError):
                return arithmetic_of(open_archive(folder / name))
    return PORTABLE


def _read(checkpoint: Path) -> tuple[StoredArchive, dict[str, Any]]:
    try:
        return read_checkpoint(checkpoint)
    except UserError as error:
        if not checkpoint.is_file():
            raise
        raise UserError(f"{error}; {_alternatives(checkpoint.parent)}") from error


def _alternatives(folder: Path) -> str:
    new = f"`qdrl evolve {folder / 'config.toml'}` starts a new run"
    if not (folder / "archive.h5").is_file():
        return new
    return f"`qdrl resume {folder} --from-archive` continues from the elites of archive.h5, not exactly; {new}"


def _restore_elites(parts: Parts, folder: Path, *, accept_changed_code: bool) -> Restored:
    archive, checkpoint = folder / "archive.h5", folder / "checkpoint.h5"
    if _is_readable(checkpoint):
        raise UserError(f"{folder} has a readable checkpoint.h5: resume it without --from-archive, which is exact")
    stored = open_archive(archive)
    if check_seal(archive) == "broken":
        raise UserError(
            f"{archive} was changed since it was written, and the run would continue from the changed file; if that is"
            f" intended, first run `qdrl archive validate --seal {archive}`"
        )
    refuse_another_experiment(stored.meta["config"] or {}, parts.experiment, "archive")
    changed_names = refuse_other_evaluations(stored, parts, accept_changed_code=accept_changed_code)
    if stored.lineages is not None or stored.unstructured:
        kind = "lineages" if stored.lineages is not None else "a novelty archive's entries"
        raise UserError(f"{archive} holds {kind}; continuing needs state that only checkpoint.h5 has: start a new run")
    generation = _next_generation(stored)
    parts.algorithm.continue_from_elites(generation)
    try:
        parts.archive.load_state_dict({**stored.elites, "genome": stored.all_genomes()})
        parts.archive.offsets = stored.offsets
        if stored.normalizer is not None:
            deviation = stored.normalizer["var"] * stored.normalizer["count"]
            parts.task.load_state_dict({**stored.normalizer, "deviation": deviation})
    except ValueError as error:
        raise UserError(f"{archive}: its elites do not fit this experiment: {error}") from error
    past = _past(stored, generation, changed_names)
    return Restored(
        replace(past, inexact_from=(*past.inexact_from, generation)),
        f"continuing from the {len(stored)} elites of archive.h5 at generation {generation}: not exact, the result"
        " may differ from that of an uninterrupted run",
        tuple(path for path in (archive, checkpoint, folder / "metrics.csv") if path.is_file()),
        f"before-{generation}",
        (*resume_notes(stored), *notes_on_code(changed_names)),
    )


def _is_readable(checkpoint: Path) -> bool:
    try:
        read_checkpoint(checkpoint)
    except UserError:
        return False
    return True


def _next_generation(stored: StoredArchive) -> int:
    done = [*stored.history.get("generation", ()), *stored.elites["generation"]]
    return int(max(done, default=-1)) + 1


def _past(stored: StoredArchive, generation: int, changed_names: Sequence[str], *, is_saved: bool = False) -> Past:
    """Return the past of a stored run; its jobs include the one that wrote the file.

    Args:
        stored: the run's file.
        generation: the next generation.
        changed_names: names of the user's code that has changed since.
        is_saved: see `Past`.
    """
    command = stored.meta["command"] or {}
    last = {
        "before_generation": generation,
        "git_commit": stored.attributes.get("git_commit", ""),
        "packages": stored.meta.get("packages") or {},
    }
    return Past(
        History(stored.history),
        stored.attributes["created_utc"],
        tuple(command.get("inexact_from") or ()),
        (*(command.get("code_changed_from") or ()), *((generation,) if changed_names else ())),
        (*(command.get("earlier") or ()), last),
        test if len(test := _test_fitness(stored)) else None,
        is_saved,
    )


def _age_of(path: Path, checkpoint: StoredArchive) -> Literal["older", "same", "newer"]:
    """Compare an archive file with a checkpoint by their generations.

    A run that is killed between the two writes leaves an older archive. A missing or damaged archive counts as older,
    because the checkpoint holds all of it. An archive of another run counts as newer, because no other file holds it.
    """
    if not path.is_file():
        return "older"
    try:
        archive = open_archive(path)
    except UserError:
        return "older"
    if archive.attributes["created_utc"] != checkpoint.attributes["created_utc"]:
        return "newer"
    if ahead := _generations(archive) - _generations(checkpoint):
        return "newer" if ahead > 0 else "older"
    tests = (_test_fitness(archive), _test_fitness(checkpoint))
    return "same" if np.array_equal(*tests, equal_nan=True) else "older"


def _generations(stored: StoredArchive) -> int:
    return len(stored.history.get("generation", np.empty(0)))


def _test_fitness(stored: StoredArchive) -> np.ndarray:
    """Return the fitness of the champion's held-out test, empty without a test."""
    return (stored.champion or {}).get("test_fitness", np.empty(0))
