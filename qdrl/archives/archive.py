"""The evolving archive: one elite a cell, batched competition, on any device.

The rule of insertion. A batch of rows competes for cells:

1. in each cell the row with the highest fitness stands for the batch; of equal ones the lowest row does;
2. it enters if the cell is empty or its fitness is strictly higher than the elite's; an equal one changes nothing.

So the result does not depend on how rows are split over ranks or devices. Statuses and gains of all rows are
stated relative to the archive as it was before the batch, as pyribs does.
"""

from collections.abc import Callable, Mapping

import numpy as np
import torch
from torch import Tensor

from qdrl.archives.base import FIELDS, Geometry, Insertion, width_of
from qdrl.archives.batches import check_rows, columns_of, copy_rows, drawn_from, room, taken
from qdrl.archives.statistics import Statistics, statistics


class Archive:
    """Elites by cell.

    Args:
        geometry: `Grid` or `CentroidalVoronoi`.
        parameters: length of a genome.
        qd_offset: what the QD score subtracts from every elite's fitness; a lower bound of fitness keeps the
            score from falling when a cell is filled.
        dtype: of genomes; an archive of lineages holds one int64 number each.
        device: where genomes and competition live.
    """

    def __init__(
        self,
        geometry: Geometry,
        parameters: int,
        *,
        qd_offset: float = 0.0,
        dtype: torch.dtype = torch.float32,
        device: str | torch.device = "cpu",
    ) -> None:
        self.geometry = geometry
        self.parameters = parameters
        self.qd_offset = qd_offset
        self.device = torch.device(device)
        cells, dimensions = geometry.cells, len(geometry.lower)
        self.fitness = torch.full((cells,), -torch.inf, dtype=torch.float64, device=self.device)
        self.descriptor = torch.zeros(cells, dimensions, dtype=torch.float64, device=self.device)
        self.genomes = room(cells, parameters, dtype, self.device)  # rows of empty cells are never read
        self.fields = {
            name: torch.full((cells, *width_of(name, dimensions)), unknown, dtype=dtype, device=self.device)
            for name, (dtype, unknown) in FIELDS.items()
        }
        self._occupied: Tensor | None = None
        self._drawn: Tensor | None = None

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
            self.fitness.index_select(0, self.occupied_cells).cpu().numpy(),
            self.geometry.cells,
            self.qd_offset,
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
            fields: any of `qdrl.archives.base.FIELDS`: `(rows,)` numbers or one, of `descriptor_std` `(rows, d)`. A
                new elite's fields that are left out are as unknown as `FIELDS` says: never those of the elite before.

        Raises:
            ValueError: shapes do not fit, or a valid row's fitness or descriptor is not finite. The archive is then
                as it was before.
        """
        fitness = torch.as_tensor(fitness, dtype=torch.float64).to(self.device)
        descriptor = torch.as_tensor(descriptor, dtype=torch.float64).to(self.device)
        dimensions = self.descriptor.shape[1]
        check_rows(genomes, fitness, descriptor, valid, parameters=self.parameters, dimensions=dimensions)
        columns = columns_of(fields, len(fitness), dimensions, self.device)
        insertion = self._compete(fitness, descriptor, valid)
        accepted = insertion.accepted
        if len(accepted) == 0:
            return insertion
        # Genomes are fetched before anything changes: an exchange that fails leaves the archive whole.
        source, rows = taken(genomes, accepted, self.parameters)
        cells = insertion.cell.index_select(0, accepted)
        copy_rows(source, rows, self.genomes, cells)
        self.fitness.index_copy_(0, cells, fitness.index_select(0, accepted))
        self.descriptor.index_copy_(0, cells, descriptor.index_select(0, accepted))
        for name, column in columns.items():
            self.fields[name].index_copy_(0, cells, column.index_select(0, accepted))
        self._occupied = self._drawn = None
        return insertion

    def sample(self, generator: np.random.Generator, count: int) -> Tensor:
        """Cells of elites drawn uniformly with replacement, `(count,)` int64.

        Raises:
            ValueError: the archive is empty.
        """
        if self._drawn is None:  # on the host, where chance is: a GPU would be asked again at each draw
            self._drawn = self.occupied_cells.cpu()
        return drawn_from(self._drawn, generator, count)

    def genomes_of(self, cells: Tensor) -> Tensor:
        """Copies of the genomes of occupied cells, `(count,)` int64 -> `(count, parameters)` float32.

        The same as `genomes[cells]`, which was measured three times slower for long genomes on the CPU.
        """
        copies = room(len(cells), self.parameters, self.genomes.dtype, self.device)
        return torch.index_select(self.genomes, 0, cells.to(self.device), out=copies)

    def descriptors_of(self, cells: Tensor) -> Tensor:
        """Copies of the descriptors of occupied cells, `(count,)` int64 -> `(count, d)` float64."""
        return self.descriptor.index_select(0, cells.to(self.device))

    def replace_genomes(self, cells: Tensor, genomes: Tensor) -> None:
        """Put other genomes `(count, parameters)` into occupied cells."""
        self.genomes.index_copy_(0, cells.to(self.device), genomes.to(self.genomes))

    def state_dict(self) -> dict[str, np.ndarray]:
        """Copies of the elites as host arrays, ordered by cell, with genomes under `genome`."""
        cells = self.occupied_cells
        tensors = {**self._tensors(), **self.fields}
        state = {"cell": cells, **{name: tensor.index_select(0, cells) for name, tensor in tensors.items()}}
        return {name: value.cpu().numpy() for name, value in state.items()}

    def load_state_dict(self, state: Mapping[str, np.ndarray]) -> None:
        """Put back what `state_dict` gave, into an archive of the same geometry.

        Raises:
            ValueError: a shape or a cell does not fit this archive, which is then as it was before.
        """
        tensors = {**self._tensors(), **self.fields}
        cells = torch.tensor(np.asarray(state["cell"]), dtype=torch.int64, device=self.device)
        if len(cells) and not 0 <= int(cells.min()) <= int(cells.max()) < self.geometry.cells:
            raise ValueError(f"cells {cells.min()} to {cells.max()} do not fit {self.geometry.cells} cells")
        rows = {name: torch.tensor(np.asarray(state[name])).to(tensor) for name, tensor in tensors.items()}
        for name, tensor in tensors.items():
            if rows[name].shape != (len(cells), *tensor.shape[1:]):
                expected, came = (len(cells), *tensor.shape[1:]), tuple(rows[name].shape)
                raise ValueError(f"{name} must have shape {expected} for this archive, got {came}")
        self.fitness.fill_(-torch.inf)
        for name, tensor in tensors.items():
            tensor.index_copy_(0, cells, rows[name])
        self._occupied = self._drawn = None

    def _tensors(self) -> dict[str, Tensor]:
        return {"fitness": self.fitness, "descriptor": self.descriptor, "genome": self.genomes}

    def _compete(self, fitness: Tensor, descriptor: Tensor, valid: Tensor | None) -> Insertion:
        """Find each row's cell and status and the rows that win, without sorting: two reductions by cell."""
        if valid is None:
            target = cell = self.geometry.cell_of(descriptor)
            rival = fitness
        else:
            usable = valid.to(self.device)
            target = self.geometry.cell_of(descriptor.masked_fill(~usable[:, None], 0.0))
            cell, rival = target.masked_fill(~usable, -1), fitness.masked_fill(~usable, -torch.inf)
        incumbent = self.fitness.index_select(0, target)
        better = rival > incumbent
        status = better.long() + (better & (incumbent == -torch.inf))
        best = self.fitness.clone().scatter_reduce_(0, target, rival, "amax").index_select(0, target)
        leads = torch.nonzero(better & (rival == best)).squeeze(1)
        led = target.index_select(0, leads)
        first = torch.full_like(self.fitness, len(fitness), dtype=torch.int64).scatter_reduce_(0, led, leads, "amin")
        return Insertion(leads[first.index_select(0, led) == leads], cell, status)
