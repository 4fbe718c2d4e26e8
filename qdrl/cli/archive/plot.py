"""`qdrl archive plot`: heatmap and curves as files."""

from pathlib import Path

import click

from qdrl.cli.archive.paths import archive_argument
from qdrl.errors import UserError


@click.command()
@archive_argument
@click.option(
    "--output",
    type=click.Path(path_type=Path),
    help="A folder, or the heatmap's file (.png, .pdf or .svg); the curves go beside it. "
    "Default: figures/ next to the archive if there is one, otherwise next to it.",
)
@click.option("--value", default="fitness", show_default=True, help="Which column of the elites to show.")
@click.option("--vmin", type=float, help="Value of the lowest colour.")
@click.option("--vmax", type=float, help="Value of the highest colour.")
def command(archive: Path, output: Path | None, value: str, vmin: float | None, vmax: float | None) -> None:
    """Draw the heatmap and the metric curves. Figures of an earlier call are replaced.

    Entries of a novelty archive, which has no cells, are drawn as points where they were measured.

    ARCHIVE is an archive file or a run folder.

    \b
    Example:
      qdrl archive plot runs/quickstart/<run>
      qdrl archive plot archives/reference/walker2d_uni.h5 --output walker.pdf --vmin 0
    """
    from qdrl.archives.hdf5 import open_archive
    from qdrl.report.curves import figure_of_curves
    from qdrl.report.figures import save_figure
    from qdrl.report.heatmap import figure_of_heatmap

    stored = open_archive(archive)
    heatmap, curves = figure_files(archive, output)
    figures = {heatmap: figure_of_heatmap(stored, value=value, vmin=vmin, vmax=vmax)}
    if stored.history and len(stored.history.get("evaluations", ())):
        figures[curves] = figure_of_curves(stored)
    for path, figure in figures.items():
        click.echo(save_figure(figure, path))


def figure_files(archive: Path, output: Path | None) -> tuple[Path, Path]:
    """Return the paths of the heatmap and the curves; make the folder that the user named.

    Figures of a run's own archive.h5 are called heatmap and curves, those of any other file carry its name.

    Raises:
        UserError: the folder cannot be made.
    """
    if output is None:
        figures = archive.parent / "figures"
        output = figures if figures.is_dir() else archive.parent
    elif output.suffix and not output.is_dir():
        _make_folder(output.parent)
        return output, output.with_name(f"{output.stem}_curves{output.suffix}")
    _make_folder(output)
    prefix = "" if archive.name == "archive.h5" else f"{archive.stem}_"
    return output / f"{prefix}heatmap.png", output / f"{prefix}curves.png"


def _make_folder(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"cannot make the folder '{folder}': {error.strerror}") from error
