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
@click.option("--unset", multiple=True, metavar="TABLE.KEY", help="Remove a run.* or compute.* setting; repeatable.")
@click.option(
    "--from-archive", is_flag=True, help="Continue from archive.h5 where no checkpoint can be read; not exact."
)
@click.option(
    "--accept-changed-code",
    is_flag=True,
    help="Continue although the source of your own task or algorithm has changed.",
)
@click.option(
    "--progress/--no-progress",
    default=None,
    help="Draw a live bar, or print plain lines; by default a bar only for one process on a terminal.",
)
def command(
    folder: Path,
    overrides: tuple[str, ...],
    unset: tuple[str, ...],
    from_archive: bool,
    accept_changed_code: bool,
    progress: bool | None,
) -> None:
    """Continue the run in FOLDER from its last checkpoint.

    On any number of ranks the final archive is the one that the uninterrupted run makes, bit for bit. A run whose
    checkpoint is lost can continue from the elites of its archive with --from-archive, which is not exact.

    Exit codes: 0 when a budget of the run is spent, 75 when it was stopped before, 1 when it failed, 2 for a mistake.

    \b
    Example:
      mpirun -n 4 qdrl resume runs/quickstart/20261123T120000Z_seed0
      qdrl resume runs/quickstart/20261123T120000Z_seed0 --set run.generations=400 --unset run.minutes
    """
    from qdrl.cli.joining import join

    ranks = join()

    from qdrl.cli.outcome import end
    from qdrl.run.resume import resume

    outcome = resume(
        folder,
        ranks,
        overrides=overrides,
        unset=unset,
        from_archive=from_archive,
        accept_changed_code=accept_changed_code,
        progress=progress,
    )
    end(outcome, ranks)
