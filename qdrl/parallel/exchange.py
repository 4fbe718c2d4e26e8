"""Collectives of a generation: what `tell` may ask of all ranks.

The columns of an evaluation are on every rank after `ranks.share`; genomes and transitions are on the rank that
evaluated the row. An algorithm moves them with the `Exchange` that its `tell` receives.

Rank discipline: every method is collective. All ranks call the same methods in the same order, with the same arguments
up to the data that each rank holds itself.
"""

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Protocol, TypeAlias

if TYPE_CHECKING:
    import numpy as np
    from torch import Tensor

    from qdrl.evaluation import Evaluation, Transitions
    from qdrl.parallel.learners import Learners

TrainingResult: TypeAlias = "dict[str, np.ndarray]"
"""Arrays by name, which the first learner sends to every rank."""
Training: TypeAlias = "Callable[[Sequence[Transitions], Learners], TrainingResult]"
"""Trains on a learner: gets the transitions of each shard of this learner, and the learner group."""


class Exchange(Protocol):
    """The collectives that an algorithm may use in `tell`."""

    def genomes(self, evaluation: "Evaluation", rows: "Tensor") -> "Tensor":
        """Collective. Return genomes from the ranks that evaluated them.

        Args:
            evaluation: all rows of a generation.
            rows: `(k,)` int64, ascending rows of the generation, the same on every rank.

        Returns:
            `(k, parameters)` float32, the same on every rank.
        """
        ...

    def sum_blocks(self, block: "Callable[[int], Tensor]", blocks: int) -> "Tensor":
        """Collective. Return `block(0) + ... + block(blocks - 1)`, added in this order.

        Each block is computed by one rank. The result does not depend on the number of ranks.

        Args:
            block: computes one term; all terms are float32 tensors of one shape.
            blocks: number of terms, at least 1.
        """
        ...

    def train(self, evaluation: "Evaluation", training: Training, shards: int = 1) -> TrainingResult:
        """Collective. Train on the transitions of all rows; return the result of the first learner on every rank.

        Args:
            evaluation: all rows of a generation, with transitions.
            training: called once on each learner.
            shards: contiguous blocks of rows, each of which goes to one learner. There are as many learners as shards,
                or as many as ranks where these are fewer.

        Raises:
            ValueError: the candidates did not want transitions.
        """
        ...


class LocalExchange:
    """The exchange of a single process, which has evaluated all rows itself."""

    def genomes(self, evaluation: "Evaluation", rows: "Tensor") -> "Tensor":
        """Return genomes of this process's rows."""
        return evaluation.own_genomes(rows)

    def sum_blocks(self, block: "Callable[[int], Tensor]", blocks: int) -> "Tensor":
        """Return the sum of all terms, all computed here."""
        total = block(0).clone()
        for index in range(1, blocks):
            total += block(index)
        return total

    def train(self, evaluation: "Evaluation", training: Training, shards: int = 1) -> TrainingResult:
        """Train here on all shards."""
        from qdrl.parallel.learners import OneLearner

        return training(shards_of(evaluation, shards), OneLearner(shards))


LOCAL = LocalExchange()
"""The default of `tell`, for scripts and notebooks of one process."""


def shards_of(evaluation: "Evaluation", shards: int) -> "list[Transitions]":
    """Return this process's transitions of each shard of an evaluation's rows.

    Raises:
        ValueError: the candidates did not want transitions.
    """
    from qdrl.parallel.learners import block

    if evaluation.transitions is None:
        raise ValueError("this evaluation has no transitions: set wants_transitions=True in the candidates")
    rows = (block(shard, shards, len(evaluation.rows)) for shard in range(shards))
    return [evaluation.transitions.within(part) for part in rows]
