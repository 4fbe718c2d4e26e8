"""One genome as the genome of many rows."""

import numpy as np
import torch
from torch import Tensor


class RepeatedGenome:
    """Rows that all have one genome, which is not copied; see `qdrl.evaluation.Genomes`.

    Args:
        genome: `(parameters,)` float32.
        rows: number of rows.
    """

    def __init__(self, genome: np.ndarray, rows: int) -> None:
        self._genome, self._rows = torch.from_numpy(genome), range(rows)

    def __len__(self) -> int:
        """Return the number of rows."""
        return len(self._rows)

    def __getitem__(self, rows: slice) -> Tensor:
        """Return the genomes of these rows, `(rows, parameters)` float32."""
        return self._genome.expand(len(self._rows[rows]), -1)
