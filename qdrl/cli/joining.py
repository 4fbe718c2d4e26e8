"""Joining the other ranks of an MPI job, for `evolve` and `resume`."""

import platform
from contextlib import suppress
from importlib import import_module

from qdrl.parallel.launcher import launched_rank
from qdrl.parallel.ranks import Ranks, connect


def join() -> Ranks:
    """Return the ranks of this job.

    Call it before slow imports, so that a death during them is noticed. After MPI_Init no process may be started, so
    what starts one comes first: h5py asks for the processor's name, which Python then remembers, and on the first rank
    matplotlib lists the fonts where it has no cache.

    Raises:
        UserError: see `qdrl.parallel.ranks.connect`.
    """
    platform.processor()
    if launched_rank() == 0:
        with suppress(ImportError):
            import_module("matplotlib.font_manager")
    return connect()
