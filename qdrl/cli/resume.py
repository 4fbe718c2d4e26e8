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
@click.option("--progress/--no-progress", default=None, help="A live bar, or plain lines; decided by the terminal.")
def command(folder: Path, overrides: tuple[str, ...], progress: bool | None) -> None:
    """Go on with the run in FOLDER from its last checkpoint.

    On any number of ranks the final archive is the one that the uninterrupted run makes, bit for bit.

    \b
    Example:
      mpirun -n 4 qdrl resume runs/quickstart/20261123T120000Z_seed0
      qdrl resume runs/quickstart/20261123T120000Z_seed0 --set run.generations=400
    """
    from qdrl.ranks import connect

    ranks = connect()  # before slow imports: deaths during them are noticed then

    from qdrl.cli.outcome import show
    from qdrl.run import resume

    show(resume(folder, ranks, overrides=overrides, progress=progress), ranks)
    ranks.leave()
