"""What algorithms, the recorder and tools ask of an archive, whatever its space looks like."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import ArrayLike
from torch import Tensor

from qdrl.archives.described import Described
from qdrl.archives.statistics import Statistics

Numbers = Tensor | ArrayLike
"""What archives accept where they take arrays: a tensor, a numpy array, or numbers in nested sequences."""

FIELDS: dict[str, tuple[torch.dtype, float]] = {
    "evaluation_seed": (torch.int64, 0),
    "generation": (torch.int64, 0),
    "emitter": (torch.int64, 0),
    "parent_cell": (torch.int64, -1),
    "n_evaluations": (torch.int64, 1),
    "fitness_std": (torch.float64, math.nan),
    "descriptor_std": (torch.float64, math.nan),
}
"""Columns of elites besides fitness, descriptor and genome, and their default values."""


def width_of(field: str, dimensions: int) -> tuple[int, ...]:
    """Shape of a field's value of one row."""
    return (dimensions,) if field == "descriptor_std" else ()


class Space(Protocol):
    """The descriptor space of an archive."""

    kind: str
    cells: int
    shape: tuple[int, ...]
    lower: np.ndarray
    upper: np.ndarray

    @property
    def centroids(self) -> np.ndarray:
        """`(cells, d)` float64; `(0, d)` where cells have no place."""
        ...


class Geometry(Space, Protocol):
    """A space that is divided into cells: which one a descriptor belongs to."""

    def cell_of(self, descriptor: Tensor) -> Tensor:
        """`(rows, d)` finite float64 -> `(rows,)` int64."""
        ...


@dataclass(frozen=True)
class Insertion:
    """What a batch did to an archive.

    Attributes:
        accepted: `(k,)` int64 rows that became elites, ascending.
        cell: `(rows,)` int64 cell of each row, -1 for rows that were not valid or that a novelty archive did not let
            in.
        status: `(rows,)` int64 relative to the archive before the batch: 2 the cell was empty, 1 better than its
            elite, 0 neither. A row can have status 1 or 2 and still lose its cell to a batch mate.
    """

    accepted: Tensor
    cell: Tensor
    status: Tensor


class AnyArchive(Protocol):
    """What every archive offers: `Archive`, where rows compete for cells, and `NoveltyArchive`, which grows.

    Attributes:
        parameters: length of a genome.
        qd_offset: what the QD score subtracts from every elite's fitness.
        device: where genomes live.
    """

    parameters: int
    qd_offset: float
    device: torch.device

    @property
    def geometry(self) -> Space:
        """The space of its descriptors."""
        ...

    @property
    def occupied_cells(self) -> Tensor:
        """`(elites,)` int64, ascending."""
        ...

    def __len__(self) -> int: ...

    def statistics(self) -> Statistics:
        """Coverage, QD score and the rest, as they stand now."""
        ...

    def add(
        self,
        genomes: Numbers | Callable[[Tensor], Numbers],
        fitness: Numbers,
        descriptor: Numbers,
        *,
        valid: Numbers | None = None,
        **fields: Numbers,
    ) -> Insertion:
        """Offer a batch; see `Archive.add` and `NoveltyArchive.add`."""
        ...

    def sample(self, generator: np.random.Generator, count: int) -> Tensor:
        """Cells of elites drawn uniformly with replacement, `(count,)` int64."""
        ...

    def genomes_of(self, cells: Numbers) -> Tensor:
        """Return copies of the genomes of occupied cells, `(count,)` integers -> `(count, parameters)`."""
        ...

    def descriptors_of(self, cells: Numbers) -> Tensor:
        """Return copies of the descriptors of occupied cells, `(count,)` integers -> `(count, d)` float64."""
        ...

    def replace_genomes(self, cells: Numbers, genomes: Tensor) -> None:
        """Put other genomes `(count, parameters)` into occupied cells: numbers of lineages that were renumbered."""
        ...

    def save(
        self,
        path: str | Path,
        task: Described,
        *,
        seed: int | None = None,
        emitters: Sequence[str] | None = None,
        config: Mapping[str, Any] | None = None,
        license: str | None = None,  # noqa: A002 - the attribute's name in the file
    ) -> Path:
        """Write the archive to a file; see `Archive.save`."""
        ...

    def columns(self) -> dict[str, np.ndarray]:
        """Return copies of the elites' columns as host arrays, ordered by cell; genomes are not among them."""
        ...

    def state_dict(self) -> dict[str, Any]:
        """The elites as columns by name, genomes under `genome`, under `rule` what a rule of admission remembers."""
        ...

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Put back what `state_dict` gave."""
        ...
