"""How `evolve` and `resume` join the other ranks of a job."""

from contextlib import suppress
from importlib import import_module

from qdrl.ranks import Ranks, connect, launched_rank


def join() -> Ranks:
    """Return the ranks of this job.

    Call it before slow imports, so that a death during them is noticed. matplotlib's fonts are imported first on the
    first rank: without a cache they start a process, and after MPI_Init no process may be started.

    Raises:
        UserError: see `qdrl.ranks.connect`.
    """
    if launched_rank() == 0:
        with suppress(ImportError):
            import_module("matplotlib.font_manager")
    return connect()
