"""THE loop. Every algorithm, task and number of ranks runs through it."""

from typing import Protocol

from qdrl.algorithms.base import Algorithm
from qdrl.errors import RankLost
from qdrl.evaluation import Evaluation
from qdrl.ranks import OneProcess, Ranks
from qdrl.tasks.base import Task


class Record(Protocol):
    """Decides when a run ends and keeps what it made."""

    def proceed(self, algorithm: Algorithm) -> bool:
        """Collective. Whether another generation is wanted."""
        ...

    def add(self, algorithm: Algorithm, evaluation: Evaluation, counts: dict[str, float]) -> None:
        """Take note of a generation that was told."""
        ...

    def warn(self, message: str) -> None:
        """Take note of something a person should know."""
        ...


def evolve(algorithm: Algorithm, task: Task, record: Record, ranks: Ranks | None = None) -> None:
    """Run generations until the record has enough.

    Collective: every rank runs it with the same algorithm state; the archives stay identical on all of them.
    When a rank is lost and the MPI survives that, the others do the generation again: nothing was told yet.

    Args:
        algorithm: proposes and learns.
        task: evaluates.
        record: decides when to stop, writes files.
        ranks: who computes which rows; this process alone when left out.
    """
    ranks = ranks or OneProcess()
    while True:
        try:
            if not record.proceed(algorithm):
                return
            generation(algorithm, task, record, ranks)
        except RankLost as loss:
            record.warn(f"{loss}; generation {algorithm.generation} is done again")


def generation(algorithm: Algorithm, task: Task, record: Record, ranks: Ranks) -> None:
    """Collective. One generation: ask, evaluate, share, tell, record."""
    rows = ranks.rows(algorithm.batch_size)
    candidates = algorithm.ask(rows)
    evaluation = task.evaluate(candidates)
    evaluation = ranks.share(evaluation)
    counts = algorithm.tell(evaluation)
    task.update(evaluation)
    record.add(algorithm, evaluation, counts)
