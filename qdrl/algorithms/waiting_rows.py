"""Evaluated rows that wait for the update of a searcher."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from qdrl.evaluation import Evaluation


class WaitingRows:
    """Fitness, failures and control steps of the rows of some generations, which the searcher has not used yet.

    Attributes:
        fitness: `(rows,)` float64.
        failed: `(rows,)` bool.
        steps: `(rows,)` int64.

    Args:
        batch_size: rows of one generation.
    """

    def __init__(self, batch_size: int) -> None:
        self._batch_size = batch_size
        self.clear()

    def __len__(self) -> int:
        """Return the number of rows."""
        return len(self.fitness)

    @property
    def generations(self) -> int:
        """Return the number of generations that the rows are of."""
        return len(self) // self._batch_size

    def add(self, evaluation: Evaluation) -> None:
        """Add the first `batch_size` rows of a generation."""
        columns = (evaluation.fitness, evaluation.failed, evaluation.steps)
        fitness, failed, steps = (column[: self._batch_size].cpu().numpy() for column in columns)
        self.fitness, self.failed = np.concatenate([self.fitness, fitness]), np.concatenate([self.failed, failed])
        self.steps = np.concatenate([self.steps, steps])

    def clear(self) -> None:
        """Remove all rows."""
        self.fitness, self.failed, self.steps = np.empty(0), np.empty(0, bool), np.empty(0, np.int64)

    def state_dict(self) -> dict[str, np.ndarray]:
        """Return the columns by name."""
        return {"fitness": self.fitness, "failed": self.failed, "steps": self.steps}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore the columns that `state_dict` returned.

        Raises:
            KeyError: a column is missing.
            ValueError: the columns are not those of whole generations; the rows are then unchanged.
        """
        columns = {name: np.asarray(state[name], now.dtype) for name, now in self.state_dict().items()}
        count = columns["fitness"].size
        if count % self._batch_size or any(column.shape != (count,) for column in columns.values()):
            shapes = ", ".join(f"{name} {column.shape}" for name, column in columns.items())
            raise ValueError(f"waiting rows must be columns of a multiple of {self._batch_size} rows, got {shapes}")
        self.fitness, self.failed, self.steps = columns["fitness"], columns["failed"], columns["steps"]
