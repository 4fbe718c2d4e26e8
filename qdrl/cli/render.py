"""`qdrl render`."""

from pathlib import Path

import click

from qdrl.cli.archive.paths import archive_argument
from qdrl.cli.code import code_options
from qdrl.cli.numbers import Integer


@click.command()
@archive_argument
@click.argument("output", type=click.Path(path_type=Path))
@click.option("--cell", type=int, help="Cell of the elite to film; the best one when left out.")
@click.option("--width", type=Integer(16, 4096), default=640, show_default=True)
@click.option("--height", type=Integer(16, 4096), default=480, show_default=True)
@code_options
@click.option("--fps", type=Integer(1, 120), default=50, show_default=True, help="Most frames a second.")
def command(
    archive: Path,
    output: Path,
    cell: int | None,
    width: int,
    height: int,
    fps: int,
    allow_code: bool,
    code_from: Path | None,
) -> None:
    """Film an elite of ARCHIVE to OUTPUT (.mp4 or .gif), as it ran, in real time.

    ARCHIVE is an archive file or a run folder. Needs an OpenGL that can draw without a screen: MUJOCO_GL=egl with a GPU
    driver, MUJOCO_GL=osmesa without.

    \b
    Example:
      MUJOCO_GL=egl qdrl render archives/reference/walker2d_uni.h5 --cell 12 walker.mp4
    """
    from qdrl.archives.hdf5 import open_archive
    from qdrl.errors import UserError
    from qdrl.report.video import check_video_path, film, require_rendering

    check_video_path(output)
    stored = open_archive(archive)
    chosen = stored.best_cell if cell is None else cell
    stored.row_of(chosen)  # a wrong cell is refused before anything slow begins
    without_model = UserError(f"task '{stored.meta['task']['name']}' has no MuJoCo model to film")
    if not stored.meta.get("mjcf"):
        raise without_model
    require_rendering()

    from qdrl.analysis.rerun import replay

    result = replay(stored, chosen, allow_code=allow_code, code_from=code_from)
    if result.track is None:
        raise without_model
    frames = film(result.track, output, width=width, height=height, fps=fps)
    click.echo(f"{output}: cell {chosen}, fitness {result.fitness:.6g}, {frames} frames, {result.steps} steps")
    for note in result.notes:
        click.echo(f"note: {note}", err=True)
    if result.same is False:
        click.echo("note: this rerun differs from the stored evaluation", err=True)
