"""The interface of all archives, as algorithms, the recorder and tools use it."""

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
from qdrl.archives.statistics import Offsets, Statistics

Numbers = Tensor | ArrayLike
"""Array arguments of archives: a tensor, a numpy array, or numbers in nested sequences."""

FIELDS: dict[str, tuple[torch.dtype, float]] = {
    "evaluation_seed": (torch.int64, 0),
    "generation": (torch.int64, 0),
    "emitter": (torch.int64, 0),
    "parent_cell": (torch.int64, -1),
    "n_evaluations": (torch.int64, 1),
    "steps": (torch.float64, math.nan),
    "fitness_std": (torch.float64, math.nan),
    "descriptor_std": (torch.float64, math.nan),
}
"""Columns of elites besides fitness, descriptor and genome, and their default values."""


def width_of(field: str, dimensions: int) -> tuple[int, ...]:
    """Return the shape of a field's value in one row."""
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
        """Centres of the cells, `(cells, d)` float64; `(0, d)` for a space without cells."""
        ...


class Geometry(Space, Protocol):
    """A descriptor space that is divided into cells."""

    def cell_of(self, descriptor: Tensor) -> Tensor:
        """Return the cells of finite descriptors, `(rows, d)` float64 -> `(rows,)` int64."""
        ...


@dataclass(frozen=True)
class Insertion:
    """The result of adding a batch to an archive.

    Attributes:
        accepted: `(k,)` int64 rows that became elites, ascending.
        cell: `(rows,)` int64 cell of each row, -1 for rows that were not valid or that a novelty archive did not
            admit.
        status: `(rows,)` int64 relative to the archive before the batch: 2 if the cell was empty, 1 if the row is
            better than its elite, 0 otherwise. A row can have status 1 or 2 and still lose its cell to another row of
            the batch.
    """

    accepted: Tensor
    cell: Tensor
    status: Tensor


class AnyArchive(Protocol):
    """The interface that `Archive`, where rows compete for cells, and `NoveltyArchive`, which grows, have in common.

    Attributes:
        parameters: length of a genome.
        offsets: of the QD score; set again when a run of older files is continued.
        device: of the genomes.
    """

    parameters: int
    offsets: Offsets
    device: torch.device

    @property
    def geometry(self) -> Space:
        """The descriptor space."""
        ...

    @property
    def occupied_cells(self) -> Tensor:
        """Cells that hold an elite, `(elites,)` int64, ascending."""
        ...

    def __len__(self) -> int: ...

    def statistics(self) -> Statistics:
        """Return coverage, QD score and fitness statistics of the present elites."""
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
        """Add a batch; see `Archive.add` and `NoveltyArchive.add`."""
        ...

    def sample(self, generator: np.random.Generator, count: int) -> Tensor:
        """Draw cells of elites uniformly with replacement, `(count,)` int64."""
        ...

    def genomes_of(self, cells: Numbers) -> Tensor:
        """Return copies of the genomes of occupied cells, `(count,)` integers -> `(count, parameters)`."""
        ...

    def descriptors_of(self, cells: Numbers) -> Tensor:
        """Return copies of the descriptors of occupied cells, `(count,)` integers -> `(count, d)` float64."""
        ...

    def replace_genomes(self, cells: Numbers, genomes: Tensor) -> None:
        """Replace the genomes of occupied cells by `(count, parameters)` others, such as renumbered lineages."""
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
        """Return the elites as columns by name, with `genome` and, where there is one, the state of the `rule`."""
        ...

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore a state that `state_dict` returned."""
        ...
