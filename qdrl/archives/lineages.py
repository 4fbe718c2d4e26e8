"""Genomes that a file stores as lineages, as arrays. Needs numpy only."""

from dataclasses import dataclass
from typing import Any

import numpy as np


@dataclass(frozen=True)
class StoredLineages:
    """Lineages of `n` elites, concatenated.

    A lineage is the seed of its first genome, then the seeds and powers of its mutations. If the first power is NaN,
    the first number is that of a keyframe, a genome that is stored as it is.

    Attributes:
        offsets: `(n + 1,)` int64; lineage i is `seeds[offsets[i]:offsets[i + 1]]`, and `sigmas` likewise.
        seeds: `(m,)` uint32.
        sigmas: `(m,)` float32.
        noise: settings of the noise that is drawn from the seeds.
        keyframe_numbers: `(k,)` int64.
        keyframes: `(k, parameters)` float32.
    """

    offsets: np.ndarray
    seeds: np.ndarray
    sigmas: np.ndarray
    noise: dict[str, Any]
    keyframe_numbers: np.ndarray
    keyframes: np.ndarray

    def __len__(self) -> int:
        return len(self.offsets) - 1

    def of(self, row: int) -> tuple[np.ndarray, np.ndarray]:
        """Return the seeds and the mutation powers of one lineage."""
        part = slice(self.offsets[row], self.offsets[row + 1])
        return self.seeds[part], self.sigmas[part]

    @property
    def nbytes(self) -> int:
        """Storage size in bytes, keyframes included."""
        return self.seeds.nbytes + self.sigmas.nbytes + self.keyframes.nbytes
