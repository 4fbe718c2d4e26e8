"""End the rank programs of tests as `qdrl.__main__` ends qdrl."""

from collections.abc import Iterator
from contextlib import contextmanager

from qdrl.parallel.launcher import abort, launched_rank


@contextmanager
def aborting_all_ranks() -> Iterator[None]:
    """End all ranks if the code inside raises an exception; without a launcher the exception passes through."""
    try:
        yield
    except Exception as error:
        rank = launched_rank()
        if rank is None:
            raise
        abort(error, rank)
