"""`qdrl archive validate`: what is wrong with a file, and where."""

from pathlib import Path

import click

from qdrl.cli.archive.paths import archive_argument


@click.command()
@archive_argument
@click.option("--seal", is_flag=True, help="Accept an intended change: write a new seal where nothing else is wrong.")
@click.pass_context
def command(context: click.Context, archive: Path, seal: bool) -> None:
    """Check a whole file, every genome included; the exit code is 1 when anything is wrong, 2 when there is no file.

    The file is read in a process of its own, so that one that crashes the HDF5 library is a verdict too. A file that
    was changed since qdrl wrote it does not match its seal, which is a problem until --seal accepts the change. Files
    of formats 1.0 and 1.1 have no seal.

    ARCHIVE is an archive file or a run folder.

    \b
    Example:
      qdrl archive validate archives/reference/walker2d_uni.h5
      qdrl archive validate --seal edited.h5
    """
    from qdrl.archives.hdf5 import file_format, open_archive, validate
    from qdrl.archives.seals import check_seal

    problems = validate(archive, seal=seal)
    for problem in problems:
        click.echo(f"{archive}: {problem}")
    if problems:
        context.exit(1)
    unsealed = " (no seal: a change that keeps the file readable is not found)"
    note = unsealed if check_seal(archive) == "absent" else ""
    click.echo(f"{archive}: valid {file_format(archive)}, {len(open_archive(archive))} elites{note}")
