"""The output of `qdrl evolve --dry-run`."""

import click

from qdrl.config import Experiment
from qdrl.parallel.ranks import Ranks
from qdrl.run.build import Parts, build
from qdrl.run.estimate import estimate
from qdrl.run.forecast import Forecast, Pace, duration, forecast, measure
from qdrl.settings.run import RunSettings


def print_plan(experiment: Experiment, ranks: Ranks) -> None:
    """Print what a run would need and how long it would take, on the first rank. Collective; writes no files.

    Args:
        experiment: the settings of the run.
        ranks: the ranks of the run.

    Raises:
        UserError: the parts do not fit each other, or do not fit into memory.
    """
    parts = build(experiment)
    needed = estimate(experiment, parts.task, rows=parts.most_rows, ranks=ranks.size)
    measured = experiment.compute.device == "cpu"
    if measured:
        parts.algorithm.share_memory(ranks)  # as a run does: a node has one noise table
    paces = ranks.gather(measure(parts, len(ranks.rows(parts.algorithm.batch_size))) if measured else None)
    if not ranks.first:
        return
    lines = {
        "run": f"{experiment.title or experiment.name}: {parts.algorithm.batch_size:,} rows a generation,"
        f" {_of_ranks(ranks.size)}, {parts.task.parameters:,} parameters a genome",
        "memory": needed.memory(),
        "files": needed.files(),
        **(_times(forecast(paces, parts, ranks.size), paces, parts) if measured else {"time": _NOT_MEASURED}),
    }
    for name, text in [*lines.items(), *(("warning", text) for text in needed.warnings())]:
        click.echo(f"{name:<12}{text}")
    click.echo("nothing was written; leave out --dry-run to start the run")


_NOT_MEASURED = "not measured on this device: compiling its kernels and graphs takes too long for a dry run"


def _of_ranks(count: int) -> str:
    return "one rank" if count == 1 else f"{count} ranks"


def _times(expected: Forecast, paces: list[Pace], parts: Parts) -> dict[str, str]:
    """Return lines about a generation and the whole run."""
    now, full = expected.generation_seconds
    generation = f"{duration(now)} with random genomes"
    if full > 1.05 * now:
        generation += f", {duration(full)} with episodes of full length"
    critics, climbing = expected.learning_seconds
    parted = [("critics", critics), ("gradient variation", climbing)]
    if named := ", ".join(f"{name} {duration(seconds)}" for name, seconds in parted if seconds):
        generation += f" ({named})"
    rows = sum(pace.measured_rows for pace in paces)
    return {
        "generation": f"{generation}; measured on {rows:,} rows",
        "whole run": _whole(expected, parts.experiment.run),
    }


def _whole(expected: Forecast, budget: RunSettings) -> str:
    shortest, longest = expected.total_seconds
    limit = budget.minutes * 60 if budget.minutes is not None else None
    if shortest == float("inf"):
        return f"until run.minutes: {duration(limit)}" if limit is not None else "no budget ends it"
    first, last = sorted(expected.generations)
    generations = f"{first:,.0f}" if first == last else f"{first:,.0f} to {last:,.0f}"
    span = duration(longest)
    if longest > 1.05 * shortest:
        span = f"{duration(shortest)} to {span}"
    cut = f"; run.minutes ends it after {duration(limit)}" if limit is not None and limit < longest else ""
    return f"{span} for {generations} generations{cut}"
