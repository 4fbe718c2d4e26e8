"""THE loop. Every algorithm, task and number of ranks runs through it."""

from typing import Protocol

from qdrl.algorithms.base import Algorithm
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


def evolve(algorithm: Algorithm, task: Task, record: Record, ranks: Ranks | None = None) -> None:
    """Run generations until the record has enough.

    Collective: every rank runs it with the same algorithm state; the archives stay identical on all of them.

    Args:
        algorithm: proposes and learns.
        task: evaluates.
        record: decides when to stop, writes files.
        ranks: who computes which rows; this process alone when left out.
    """
    ranks = ranks or OneProcess()
    while record.proceed(algorithm):
        rows = ranks.rows(algorithm.batch_size)
        candidates = algorithm.ask(rows)
        evaluation = task.evaluate(candidates)
        evaluation = ranks.share(evaluation)
        counts = algorithm.tell(evaluation)
        task.update(evaluation)
        record.add(algorithm, evaluation, counts)
