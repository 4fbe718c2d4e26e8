"""What a run's archive.h5 and checkpoint.h5 contain: archive, history, settings, provenance and state."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np

from qdrl.archives.snapshot import without_genomes
from qdrl.archives.stored import StoredArchive
from qdrl.archives.trees import check_storable
from qdrl.provenance.software import origin, without_repeats
from qdrl.run.build import Parts
from qdrl.run.history import Past


def archive_of(
    parts: Parts, past: Past, *, ranks: int, commit: str, test_fitness: np.ndarray | None = None
) -> StoredArchive:
    """Return a run's archive in its current state, ready to be written.

    Args:
        parts: the parts of the run.
        past: the run before this job; its history is the run's, this job included.
        ranks: number of ranks that run it now.
        commit: commit of the source that runs.
        test_fitness: the champion's fitness in its held-out test; None without a test.
    """
    genomes = parts.archive.genomes_of(parts.archive.occupied_cells).cpu().numpy()
    lineages = parts.algorithm.lineages(genomes)
    champion = parts.algorithm.champion
    stored = without_genomes(parts.archive, parts.task, () if champion is None else champion["generation"])
    attributes, meta = _provenance(parts, past, ranks, commit)
    return replace(
        stored,
        emitters=parts.algorithm.emitters,
        genomes=None if lineages else genomes,
        lineages=lineages,
        champion=champion if champion is None or test_fitness is None else champion | {"test_fitness": test_fitness},
        history=past.history.arrays(),
        attributes=attributes,
        meta=stored.meta | meta | {"config": parts.experiment.resolved(), "code": parts.code},
        actor=parts.algorithm.actor,
    )


def state_of(parts: Parts, stored: StoredArchive) -> dict[str, Any]:
    """Return what resuming needs besides the archive.

    Args:
        parts: the parts of the run.
        stored: the run's archive, see `archive_of`.

    Raises:
        UserError: the algorithm's state holds a value that a file cannot.
    """
    state: dict[str, Any] = {"algorithm": parts.algorithm.state_dict()}
    if (rule := getattr(parts.archive, "rule", None)) is not None:
        state["archive"] = {"rule": rule.state_dict()}
    if (task := parts.task.state_dict(_needed_generations(stored.elites, stored.champion))) is not None:
        state["task"] = task
    check_storable(state["algorithm"], f"algorithm '{parts.algorithm_name}': state_dict")
    return state


def _provenance(parts: Parts, past: Past, ranks: int, commit: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return root attributes and `meta` entries: versions, command, and the jobs of the run so far."""
    attributes, meta = origin(
        parts.experiment.seed, past.created_utc, ranks=ranks, commit=commit, license=parts.experiment.license
    )
    marks = {"inexact_from": past.inexact_from, "code_changed_from": past.code_changed_from}
    meta["command"] |= {name: list(generations) for name, generations in marks.items() if generations}
    now = {"git_commit": attributes["git_commit"], "packages": meta["packages"]}
    if earlier := without_repeats(past.earlier, now):
        meta["command"]["earlier"] = earlier
    return attributes, meta


def _needed_generations(elites: Mapping[str, Any], champion: Mapping[str, Any] | None) -> np.ndarray:
    """Return the generations whose observation statistics are needed to rerun a stored genome."""
    own = [] if champion is None else champion["generation"]
    return np.unique(np.concatenate([elites["generation"], own]).astype(np.int64))
