"""The loop over generations, the same for every algorithm, task and number of ranks."""

from collections.abc import Mapping
from typing import Protocol

from qdrl.algorithms.base import Algorithm
from qdrl.errors import RankLost, UserError
from qdrl.evaluation import Candidates, Evaluation
from qdrl.parallel.ranks import OneProcess, Ranks
from qdrl.tasks.base import Task


class Record(Protocol):
    """The record of a run: it stores results and decides when the run ends."""

    def proceed(self, algorithm: Algorithm) -> bool:
        """Return whether to run another generation (collective)."""
        ...

    def add(self, algorithm: Algorithm, evaluation: Evaluation, counts: dict[str, float]) -> None:
        """Record a generation after `tell`, on every rank.

        Args:
            algorithm: its state after `tell`.
            evaluation: all rows of the generation.
            counts: numbers to record by name, as `tell` returned them.
        """
        ...

    def warn(self, message: str) -> None:
        """Record a warning for the user."""
        ...


def evolve(algorithm: Algorithm, task: Task, record: Record, ranks: Ranks | None = None) -> None:
    """Run generations until the record ends the run (collective).

    Every rank calls it with the same algorithm state; the archives stay identical on all ranks. When a rank is lost and
    the MPI survives the loss, the remaining ranks repeat the generation; the algorithm is still in the state before it.

    Args:
        algorithm: proposes genomes and is updated with their evaluation.
        task: evaluates genomes.
        record: stores results and decides when the run ends.
        ranks: the processes that share the rows; this process alone when left out.

    Raises:
        RuntimeError: the algorithm or the task raised `SystemExit`.
    """
    ranks = ranks or OneProcess()
    while True:
        try:
            if not record.proceed(algorithm):
                return
            generation(algorithm, task, record, ranks)
        except SystemExit as error:  # raised by a user's code; it would end the process as if the run had finished
            raise RuntimeError(f"the algorithm or the task raised SystemExit({error.code!r})") from error
        except RankLost as loss:
            record.warn(f"{loss}; generation {algorithm.generation} is repeated")


def generation(algorithm: Algorithm, task: Task, record: Record, ranks: Ranks) -> None:
    """Run one generation: ask, evaluate, share, tell, record (collective).

    Args:
        algorithm: proposes genomes and is updated with their evaluation.
        task: evaluates genomes.
        record: stores results.
        ranks: the processes that share the rows.

    Raises:
        UserError: `ask` or `tell` of a user's algorithm returned something else, or `tell` did not end the generation.
    """
    rows, index = ranks.rows(algorithm.batch_size), algorithm.generation
    candidates = algorithm.ask(rows)
    if not isinstance(candidates, Candidates):
        raise _wrong(algorithm, f"ask must return Candidates, as make_candidates does, got {type(candidates).__name__}")
    evaluation = task.evaluate(candidates)
    evaluation = ranks.share(evaluation, algorithm.batch_size)
    counts = algorithm.tell(evaluation, ranks.exchange)
    if not isinstance(counts, Mapping):
        raise _wrong(algorithm, f"tell must return metrics by name, a dict, got {type(counts).__name__}")
    if algorithm.generation != index + 1:
        raise _wrong(algorithm, f"tell must add 1 to generation, which is {algorithm.generation} after {index}")
    task.update(evaluation)
    record.add(algorithm, evaluation, counts)


def _wrong(algorithm: Algorithm, what: str) -> UserError:
    return UserError(f"algorithm '{algorithm.settings.name}': {what}")
