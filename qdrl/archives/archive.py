"""The evolving archive: one elite a cell, batched competition, on any device.

The rule of insertion. A batch of rows competes for cells:

1. in each cell the row with the highest fitness stands for the batch; of equal ones the lowest row does;
2. it enters if the cell is empty or its fitness is strictly higher than the elite's; an equal one changes nothing.

So the result does not depend on how rows are split over ranks or devices. Statuses and gains of all rows are
stated relative to the archive as it was before the batch, as pyribs does.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from qdrl.archives.statistics import Statistics, statistics

FIELDS = ("evaluation_seed", "generation", "emitter", "parent_cell")


class Geometry(Protocol):
    """Which cell a descriptor belongs to."""

    kind: str
    cells: int
    shape: tuple[int, ...]
    lower: np.ndarray
    upper: np.ndarray

    @property
    def centroids(self) -> np.ndarray:
        """`(cells, d)` float64."""
        ...

    def cell_of(self, descriptor: Tensor) -> Tensor:
        """`(rows, d)` finite float64 -> `(rows,)` int64."""
        ...


@dataclass(frozen=True)
class Insertion:
    """What a batch did to an archive.

    Attributes:
        accepted: `(k,)` int64 rows that became elites, ascending.
        cell: `(rows,)` int64 cell of each row, -1 for rows that were not valid.
        status: `(rows,)` int64 relative to the archive before the batch: 2 the cell was empty, 1 better than its
            elite, 0 neither. A row can have status 1 or 2 and still lose its cell to a batch mate.
    """

    accepted: Tensor
    cell: Tensor
    status: Tensor


class Archive:
    """Elites by cell.

    Args:
        geometry: `Grid` or `CentroidalVoronoi`.
        parameters: length of a genome.
        qd_offset: what the QD score subtracts from every elite's fitness; a lower bound of fitness keeps the
            score from falling when a cell is filled.
        device: where genomes and competition live.
    """

    def __init__(
        self,
        geometry: Geometry,
        parameters: int,
        *,
        qd_offset: float = 0.0,
        device: str | torch.device = "cpu",
    ) -> None:
        self.geometry = geometry
        self.parameters = parameters
        self.qd_offset = qd_offset
        self.device = torch.device(device)
        cells, dimensions = geometry.cells, len(geometry.lower)
        self.fitness = torch.full((cells,), -torch.inf, dtype=torch.float64, device=self.device)
        self.descriptor = torch.zeros(cells, dimensions, dtype=torch.float64, device=self.device)
        self.genomes = torch.empty(cells, parameters, device=self.device)  # rows of empty cells are never read
        self.fields = {name: torch.zeros(cells, dtype=torch.int64, device=self.device) for name in FIELDS}
        self._occupied: Tensor | None = None

    def __len__(self) -> int:
        return len(self.occupied_cells)

    @property
    def occupied_cells(self) -> Tensor:
        """`(elites,)` int64, ascending."""
        if self._occupied is None:
            self._occupied = torch.nonzero(self.fitness > -torch.inf).squeeze(1)
        return self._occupied

    def statistics(self) -> Statistics:
        """Coverage, QD score and the rest, as they stand now."""
        return statistics(
            self.fitness[self.occupied_cells].cpu().numpy(), self.geometry.cells, self.qd_offset
        )

    def add(
        self,
        genomes: Tensor | Callable[[Tensor], Tensor],
        fitness: Tensor,
        descriptor: Tensor,
        *,
        valid: Tensor | None = None,
        **fields: Tensor | int,
    ) -> Insertion:
        """Let a batch compete for its cells, by the rule at the top of this module.

        Args:
            genomes: `(rows, parameters)` float32, or a function that gives the genomes of the rows it is asked
                for; only accepted rows are asked for, in ascending order.
            fitness: `(rows,)`.
            descriptor: `(rows, d)`.
            valid: `(rows,)` bool; rows that may compete. All of them when left out.
            fields: any of `evaluation_seed`, `generation`, `emitter`, `parent_cell`: `(rows,)` integers or one.

        Raises:
            ValueError: shapes do not fit, or a valid row's fitness or descriptor is not finite.
        """
        fitness = torch.as_tensor(fitness, dtype=torch.float64).to(self.device)
        descriptor = torch.as_tensor(descriptor, dtype=torch.float64).to(self.device)
        usable = self._check(fitness, descriptor, valid, fields)
        insertion = self._compete(fitness, descriptor, usable)
        accepted = insertion.accepted
        if len(accepted) == 0:
            return insertion
        # Genomes are fetched before anything changes: an exchange that fails leaves the archive whole.
        winners = genomes(accepted) if callable(genomes) else genomes.to(self.device)[accepted]
        if winners.shape != (len(accepted), self.parameters):
            raise ValueError(f"genomes must have {self.parameters} parameters, got shape {tuple(winners.shape)}")
        cells = insertion.cell[accepted]
        self.genomes[cells] = winners
        self.fitness[cells] = fitness[accepted]
        self.descriptor[cells] = descriptor[accepted]
        for name, value in fields.items():
            column = torch.as_tensor(value, dtype=torch.int64, device=self.device)
            self.fields[name][cells] = column[accepted] if column.ndim else column
        self._occupied = None
        return insertion

    def sample(self, generator: np.random.Generator, count: int) -> Tensor:
        """Cells of elites drawn uniformly with replacement, `(count,)` int64.

        Raises:
            ValueError: the archive is empty.
        """
        if len(self) == 0:
            raise ValueError("cannot sample from an empty archive")
        drawn = torch.from_numpy(generator.integers(len(self), size=count))
        return self.occupied_cells[drawn.to(self.device)]

    def state_dict(self) -> dict[str, np.ndarray]:
        """Copies of the elites as host arrays, ordered by cell, with genomes under `genome`."""
        cells = self.occupied_cells
        state = {
            "cell": cells,
            "fitness": self.fitness[cells],
            "descriptor": self.descriptor[cells],
            "genome": self.genomes[cells],
            **{name: column[cells] for name, column in self.fields.items()},
        }
        return {name: value.cpu().numpy() for name, value in state.items()}

    def load_state_dict(self, state: Mapping[str, np.ndarray]) -> None:
        """Put back what `state_dict` gave, into an archive of the same geometry."""
        cells = torch.as_tensor(np.asarray(state["cell"]), dtype=torch.int64, device=self.device)
        self.fitness.fill_(-torch.inf)
        for target, name in [(self.fitness, "fitness"), (self.descriptor, "descriptor"), (self.genomes, "genome")]:
            target[cells] = torch.as_tensor(np.asarray(state[name])).to(target)
        for name, column in self.fields.items():
            column[cells] = torch.as_tensor(np.asarray(state[name])).to(column)
        self._occupied = None

    def _check(
        self, fitness: Tensor, descriptor: Tensor, valid: Tensor | None, fields: Mapping[str, Tensor | int]
    ) -> Tensor:
        rows, dimensions = len(fitness), self.descriptor.shape[1]
        if fitness.ndim != 1 or descriptor.shape != (rows, dimensions):
            raise ValueError(
                f"expected fitness (rows,) and descriptor (rows, {dimensions}),"
                f" got {tuple(fitness.shape)} and {tuple(descriptor.shape)}"
            )
        if unknown := set(fields) - set(FIELDS):
            raise ValueError(f"unknown fields {sorted(unknown)}; known: {', '.join(FIELDS)}")
        usable = torch.ones(rows, dtype=torch.bool) if valid is None else valid
        usable = usable.to(self.device)
        finite = torch.isfinite(fitness) & torch.isfinite(descriptor).all(dim=1)
        if bool((usable & ~finite).any()):
            row = int(torch.nonzero(usable & ~finite)[0])
            raise ValueError(f"row {row} has a fitness or descriptor that is not finite; mark it as not valid")
        return usable

    def _compete(self, fitness: Tensor, descriptor: Tensor, usable: Tensor) -> Insertion:
        cell = torch.full((len(fitness),), -1, dtype=torch.int64, device=self.device)
        cell[usable] = self.geometry.cell_of(descriptor[usable])
        incumbent = self.fitness[cell.clamp(min=0)]
        better = usable & (fitness > incumbent)
        status = torch.where(better, torch.where(incumbent == -torch.inf, 2, 1), 0)
        rivals = torch.nonzero(better).squeeze(1)
        # Rows sorted by cell, then by falling fitness, then by row: the first of each cell wins.
        order = torch.argsort(fitness[rivals], descending=True, stable=True)
        order = order[torch.argsort(cell[rivals[order]], stable=True)]
        ranked = rivals[order]
        leads = torch.ones(len(ranked), dtype=torch.bool, device=self.device)
        leads[1:] = cell[ranked][1:] != cell[ranked][:-1]
        return Insertion(torch.sort(ranked[leads]).values, cell, status)
