"""The loop that every algorithm, task and number of ranks runs through."""

from typing import Protocol

from qdrl.algorithms.base import Algorithm
from qdrl.errors import RankLost
from qdrl.evaluation import Evaluation
from qdrl.parallel.ranks import OneProcess, Ranks
from qdrl.tasks.base import Task


class Record(Protocol):
    """Decides when a run ends, and stores its results."""

    def proceed(self, algorithm: Algorithm) -> bool:
        """Collective. Return whether to run another generation."""
        ...

    def add(self, algorithm: Algorithm, evaluation: Evaluation, counts: dict[str, float]) -> None:
        """Record a generation after `tell`."""
        ...

    def warn(self, message: str) -> None:
        """Record a warning for the user."""
        ...


def evolve(algorithm: Algorithm, task: Task, record: Record, ranks: Ranks | None = None) -> None:
    """Run generations until the record says stop.

    Collective: every rank runs it with the same algorithm state; the archives stay identical on all of them.
    When a rank is lost and the MPI survives that, the others repeat the generation, whose `tell` was not called yet.

    Args:
        algorithm: proposes genomes and learns from their evaluation.
        task: evaluates genomes.
        record: decides when to stop, writes files.
        ranks: the processes that share the rows; this process alone when left out.
    """
    ranks = ranks or OneProcess()
    while True:
        try:
            if not record.proceed(algorithm):
                return
            generation(algorithm, task, record, ranks)
        except SystemExit as error:  # of a user's code: the process would end as if it had finished
            raise RuntimeError(f"the algorithm or the task raised SystemExit({error.code!r})") from error
        except RankLost as loss:
            record.warn(f"{loss}; generation {algorithm.generation} is done again")


def generation(algorithm: Algorithm, task: Task, record: Record, ranks: Ranks) -> None:
    """Collective. Run one generation: ask, evaluate, share, tell, record."""
    rows = ranks.rows(algorithm.batch_size)
    candidates = algorithm.ask(rows)
    evaluation = task.evaluate(candidates)
    evaluation = ranks.share(evaluation, algorithm.batch_size)
    counts = algorithm.tell(evaluation, ranks.exchange)
    task.update(evaluation)
    record.add(algorithm, evaluation, counts)
