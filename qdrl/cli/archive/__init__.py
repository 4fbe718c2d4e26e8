"""`qdrl archive`: read-only verbs on archive files; none of them needs torch unless it replays."""

import click

from qdrl.cli import LazyGroup


@click.group(
    cls=LazyGroup,
    verbs={
        "info": ("qdrl.cli.archive.info", "What the file holds: task, cells, statistics, origin."),
        "plot": ("qdrl.cli.archive.plot", "Draw the heatmap and the metric curves."),
        "show": ("qdrl.cli.archive.show", "One elite in full; --replay runs it again and compares."),
        "find": ("qdrl.cli.archive.find", "The elites nearest to a descriptor."),
        "reevaluate": ("qdrl.cli.archive.reevaluate", "Run all elites and the actor again: what are they worth?"),
        "validate": ("qdrl.cli.archive.validate", "Say what is wrong with a file, and where."),
    },
)
def command() -> None:
    """Inspect an archive file.

    \b
    Example:
      qdrl archive info archives/reference/walker2d_uni.h5
      qdrl archive find archives/reference/walker2d_uni.h5 --descriptor 0.3 0.7
    """
