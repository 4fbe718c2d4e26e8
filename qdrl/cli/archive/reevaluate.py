"""`qdrl archive reevaluate`."""

from pathlib import Path
from typing import Any

import click

from qdrl.cli.archive.paths import archive_argument
from qdrl.cli.code import code_options
from qdrl.cli.numbers import Integer


@click.command()
@archive_argument
@click.option("--repeats", type=Integer(1, 100_000), default=1, show_default=True, help="Episodes an elite.")
@click.option("--seed", type=Integer(min=0), default=0, show_default=True, help="Of the initial states.")
@code_options
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def command(archive: Path, repeats: int, seed: int, allow_code: bool, code_from: Path | None, as_json: bool) -> None:
    """Evaluate all elites again, and the actor where there is one, to correct QD score and descriptor errors.

    Prints the corrected QD score, the best mean fitness and the descriptor error (mean distance between the descriptor
    asked for and the one reached) of the elites, and of the conditioned actor asked for the elites' descriptors and for
    their cells' centroids where there are cells. ARCHIVE is an archive file or a run folder.

    \b
    Example:
      qdrl archive reevaluate archives/reference/walker2d_uni.h5 --repeats 3
    """
    from qdrl.analysis.decode import evaluated_on
    from qdrl.archives.hdf5 import open_archive
    from qdrl.cli.archive.printing import print_facts, print_json, print_table

    stored = open_archive(archive)
    facts = worth_of(stored, repeats, seed, allow_code=allow_code, code_from=code_from)
    if as_json:
        print_json(facts)
        return
    print_facts(str(stored.path), {"elites": len(stored), "episodes each": repeats, "seed": seed})
    if evaluated_on(stored) != "cpu":
        click.echo(f"note: stored by MuJoCo Warp on '{evaluated_on(stored)}', run again by C MuJoCo", err=True)
    columns = list(next(iter(facts.values())))
    table = [[who, *worth.values()] for who, worth in facts.items()]
    print_table(["", *(column.replace("_", " ") for column in columns)], table)


def worth_of(
    stored: Any, repeats: int, seed: int, *, allow_code: bool = False, code_from: Path | None = None
) -> dict[str, dict[str, float | None]]:
    """Return what `reevaluate` prints, for elites and actor."""
    from qdrl.analysis.reevaluate import Reevaluation, reevaluate_actor, reevaluate_elites

    def measured(found: Reevaluation) -> dict[str, float | None]:
        names = ("qd_score", "max_fitness", "descriptor_error", "failed", "env_steps")
        return {name: getattr(found, name) for name in names}

    how: dict[str, Any] = {"repeats": repeats, "seed": seed, "allow_code": allow_code, "code_from": code_from}
    statistics = stored.statistics()
    known = {"qd_score": statistics.qd_score, "max_fitness": statistics.max_fitness}
    facts: dict[str, dict[str, float | None]] = {
        "elites, run again": measured(reevaluate_elites(stored, **how)),
        "elites, as stored": {**known, "descriptor_error": None, "failed": None, "env_steps": None},
    }
    if stored.actor is not None and int(stored.actor["dimensions"]):
        for targets in ("descriptors",) if stored.unstructured else ("descriptors", "centroids"):
            found = reevaluate_actor(stored, targets=targets, **how)
            facts[f"actor, asked for {targets}"] = measured(found)
    return facts
