"""Where mutations get their Gaussian noise: a number stands for a whole vector of it.

Two sources behind one interface. Keyed noise draws a vector from a generator seeded by the number; it needs no memory,
and no two numbers share noise. A noise table (Salimans et al. 2017, section 2; Such et al. 2017) is cut at the number;
it needs its size in memory, once a node, and is ten times faster to read than to draw.
"""

from collections.abc import Callable
from typing import Annotated, Literal, Protocol

import numpy as np
from pydantic import Field

from qdrl.errors import UserError
from qdrl.parallel.ranks import Ranks
from qdrl.settings.base import SettingsModel

_BLOCK = 1 << 16  # numbers drawn at once: they are added while still in the cache


SharedRoom = Callable[[int, Callable[[np.ndarray], None]], np.ndarray]


class NoiseSource(Protocol):
    """Gives noise by number."""

    def draw(self, generator: np.random.Generator, parameters: int) -> int:
        """A number that stands for noise of so many parameters; at most 32 bits."""
        ...

    def check(self, parameters: int) -> None:
        """Refuse genomes of so many parameters if there is not noise enough for them.

        Raises:
            UserError: there is not.
        """
        ...

    def add(self, genome: np.ndarray, number: int, sigma: float) -> None:
        """`genome += sigma * noise`, `(parameters,)` float32 in place: the same bits on every CPU."""
        ...


class KeyedNoise(SettingsModel):
    """Noise from a generator (SFC64) that the number seeds."""

    name: Literal["keyed"] = "keyed"
    """Kind of noise: "keyed"."""

    def source(self) -> "KeyedNoise":
        """The source: itself."""
        return self

    def draw(self, generator: np.random.Generator, parameters: int) -> int:  # noqa: ARG002
        return int(generator.integers(2**32))

    def check(self, parameters: int) -> None:
        """There always is."""

    def add(self, genome: np.ndarray, number: int, sigma: float) -> None:
        generator = np.random.Generator(np.random.SFC64(number))
        scale, room = np.float32(sigma), np.empty(min(_BLOCK, len(genome)), np.float32)
        for start in range(0, len(genome), _BLOCK):
            part = genome[start : start + _BLOCK]
            noise = room[: len(part)]
            generator.standard_normal(dtype=np.float32, out=noise)
            noise *= scale
            part += noise


class TableNoise(SettingsModel):
    """Noise cut from a table."""

    name: Literal["table"] = "table"
    """Kind of noise: "table"."""
    size: Annotated[int, Field(ge=1, le=2**32 - 1)] = 250_000_000
    """Numbers in the table; 250 million, 1 GB, in Such et al. 2017."""
    seed: Annotated[int, Field(ge=0)] = 123
    """Seed of the table."""

    def source(self) -> "NoiseTable":
        """The source; its table is made when it is first needed, unless `share` was called before."""
        return NoiseTable(self.size, self.seed)


class NoiseTable:
    """See `NoiseSource`.

    Args:
        size: numbers in the table.
        seed: of the table.
    """

    def __init__(self, size: int, seed: int) -> None:
        self._size, self._seed = size, seed
        self._numbers: np.ndarray | None = None

    def share(self, room: SharedRoom) -> None:
        """Collective. Use a table that all processes of a node have in common.

        Args:
            room: makes `(size,)` float32 that one process of each node fills; see `qdrl.parallel.ranks.Ranks.shared`.
        """
        if self._numbers is None:
            self._numbers = room(self._size, self._fill)

    @property
    def _table(self) -> np.ndarray:
        if self._numbers is None:
            self._numbers = np.empty(self._size, np.float32)
            self._fill(self._numbers)
        return self._numbers

    def _fill(self, table: np.ndarray) -> None:
        generator = np.random.Generator(np.random.PCG64(self._seed))
        for start in range(0, len(table), _BLOCK):
            generator.standard_normal(dtype=np.float32, out=table[start : start + _BLOCK])

    def draw(self, generator: np.random.Generator, parameters: int) -> int:
        self.check(parameters)
        return int(generator.integers(self._size - parameters + 1))

    def add(self, genome: np.ndarray, number: int, sigma: float) -> None:
        self.check(number + len(genome))
        scale, noise = np.float32(sigma), self._table[number : number + len(genome)]
        for start in range(0, len(genome), _BLOCK):
            part = slice(start, start + _BLOCK)
            genome[part] += scale * noise[part]

    def check(self, parameters: int) -> None:
        if parameters > self._size:
            raise UserError(
                f"a noise table of {self._size} numbers is too short for {parameters}: set algorithm.noise.size"
            )


def source_for(noise: KeyedNoise | TableNoise, parameters: int) -> NoiseSource:
    """The source that settings describe, for genomes of so many parameters.

    Raises:
        UserError: a table is too short for one genome.
    """
    source = noise.source()
    source.check(parameters)
    return source


def share_noise(noise: NoiseSource, ranks: Ranks) -> None:
    """Collective. Have a noise table once a node."""
    if isinstance(noise, NoiseTable):
        noise.share(ranks.shared)


Noise = Annotated[KeyedNoise | TableNoise, Field(discriminator="name")]
