"""`qdrl archive info`: what a file holds."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from qdrl.cli.archive.paths import archive_argument

if TYPE_CHECKING:
    from qdrl.archives.stored import StoredArchive

_ORIGIN = ("created_utc", "qdrl_version", "git_commit", "seed", "license")
_OFFSETS = ("qd_offset", "step_offset", "included_offset")
_CHANGES = {"inexact_from": "continued inexactly from generation", "code_changed_from": "code changed from generation"}


@click.command()
@archive_argument
@click.option("--json", "as_json", is_flag=True, help="Print everything as JSON.")
def command(archive: Path, as_json: bool) -> None:
    """Print what an archive holds: task and its settings, cells, best elite, statistics, origin, digest.

    ARCHIVE is an archive file or a run folder.

    \b
    Example:
      qdrl archive info archives/reference/walker2d_uni.h5
      qdrl archive info runs/quickstart/<run> --json
    """
    from qdrl.archives.hdf5 import content_digest, open_archive
    from qdrl.cli.archive.printing import print_json

    facts = describe(open_archive(archive)) | {"digest": content_digest(archive)}
    if as_json:
        print_json(facts)
    else:
        _print_sections(facts)


def describe(stored: "StoredArchive") -> dict[str, Any]:
    """Return all that `info` prints, as plain nested data."""
    from qdrl.cli.archive.facts import axes_of

    return {
        "path": str(stored.path),
        "title": (stored.meta["config"] or {}).get("title"),
        "origin": _origin(stored),
        "task": stored.meta["task"],
        "policy": stored.meta["policy"],
        "genome_parameters": stored.parameters,
        "lineages": _lineages(stored),
        "champion": _champion(stored),
        "actor": _actor(stored),
        "normalizer": _normalizer(stored),
        "kind": stored.kind,
        "cells": stored.cells,
        "shape": stored.shape,
        "axes": axes_of(stored),
        "fitness_name": stored.fitness_name,
        **vars(stored.offsets),
        "statistics": vars(stored.statistics()),
        "best": _best(stored),
        "novelty": _novelty(stored),
        "elites_by_emitter": _elites_by_emitter(stored),
        "history": {name: values[-1] for name, values in stored.history.items() if len(values)},
    }


def _origin(stored: "StoredArchive") -> dict[str, Any]:
    """Return date, versions, seed, licence and command, and the generations at which the run was no longer the same."""
    command = stored.meta["command"]
    return {
        **{name: stored.attributes.get(name) for name in _ORIGIN},
        "command": command,
        **{name: (command or {}).get(name) or [] for name in _CHANGES},
    }


def _best(stored: "StoredArchive") -> dict[str, Any] | None:
    """Return the elite with the highest fitness; None for an empty archive."""
    from qdrl.cli.archive.facts import elite_of

    return elite_of(stored, stored.row_of(stored.best_cell)) if len(stored) else None


def _lineages(stored: "StoredArchive") -> dict[str, Any] | None:
    """Return the storage size of lineages, and that of their weights."""
    if stored.lineages is None:
        return None
    import numpy as np

    mutations = np.diff(stored.lineages.offsets) - 1
    weights = 4 * stored.parameters * len(stored)
    return {
        "noise": stored.lineages.noise,
        "mean_mutations": float(mutations.mean()) if len(mutations) else None,
        "most_mutations": int(mutations.max()) if len(mutations) else None,
        "keyframes": len(stored.lineages.keyframes),
        "lineage_bytes": stored.lineages.nbytes,
        "weight_bytes": weights,
        "compression": weights / stored.lineages.nbytes if len(mutations) else None,
    }


def _champion(stored: "StoredArchive") -> dict[str, Any] | None:
    champion = stored.champion
    if champion is None:
        return None
    from qdrl.archives.statistics import episode_statistics

    test = champion.get("test_fitness")
    facts = vars(episode_statistics(champion["fitness"])) | {
        "test": None if test is None else vars(episode_statistics(test))
    }
    if "seeds" not in champion:
        return facts
    size = champion["seeds"].nbytes + champion["sigmas"].nbytes
    return facts | {
        "mutations": len(champion["seeds"]) - 1,
        "lineage_bytes": size,
        "weight_bytes": 4 * stored.parameters,
        "compression": 4 * stored.parameters / size,
    }


def _actor(stored: "StoredArchive") -> dict[str, Any] | None:
    if stored.actor is None:
        return None
    dimensions = int(stored.actor["dimensions"])
    aims_at = [axis.label for axis in stored.axes] if dimensions else None
    return {"parameters": len(stored.actor["genome"]), "aims_at": aims_at}


def _novelty(stored: "StoredArchive") -> dict[str, Any] | None:
    """Return statistics of the entries of a novelty archive."""
    if stored.neighbours is None:
        return None
    return {
        "mean_novelty": stored.mean_novelty(),
        "neighbours": stored.neighbours,
        "entries_dropped": stored.cells - len(stored),
    }


def _normalizer(stored: "StoredArchive") -> dict[str, Any] | None:
    if stored.normalizer is None:
        return None
    return {"observations": len(stored.normalizer["mean"]), "count": stored.normalizer["count"]}


def _elites_by_emitter(stored: "StoredArchive") -> dict[str, int]:
    emitter = stored.elites["emitter"].tolist()
    return {name: emitter.count(number) for number, name in enumerate(stored.emitters)}


def _print_sections(facts: dict[str, Any]) -> None:
    from qdrl.cli.archive.printing import print_facts, print_table

    path = {"path": facts["path"]} if facts["title"] else {}
    print_facts(facts["title"] or facts["path"], path | _origin_in_words(facts["origin"]) | {"digest": facts["digest"]})
    print_facts("Task", _short(facts["task"] or {"name": None}))
    if settings := (facts["task"] or {}).get("options"):
        print_facts("Task settings", {name: value for name, value in settings.items() if name != "name"})
    policy = {"parameters": facts["genome_parameters"], "normaliser": _in_words(facts["normalizer"])}
    print_facts("Policy", _short(facts["policy"] or {}) | policy)
    for title, name in (("Lineages", "lineages"), ("Champion", "champion"), ("Actor", "actor")):
        if facts[name] is not None:
            print_facts(title, _short(facts[name]))
        if name == "champion" and (facts[name] or {}).get("test"):
            print_facts("Champion in held-out episodes", facts[name]["test"])
    shape = " x ".join(str(count) for count in facts["shape"])
    places = {"cells": facts["cells"], "shape": shape} if facts["novelty"] is None else facts["novelty"]
    print_facts("Archive", {"kind": facts["kind"], **_spaced(places)})
    print_table(["descriptor axis", "unit", "lower", "upper"], [list(axis.values()) for axis in facts["axes"]])
    offsets = {name: facts[name] for name in _OFFSETS}
    print_facts("Statistics", {"fitness": facts["fitness_name"]} | _spaced(offsets | facts["statistics"]))
    print_facts("Best elite", facts["best"] or {"cell": None})
    print_facts("Elites by emitter", facts["elites_by_emitter"])
    print_facts("Last generation", facts["history"] or {"history": None})


def _spaced(facts: dict[str, Any]) -> dict[str, Any]:
    return {name.replace("_", " "): value for name, value in facts.items()}


def _origin_in_words(origin: dict[str, Any]) -> dict[str, Any]:
    """Return the origin with the command as one line, the number of ranks, and the changes that there were."""
    facts = {name: origin[name] for name in _ORIGIN} | {"license": origin["license"] or "not stated"}
    command = origin["command"] or {}
    facts["command"] = " ".join(command["arguments"]) if "arguments" in command else None
    if "ranks" in command:
        facts["ranks"] = command["ranks"]
    return facts | {words: origin[name] for name, words in _CHANGES.items() if origin[name]}


def _short(facts: dict[str, Any]) -> dict[str, Any]:
    """Return the facts without nested ones and those printed elsewhere; --json has all of them."""
    elsewhere = ("axes", "fitness_name", *_OFFSETS)
    return {name: v for name, v in facts.items() if name not in elsewhere and not isinstance(v, dict)}


def _in_words(normalizer: dict[str, Any] | None) -> str:
    from qdrl.cli.archive.printing import brief

    if normalizer is None:
        return "none"
    return f"over {normalizer['observations']} observations, from {brief(normalizer['count'])} samples"
