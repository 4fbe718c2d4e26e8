"""Collectives of a generation: the communication between ranks that `tell` may use.

The columns of an evaluation are on every rank after `ranks.share`; genomes and transitions are on the rank that
evaluated the row. An algorithm moves them with the `Exchange` that its `tell` receives.

Every method is collective. All ranks call the same methods in the same order, with arguments that differ only in the
data of each rank's own rows.
"""

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Protocol, TypeAlias

if TYPE_CHECKING:
    import numpy as np
    from torch import Tensor

    from qdrl.evaluation import Evaluation, Transitions
    from qdrl.parallel.learners import Learners

TrainingResult: TypeAlias = "dict[str, np.ndarray]"
"""Arrays by name; the first learner broadcasts them to every rank."""
Training: TypeAlias = "Callable[[Sequence[Transitions], Learners], TrainingResult]"
"""Trains on one learner, given the transitions of each of its shards and the learner group."""


class Exchange(Protocol):
    """The collectives that an algorithm may use in `tell`."""

    def genomes(self, evaluation: "Evaluation", rows: "Tensor") -> "Tensor":
        """Return genomes from the ranks that evaluated them (collective).

        Args:
            evaluation: all rows of a generation.
            rows: `(k,)` int64, rows of the generation in any order, the same on every rank.

        Returns:
            `(k, parameters)` float32, the same on every rank.
        """
        ...

    def sum_blocks(self, block: "Callable[[int], Tensor]", blocks: int) -> "Tensor":
        """Return `block(0) + ... + block(blocks - 1)`, added in this order (collective).

        Each block is computed by one rank. The result does not depend on the number of ranks.

        Args:
            block: computes one term; all terms are float32 tensors of one shape.
            blocks: number of terms, at least 1.
        """
        ...

    def train(self, evaluation: "Evaluation", training: Training, shards: int = 1) -> TrainingResult:
        """Train on the transitions of all rows; return the first learner's result on every rank (collective).

        Args:
            evaluation: all rows of a generation, with transitions.
            training: called once on each learner.
            shards: number of contiguous blocks of rows, each of which goes to one learner. The number of learners is
                that of the shards, or that of the ranks where it is smaller.

        Raises:
            ValueError: the evaluation has no transitions.
        """
        ...


class LocalExchange:
    """The exchange of a single process, which evaluated all rows."""

    def genomes(self, evaluation: "Evaluation", rows: "Tensor") -> "Tensor":
        """Return genomes of this process's rows."""
        return evaluation.own_genomes(rows)

    def sum_blocks(self, block: "Callable[[int], Tensor]", blocks: int) -> "Tensor":
        """Return the sum of all terms, computed by this process."""
        total = block(0).clone()
        for index in range(1, blocks):
            total += block(index)
        return total

    def train(self, evaluation: "Evaluation", training: Training, shards: int = 1) -> TrainingResult:
        """Train on all shards in this process."""
        from qdrl.parallel.learners import OneLearner

        return training(shards_of(evaluation, shards), OneLearner(shards))


LOCAL = LocalExchange()
"""The default exchange of `tell`, for scripts and notebooks of one process."""


def shards_of(evaluation: "Evaluation", shards: int) -> "list[Transitions]":
    """Return this process's transitions of each shard of an evaluation's rows.

    Args:
        evaluation: all rows of a generation, with the transitions of this process's own rows.
        shards: number of contiguous blocks of rows.

    Raises:
        ValueError: the evaluation has no transitions.
    """
    from qdrl.parallel.learners import block

    if evaluation.transitions is None:
        raise ValueError("this evaluation has no transitions: set wants_transitions=True in the candidates")
    rows = (block(shard, shards, len(evaluation.rows)) for shard in range(shards))
    return [evaluation.transitions.within(part) for part in rows]
