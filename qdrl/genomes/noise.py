"""Gaussian noise of mutations: each number identifies a vector of noise.

There are two sources with one interface:

- Keyed noise draws a vector from a generator that the number seeds. It needs no memory, and no two numbers share noise.
- A noise table (https://arxiv.org/abs/1703.03864, https://arxiv.org/abs/1712.06567) is an array of noise; the number is
  the position at which the vector starts. It needs its size in memory, once per node. Reading it is ten times faster
  than drawing keyed noise.
"""

from collections.abc import Callable
from typing import Annotated, Literal, Protocol

import numpy as np
from pydantic import Field

from qdrl.errors import UserError
from qdrl.parallel.ranks import Ranks
from qdrl.settings.base import SettingsModel

_BLOCK = 1 << 16  # numbers drawn at once, so that they are added while still in the CPU's cache

SharedArray = Callable[[int, Callable[[np.ndarray], None]], np.ndarray]
"""Allocates an array that the processes of a node share; see `qdrl.parallel.ranks.Ranks.shared`."""


class NoiseSource(Protocol):
    """A source of noise vectors, which are identified by numbers."""

    def draw(self, generator: np.random.Generator, parameters: int) -> int:
        """Draw the number of a noise vector.

        Args:
            generator: the random stream to draw from.
            parameters: length of the vector.

        Returns:
            a number of at most 32 bits.
        """
        ...

    def check(self, parameters: int) -> None:
        """Check that the source has vectors of this length.

        Raises:
            UserError: the source is too short.
        """
        ...

    def add(self, genome: np.ndarray, number: int, sigma: float) -> None:
        """Add `sigma` times a noise vector to a genome in place, with the same bits on every CPU.

        Args:
            genome: `(parameters,)` float32.
            number: the number of the noise vector.
            sigma: standard deviation of the added noise.
        """
        ...


class KeyedNoise(SettingsModel):
    """Noise from an SFC64 generator that the number seeds."""

    name: Literal["keyed"] = "keyed"
    """Kind of noise: "keyed"."""

    @property
    def table_size(self) -> int:
        """Return 0: there is no table."""
        return 0

    def source(self) -> "KeyedNoise":
        """Return the source, which is this object."""
        return self

    def draw(self, generator: np.random.Generator, parameters: int) -> int:  # noqa: ARG002
        """Draw any 32-bit number."""
        return int(generator.integers(2**32))

    def check(self, parameters: int) -> None:
        """Return at once: keyed noise has no size limit."""

    def add(self, genome: np.ndarray, number: int, sigma: float) -> None:
        """Add `sigma` times the noise of a number to a genome in place; see `NoiseSource.add`."""
        generator = np.random.Generator(np.random.SFC64(number))
        scale, buffer = np.float32(sigma), np.empty(min(_BLOCK, len(genome)), np.float32)
        for start in range(0, len(genome), _BLOCK):
            part = genome[start : start + _BLOCK]
            noise = buffer[: len(part)]
            generator.standard_normal(dtype=np.float32, out=noise)
            noise *= scale
            part += noise


class TableNoise(SettingsModel):
    """Noise read from a table."""

    name: Literal["table"] = "table"
    """Kind of noise: "table"."""
    size: Annotated[int, Field(ge=1, le=2**32 - 1)] = 250_000_000
    """Numbers in the table, 4 bytes each; Such et al. 2017 use 250 million."""
    seed: Annotated[int, Field(ge=0)] = 123
    """Seed of the table."""

    @property
    def table_size(self) -> int:
        """Return the number of numbers in the table."""
        return self.size

    def source(self) -> "NoiseTable":
        """Return the source. Its table is filled when it is first read, unless `share` was called before."""
        return NoiseTable(self.size, self.seed)


class NoiseTable:
    """A `NoiseSource` that reads vectors from a table.

    Args:
        size: numbers in the table.
        seed: seed of the table.
    """

    def __init__(self, size: int, seed: int) -> None:
        self._size, self._seed = size, seed
        self._numbers: np.ndarray | None = None

    def share(self, allocate: SharedArray) -> None:
        """Use a table that all processes of a node share (collective).

        Args:
            allocate: returns the table, `(size,)` float32, which one process of each node fills.
        """
        if self._numbers is None:
            self._numbers = allocate(self._size, self._fill)

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
        """Draw a position from which a vector of this length fits into the table.

        Raises:
            UserError: the table is shorter than the vector.
        """
        self.check(parameters)
        return int(generator.integers(self._size - parameters + 1))

    def add(self, genome: np.ndarray, number: int, sigma: float) -> None:
        """Add `sigma` times the noise from a position on to a genome in place; see `NoiseSource.add`.

        Raises:
            UserError: the vector ends beyond the table.
        """
        self.check(number + len(genome))
        scale, noise = np.float32(sigma), self._table[number : number + len(genome)]
        for start in range(0, len(genome), _BLOCK):
            part = slice(start, start + _BLOCK)
            genome[part] += scale * noise[part]

    def check(self, parameters: int) -> None:
        """Check that the table has this many numbers.

        Raises:
            UserError: the table is shorter.
        """
        if parameters > self._size:
            raise UserError(
                f"a noise table of {self._size} numbers is too short for {parameters}: set algorithm.noise.size"
            )


def source_for(noise: KeyedNoise | TableNoise, parameters: int) -> NoiseSource:
    """Return the noise source of settings.

    Args:
        noise: the settings.
        parameters: length of a genome.

    Raises:
        UserError: the table is shorter than a genome.
    """
    source = noise.source()
    source.check(parameters)
    return source


def share_noise(noise: NoiseSource, ranks: Ranks) -> None:
    """Keep a noise table once per node; do nothing for keyed noise (collective)."""
    if isinstance(noise, NoiseTable):
        noise.share(ranks.shared)


Noise = Annotated[KeyedNoise | TableNoise, Field(discriminator="name")]
"""Settings of a noise source."""
