"""`qdrl resume`."""

from pathlib import Path

import click


@click.command()
@click.argument("folder", type=click.Path(path_type=Path))
@click.option(
    "--set",
    "overrides",
    multiple=True,
    metavar="TABLE.KEY=VALUE",
    help="Override a run.* or compute.* setting.",
)
@click.option(
    "--accept-changed-code",
    is_flag=True,
    help="Continue although the source of your own task or algorithm has changed.",
)
@click.option("--progress/--no-progress", default=None, help="A live bar, or plain lines; decided by the terminal.")
def command(folder: Path, overrides: tuple[str, ...], accept_changed_code: bool, progress: bool | None) -> None:
    """Go on with the run in FOLDER from its last checkpoint.

    On any number of ranks the final archive is the one that the uninterrupted run makes, bit for bit.

    \b
    Example:
      mpirun -n 4 qdrl resume runs/quickstart/20261123T120000Z_seed0
      qdrl resume runs/quickstart/20261123T120000Z_seed0 --set run.generations=400
    """
    from qdrl.cli.outcome import show
    from qdrl.ranks import connect
    from qdrl.run import resume

    ranks = connect()
    show(resume(folder, ranks, overrides=overrides, progress=progress, accept_changed_code=accept_changed_code), ranks)
    ranks.leave()
