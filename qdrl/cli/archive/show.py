"""`qdrl archive show`: one elite in full."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from qdrl.cli.archive.paths import archive_argument
from qdrl.cli.code import code_options

if TYPE_CHECKING:
    from qdrl.archives.stored import StoredArchive


class _NegativeCell(click.Command):
    """A command that accepts a negative number as a cell, to refuse it as such; click would read it as an option."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Move negative numbers behind the options, then parse as usual."""
        negative = [arg for arg in args if arg.startswith("-") and arg[1:].isdigit()]
        if negative and "--" not in args:
            args = [arg for arg in args if arg not in negative] + ["--", *negative]
        return super().parse_args(ctx, args)


@click.command(cls=_NegativeCell)
@archive_argument
@click.argument("cell", type=int)
@click.option("--replay", "with_replay", is_flag=True, help="Run the elite again and compare, bit for bit.")
@code_options
@click.option("--json", "as_json", is_flag=True, help="Print everything as JSON.")
@click.pass_context
def command(
    context: click.Context,
    archive: Path,
    cell: int,
    with_replay: bool,
    allow_code: bool,
    code_from: Path | None,
    as_json: bool,
) -> None:
    """Show the elite of a CELL: its fitness, descriptor, origin and genome.

    ARCHIVE is an archive file or a run folder. In a novelty archive, CELL is the number of an entry. With --replay the
    exit code is 1 when the elite does not do again exactly what the file says.

    \b
    Example:
      qdrl archive show archives/reference/walker2d_uni.h5 12
      qdrl archive show archives/reference/walker2d_uni.h5 12 --replay
    """
    from qdrl.archives.hdf5 import open_archive
    from qdrl.cli.archive.printing import print_facts, print_json

    stored = open_archive(archive)
    elite = describe_elite(stored, stored.row_of(cell))
    labels = [axis.label for axis in stored.axes]
    rerun = _rerun(stored, cell, allow_code, code_from) if with_replay else None
    if as_json:
        print_json(elite if rerun is None else elite | {"replay": rerun})
    else:
        print_facts(f"Elite of cell {cell} in {archive}", elite | {"axes": labels})
        if rerun is not None:
            _print_rerun(elite, rerun, labels)
    if rerun is not None and rerun["same"] is False:
        context.exit(1)


def describe_elite(stored: "StoredArchive", row: int) -> dict[str, Any]:
    """Return all that the file states about one elite."""
    from qdrl.cli.archive.facts import axes_of, elite_of

    columns: dict[str, Any] = {name: column[row] for name, column in stored.elites.items()}
    return (
        elite_of(stored, row)
        | columns
        | {
            "emitter": stored.emitters[columns["emitter"]],
            "axes": axes_of(stored),
            "centroid": None if stored.unstructured else stored.centroids[columns["cell"]],
            **_genome(stored, row),
        }
    )


def _genome(stored: "StoredArchive", row: int) -> dict[str, Any]:
    """Return what a genome consists of: weights, or mutations."""
    if stored.lineages is not None:
        seeds, sigmas = stored.lineages.of(row)
        return {
            "genome_parameters": stored.parameters,
            "lineage_first": int(seeds[0]),
            "lineage_mutations": len(seeds) - 1,
            "lineage_bytes": seeds.nbytes + sigmas.nbytes,
        }
    import numpy as np

    genome = stored.genome(row=row)
    return {
        "genome_parameters": len(genome),
        "genome_norm": float(np.linalg.norm(genome.astype(np.float64))),
        "genome_largest": float(np.abs(genome).max(initial=0)),
    }


def _rerun(stored: "StoredArchive", cell: int, allow_code: bool, code_from: Path | None) -> dict[str, Any]:
    from qdrl.analysis.rerun import replay

    again = replay(stored, cell, allow_code=allow_code, code_from=code_from)
    return {
        "fitness": again.fitness,
        "descriptor": again.descriptor,
        "steps": again.steps,
        "same": again.same,
        "notes": list(again.notes),
    }


def _print_rerun(elite: dict[str, Any], rerun: dict[str, Any], labels: list[str]) -> None:
    from qdrl.cli.archive.printing import print_table

    names = ["fitness", *(f"descriptor: {label}" for label in labels)]
    values = [[float(said["fitness"]), *map(float, said["descriptor"])] for said in (elite, rerun)]
    # All digits: the claim is about bits.
    rows = [[name, repr(stored), repr(again)] for name, stored, again in zip(names, *values, strict=True)]
    print_table(["", "stored", "replayed"], rows)
    if elite["n_evaluations"] > 1:
        unlike = f"one of the {elite['n_evaluations']} evaluations whose mean the file keeps"
    else:
        unlike = "by C MuJoCo; the file's numbers are MuJoCo Warp's"
    verdicts = {True: "the same, bit for bit", False: "DIFFERENT from what the file says", None: unlike}
    verdict = verdicts[rerun["same"]]
    click.echo(f"replayed {rerun['steps']} steps: {verdict}")
    for note in rerun["notes"]:
        click.echo(f"note: {note}", err=True)
