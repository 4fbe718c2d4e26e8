"""`qdrl archive reevaluate`."""

from pathlib import Path
from typing import Any

import click

from qdrl.cli.archive.paths import archive_argument
from qdrl.cli.code import code_options
from qdrl.cli.numbers import Integer

Facts = dict[str, dict[str, float | None]]


@click.command()
@archive_argument
@click.option("--repeats", type=Integer(1, 100_000), default=1, show_default=True, help="Episodes an elite.")
@click.option(
    "--champion-episodes",
    type=Integer(0, 1_000_000),
    default=200,
    show_default=True,
    help="Episodes of the champion, if there is one; 0 to leave it out.",
)
@click.option("--seed", type=Integer(min=0), default=0, show_default=True, help="Of the initial states.")
@code_options
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def command(
    archive: Path,
    repeats: int,
    champion_episodes: int,
    seed: int,
    allow_code: bool,
    code_from: Path | None,
    as_json: bool,
) -> None:
    """Evaluate elites, actor and champion again, to correct QD score, descriptor errors and the champion's fitness.

    Prints the corrected QD score, the same sum without any offset, the best mean fitness and the descriptor error of
    the elites. The error is the mean distance between target and reached descriptors. The conditioned actor gets the
    elites' descriptors as targets, and the centroids of their cells where there are cells. Of a champion it prints
    mean, standard deviation, median, lowest and highest fitness over held-out episodes, beside the stored ones. No
    training evaluation used their seeds.

    ARCHIVE is an archive file or a run folder.

    \b
    Example:
      qdrl archive reevaluate archives/reference/walker2d_uni.h5 --repeats 3
    """
    from qdrl.analysis.decode import evaluated_on
    from qdrl.archives.hdf5 import open_archive
    from qdrl.cli.archive.printing import print_facts, print_json

    stored = open_archive(archive)
    how: dict[str, Any] = {"allow_code": allow_code, "code_from": code_from}
    facts = worth_of(stored, repeats, seed, **how)
    champion = champion_worth_of(stored, champion_episodes, seed, **how)
    if as_json:
        print_json(facts | champion)
        return
    print_facts(str(stored.path), {"elites": len(stored), "episodes each": repeats, "seed": seed})
    if evaluated_on(stored) != "cpu":
        click.echo(f"note: stored by MuJoCo Warp on '{evaluated_on(stored)}', run again by C MuJoCo", err=True)
    _print_rows(facts)
    _print_rows(champion)


def worth_of(stored: Any, repeats: int, seed: int, *, allow_code: bool = False, code_from: Path | None = None) -> Facts:
    """Return what `reevaluate` prints, for elites and actor."""
    from qdrl.analysis.reevaluate import Reevaluation, reevaluate_actor, reevaluate_elites

    def measured(found: Reevaluation) -> dict[str, float | None]:
        names = ("qd_score", "fitness_sum", "max_fitness", "descriptor_error", "failed", "env_steps")
        return {name: getattr(found, name) for name in names}

    how: dict[str, Any] = {"repeats": repeats, "seed": seed, "allow_code": allow_code, "code_from": code_from}
    statistics = stored.statistics()
    known = {"qd_score": statistics.qd_score, "fitness_sum": statistics.fitness_sum}
    known |= {"max_fitness": statistics.max_fitness}
    facts: Facts = {
        "elites, run again": measured(reevaluate_elites(stored, **how)),
        "elites, as stored": {**known, "descriptor_error": None, "failed": None, "env_steps": None},
    }
    if stored.actor is not None and int(stored.actor["dimensions"]):
        for targets in ("descriptors",) if stored.unstructured else ("descriptors", "centroids"):
            found = reevaluate_actor(stored, targets=targets, **how)
            facts[f"actor, asked for {targets}"] = measured(found)
    return facts


def champion_worth_of(
    stored: Any, episodes: int, seed: int, *, allow_code: bool = False, code_from: Path | None = None
) -> Facts:
    """Return what `reevaluate` prints for the champion; nothing if there is none, or no episode is wanted."""
    if stored.champion is None or not episodes:
        return {}
    from qdrl.analysis.reevaluate import reevaluate_champion
    from qdrl.archives.statistics import episode_statistics

    found = reevaluate_champion(stored, episodes=episodes, seed=seed, allow_code=allow_code, code_from=code_from)
    chosen_by = episode_statistics(stored.champion["fitness"])
    facts: Facts = {
        "champion, held out": {**vars(found.statistics), "env_steps": found.env_steps},
        "champion, as stored": {**vars(chosen_by), "env_steps": None},
    }
    if (tested := stored.champion.get("test_fitness")) is not None:
        facts["champion, tested by the run"] = {**vars(episode_statistics(tested)), "env_steps": None}
    return facts


def _print_rows(facts: Facts) -> None:
    """Print a table with a row of numbers for each name."""
    from qdrl.cli.archive.printing import print_table

    if facts:
        columns = list(next(iter(facts.values())))
        rows = [[who, *worth.values()] for who, worth in facts.items()]
        print_table(["", *(column.replace("_", " ") for column in columns)], rows)
