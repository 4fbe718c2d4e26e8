"""`qdrl evolve`."""

from pathlib import Path

import click

from qdrl.cli.numbers import Integer


@click.command()
@click.argument("experiment", type=click.Path(path_type=Path))
@click.option("--set", "overrides", multiple=True, metavar="TABLE.KEY=VALUE", help="Override a setting; repeatable.")
@click.option("--unset", multiple=True, metavar="TABLE.KEY", help="Remove a setting of the file; repeatable.")
@click.option("--seed", type=Integer(min=0), help="Override the seed.")
@click.option(
    "--device",
    type=click.Choice(["cpu", "cuda", "warp-cpu"]),
    help="Device of the physics of locomotion tasks; sets compute.device.",
)
@click.option("--output", type=click.Path(path_type=Path), help="The run folder; it must not exist yet.")
@click.option("--dry-run", is_flag=True, help="Print memory, time and file sizes of the run, and write nothing.")
@click.option(
    "--progress/--no-progress",
    default=None,
    help="Draw a live bar, or print plain lines; by default a bar only for one process on a terminal.",
)
def command(
    experiment: Path,
    overrides: tuple[str, ...],
    unset: tuple[str, ...],
    seed: int | None,
    device: str | None,
    output: Path | None,
    dry_run: bool,
    progress: bool | None,
) -> None:
    """Start a run from an EXPERIMENT file.

    Alone or under mpirun: the archive is the same, bit for bit, for any number of ranks. SIGUSR1 stops it after
    the running generation (alone, so do SIGTERM and Ctrl-C), and so does run.job_minutes; `qdrl resume` continues it.

    Exit codes: 0 when a budget of the run is spent, 75 when it was stopped before, 1 when it failed, 2 for a mistake.

    \b
    Example:
      mpirun -n 2 qdrl evolve experiments/quickstart/config.toml
      qdrl evolve experiments/quickstart/config.toml --dry-run
      qdrl evolve experiments/quickstart/config.toml --set algorithm.batch_size=512 --seed 3
    """
    from qdrl.config import load_experiment

    if device is not None:
        overrides = (*overrides, f"compute.device={device}")
    settings = load_experiment(experiment, overrides, seed, unset=unset)

    from qdrl.cli.joining import join

    ranks = join()
    if dry_run:
        from qdrl.cli.plan import print_plan

        print_plan(settings, ranks)
        return

    from qdrl.cli.outcome import end
    from qdrl.run.start import start

    end(start(settings, ranks, folder=output, modules=experiment.parent, progress=progress), ranks)
