"""Random streams keyed by (run seed, purpose, generation, row), never by rank.

Any process can draw any row's numbers, in any order, without drawing those of other rows. A run's archive therefore
does not depend on the number of ranks. Keys are spawn keys of numpy's `SeedSequence`
(https://numpy.org/doc/stable/reference/random/parallel.html).
"""

from collections.abc import Iterable
from dataclasses import dataclass
from enum import Enum
from hashlib import blake2b

import numpy as np


class Purpose(Enum):
    """Purposes of qdrl's own random streams. The values are part of the streams' keys, so they never change."""

    ADMISSION = "admission"
    CENTROIDS = "centroids"
    CRITIC = "critic"
    EVALUATION = "evaluation"
    INITIAL = "initial"
    MEAN = "mean"
    MUTATION = "mutation"
    NEGATIVE = "negative"
    PERTURBATION = "perturbation"
    REEVALUATION = "reevaluation"
    SEARCHER = "searcher"
    STATES = "states"
    TARGET = "target"
    TEST = "test"
    TRAINING = "training"
    VARIATION = "variation"


@dataclass(frozen=True)
class UserPurpose:
    """The purpose of a random stream of a user's own algorithm.

    Its key starts with "user:", so it differs from the keys of qdrl's own streams. Define each purpose once, as a
    constant of a module: a misspelt name would be another stream.

    Attributes:
        name: a text that is not empty; each name is a stream of its own.
    """

    name: str

    def __post_init__(self) -> None:
        """Check the name.

        Raises:
            ValueError: the name is empty.
        """
        if not self.name:
            raise ValueError("the name of a purpose is empty: give each stream a name of its own")

    @property
    def value(self) -> str:
        """Return the text in the stream's key."""
        return f"user:{self.name}"


class Streams:
    """The random numbers of one run.

    Args:
        run_seed: the run's seed, a non-negative integer.

    Raises:
        ValueError: the seed is negative.
    """

    def __init__(self, run_seed: int) -> None:
        if run_seed < 0:
            raise ValueError(f"run_seed is {run_seed}: it must be 0 or larger")
        self.run_seed = run_seed

    def generator(self, purpose: Purpose | UserPurpose, generation: int = 0, row: int = 0) -> np.random.Generator:
        """Return the stream of one row of one generation for one purpose, in its initial state.

        Args:
            purpose: what the numbers are drawn for.
            generation: number of the generation.
            row: row of the generation.

        Raises:
            TypeError: the purpose is neither a `Purpose` nor a `UserPurpose`.
        """
        return np.random.Generator(np.random.PCG64(self._sequence(purpose, generation, row)))

    def seeds(self, purpose: Purpose | UserPurpose, generation: int, rows: Iterable[int]) -> np.ndarray:
        """Return one seed per row; `generator_from_seed` makes a stream of it without the run seed.

        Args:
            purpose: what the numbers are drawn for.
            generation: number of the generation.
            rows: rows of the generation.

        Returns:
            `(rows,)` int64 in [0, 2**63).

        Raises:
            TypeError: the purpose is neither a `Purpose` nor a `UserPurpose`.
        """
        words = [self._sequence(purpose, generation, row).generate_state(1, np.uint64)[0] for row in rows]
        return (np.array(words, dtype=np.uint64) >> np.uint64(1)).astype(np.int64)

    def held_out_seeds(self, episodes: int) -> np.ndarray:
        """Return the seeds of a test's episodes: those of purpose "test", generation 0, one a row.

        No training evaluation uses this purpose.

        Args:
            episodes: number of episodes; a longer test starts with the seeds of a shorter one.

        Returns:
            `(episodes,)` int64.
        """
        return self.seeds(Purpose.TEST, 0, range(episodes))

    def _sequence(self, purpose: Purpose | UserPurpose, generation: int, row: int) -> np.random.SeedSequence:
        return np.random.SeedSequence(self.run_seed, spawn_key=(_purpose_key(purpose), generation, row))


def generator_from_seed(seed: int) -> np.random.Generator:
    """Return the stream of an evaluation's seed, in its initial state."""
    return np.random.Generator(np.random.PCG64(np.random.SeedSequence(int(seed))))


def _purpose_key(purpose: Purpose | UserPurpose) -> int:
    if not isinstance(purpose, Purpose | UserPurpose):
        raise TypeError(f"the purpose of a stream is {purpose!r}: use a member of Purpose, or UserPurpose(name)")
    return int.from_bytes(blake2b(purpose.value.encode(), digest_size=8).digest(), "little")
