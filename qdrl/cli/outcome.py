"""The end of `evolve` and `resume`: figures, printed summary and exit code."""

import os

import click

from qdrl.archives.hdf5 import open_archive
from qdrl.archives.statistics import episode_statistics
from qdrl.archives.stored import StoredArchive
from qdrl.optional import missing_package
from qdrl.parallel.ranks import Ranks, repeat_after_losses
from qdrl.run.job import Outcome

STOPPED = os.EX_TEMPFAIL  # 75: a job that may be started again


def end(outcome: Outcome, ranks: Ranks) -> None:
    """Draw the figures, print a summary and leave with the exit code of the outcome. Collective.

    When the first rank is lost meanwhile, the next one draws and prints.

    Raises:
        SystemExit: with code 75 on every rank, when the run was stopped before a budget was spent.
    """

    def show_on_first() -> None:
        if ranks.first:
            show(outcome)
        ranks.wait_for_all()  # also because launchers end a job at the first exit code that is not 0

    repeat_after_losses(show_on_first, lambda loss: click.echo(f"qdrl: {loss}", err=True) if ranks.first else None)
    code = 0 if outcome.finished else STOPPED
    ranks.leave(code)
    if code:
        raise SystemExit(code)


def show(outcome: Outcome) -> None:
    """Draw the figures and print a summary of the run."""
    archive = open_archive(outcome.archive)
    statistics = archive.statistics()
    lines = {
        "archive": outcome.archive,
        **_filling(archive),
        "QD score": f"{statistics.qd_score:.6g} ({archive.offsets}; {statistics.fitness_sum:.6g} without it)",
        "best fitness": f"{statistics.max_fitness:.6g}",
        **_champion(archive),
    }
    if failed := int(archive.history["failed"][-1]) if len(archive.history.get("failed", ())) else 0:
        lines["failed"] = f"{failed} of {int(archive.history['evaluations'][-1])} evaluations; see log.txt"
    if len(archive):
        lines |= _figures(outcome, archive)
    lines["ended by"] = outcome.ended_by
    for name, value in lines.items():
        click.echo(f"{name:<13}{value}")
    if not outcome.finished:
        click.echo(f"stopped before its budget; continue with: qdrl resume {outcome.folder}")
    elif outcome.generations == 0 and not outcome.tested:
        _explain_spent(outcome)


def _explain_spent(outcome: Outcome) -> None:
    """Print why a resumed run did nothing, and how to continue it."""
    names = [budget.partition(" ")[0] for budget in outcome.ended_by.split(", ")]
    raised = " ".join(f"--set {name}=..." for name in names)
    removed = " ".join(f"--unset {name}" for name in names)
    line = f"nothing to do: {outcome.ended_by} is spent; raise it ({raised}) or remove it ({removed})"
    click.echo(f"qdrl: {line}", err=True)


def _figures(outcome: Outcome, archive: StoredArchive) -> dict[str, object]:
    """Draw heatmap and curves; print a line about a figure that cannot be drawn or written."""
    try:
        from qdrl.report.curves import figure_of_curves
        from qdrl.report.figures import save_figure
        from qdrl.report.heatmap import figure_of_heatmap
    except ImportError as error:
        missing = missing_package(error, "drawing") if isinstance(error, ModuleNotFoundError) else None
        return {"figures": f"none: {missing or error}"}
    folder, drawn = outcome.folder / "figures", {}
    for name, draw in (("heatmap", figure_of_heatmap), ("curves", figure_of_curves)):
        try:
            folder.mkdir(exist_ok=True)
            drawn[name] = save_figure(draw(archive), folder / f"{name}.png")
        except Exception as error:  # whatever a drawing library raises: the run itself is complete
            click.echo(f"qdrl: no {name}: {' '.join(str(error).split()) or type(error).__name__}", err=True)
    return drawn


def _champion(archive: StoredArchive) -> dict[str, str]:
    """Return the champion's lines, for runs that look for one best genome; one for its test, if there was one."""
    if archive.champion is None:
        return {}
    scores, generation = archive.champion["fitness"], int(archive.champion["generation"][0])
    lines = {"champion": f"{scores.mean():.6g} (mean of {len(scores)} evaluations, generation {generation})"}
    if (fitness := archive.champion.get("test_fitness")) is None:
        return lines
    test = episode_statistics(fitness)
    failed = f", {test.failed} failed" if test.failed else ""
    spread = f"standard deviation {test.fitness_std:.6g}, median {test.median_fitness:.6g}"
    of = f"mean of {test.episodes} held-out episodes{failed}"
    return lines | {"test": f"{test.mean_fitness:.6g} ({of}, {spread})"}


def _filling(archive: StoredArchive) -> dict[str, str]:
    """Return how full an archive is, as name and value of a line."""
    statistics = archive.statistics()
    if not archive.unstructured:
        return {"coverage": f"{statistics.coverage:.4f} ({statistics.elites} of {archive.cells} cells)"}
    spread = f" (mean novelty {archive.mean_novelty():.4g}, {archive.neighbours} neighbours)"
    return {"entries": f"{statistics.elites}{spread if statistics.elites > 1 else ''}"}
