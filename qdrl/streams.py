"""Random streams keyed by (run seed, purpose, generation, row), never by rank.

Any process can draw any row's numbers, in any order, without having drawn the others'. That is why a run's
archive does not depend on how many ranks computed it. Keys are numpy `SeedSequence` spawn keys (O'Neill's
hash-based seeding; numpy documentation, "Parallel random number generation").
"""

from collections.abc import Iterable
from hashlib import blake2b

import numpy as np


class Streams:
    """The random numbers of one run.

    Args:
        run_seed: the run's seed, a non-negative integer.
    """

    def __init__(self, run_seed: int) -> None:
        if run_seed < 0:
            raise ValueError(f"run_seed must be >= 0, got {run_seed}")
        self.run_seed = run_seed

    def generator(self, purpose: str, generation: int = 0, row: int = 0) -> np.random.Generator:
        """The stream of one row of one generation for one purpose, always from its beginning."""
        return np.random.Generator(np.random.PCG64(self._sequence(purpose, generation, row)))

    def seeds(self, purpose: str, generation: int, rows: Iterable[int]) -> np.ndarray:
        """One seed a row, `(rows,)` int64 in [0, 2**63): enough to rebuild a row's stream without the run seed."""
        words = [self._sequence(purpose, generation, row).generate_state(1, np.uint64)[0] for row in rows]
        return (np.array(words, dtype=np.uint64) >> np.uint64(1)).astype(np.int64)

    def _sequence(self, purpose: str, generation: int, row: int) -> np.random.SeedSequence:
        return np.random.SeedSequence(self.run_seed, spawn_key=(_purpose_key(purpose), generation, row))


def generator_from_seed(seed: int) -> np.random.Generator:
    """The stream that an evaluation's stored seed stands for."""
    return np.random.Generator(np.random.PCG64(np.random.SeedSequence(int(seed))))


def _purpose_key(purpose: str) -> int:
    return int.from_bytes(blake2b(purpose.encode(), digest_size=8).digest(), "little")
