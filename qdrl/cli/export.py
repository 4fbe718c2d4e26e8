"""`qdrl export`."""

from pathlib import Path

import click

from qdrl.cli.archive.paths import archive_argument
from qdrl.cli.code import code_options


@click.command()
@archive_argument
@click.argument("output", type=click.Path(path_type=Path, dir_okay=False))
@click.option("--cell", type=int, help="Cell of the elite; when left out, the run's champion or else the best elite.")
@code_options
def command(archive: Path, output: Path, cell: int | None, allow_code: bool, code_from: Path | None) -> None:
    """Write the weights of one genome of ARCHIVE to OUTPUT (.npz).

    Lineages are decoded. The file holds `genome`, the flat row, and for policies `kernel_<i>` (inputs, outputs) and
    `bias_<i>` of each layer, `layers`, `activation`, `output`, `order`; where observations are normalised `mean`,
    `deviation` and `observation_clip`; where layers are, `scale_<i>`, `offset_<i>` and the `reference` batch. It also
    says what they are for: `task`, `fitness`, `descriptor` with names, units and bounds. numpy reads it without qdrl;
    docs/how-to/export.md has every array and a complete example.

    \b
    Example:
      qdrl export archives/reference/walker2d_uni.h5 walker.npz --cell 12
    """
    from qdrl.analysis.export import weights_of, write_weights
    from qdrl.archives.hdf5 import open_archive
    from qdrl.errors import UserError

    if output.suffix != ".npz":
        raise UserError(f"{output}: the name of the output must end in .npz")
    stored = open_archive(archive)
    chosen, weights = weights_of(stored, cell, allow_code=allow_code, code_from=code_from)
    write_weights(output, weights)
    click.echo(f"{output}: {chosen}, {len(weights['genome'])} weights")
