"""What `evolve` and `resume` say at their end."""

import click

from qdrl.archives.hdf5 import open_archive
from qdrl.archives.stored import StoredArchive
from qdrl.ranks import Ranks, repeat_after_losses
from qdrl.run import Outcome


def show(outcome: Outcome, ranks: Ranks) -> None:
    """Collective. Draw the figures and print what the run made, on the first rank; on the next one if that is lost."""

    def show_on_first() -> None:
        if ranks.first:
            _show(outcome)
        ranks.wait_for_all()

    repeat_after_losses(show_on_first, lambda loss: click.echo(f"qdrl: {loss}", err=True) if ranks.first else None)


def _show(outcome: Outcome) -> None:
    from qdrl.report.curves import figure_of_curves
    from qdrl.report.figures import save_figure
    from qdrl.report.heatmap import figure_of_heatmap

    archive = open_archive(outcome.archive)
    statistics = archive.statistics()
    lines = {
        "archive": outcome.archive,
        **_filling(archive),
        "QD score": f"{statistics.qd_score:.6g} (offset {archive.qd_offset:g})",
        "best fitness": f"{statistics.max_fitness:.6g}",
        **_champion(archive),
    }
    if failed := int(archive.history["failed"][-1]) if len(archive.history.get("failed", ())) else 0:
        lines["failed"] = f"{failed} of {int(archive.history['evaluations'][-1])} evaluations; see log.txt"
    if len(archive):
        figures = outcome.folder / "figures"
        figures.mkdir(exist_ok=True)
        save_figure(figure_of_heatmap(archive), figures / "heatmap.png")
        save_figure(figure_of_curves(archive), figures / "curves.png")
        lines |= {"heatmap": figures / "heatmap.png", "curves": figures / "curves.png"}
    for name, value in lines.items():
        click.echo(f"{name:<13}{value}")
    if not outcome.finished:
        click.echo(f"stopped before its budget; go on with: qdrl resume {outcome.folder}")


def _champion(archive: StoredArchive) -> dict[str, str]:
    """The one genome that some runs are after."""
    if archive.champion is None:
        return {}
    scores, generation = archive.champion["fitness"], int(archive.champion["generation"][0])
    return {"champion": f"{scores.mean():.6g} (mean of {len(scores)} evaluations, generation {generation})"}


def _filling(archive: StoredArchive) -> dict[str, str]:
    """How full an archive is, as name and value of a line."""
    statistics = archive.statistics()
    if not archive.unstructured:
        return {"coverage": f"{statistics.coverage:.4f} ({statistics.elites} of {archive.cells} cells)"}
    spread = f" (mean novelty {archive.mean_novelty():.4g}, {archive.neighbours} neighbours)"
    return {"entries": f"{statistics.elites}{spread if statistics.elites > 1 else ''}"}
