"""The archive of novelty search (Lehman and Stanley 2011, doi:10.1162/EVCO_a_00025).

Entries never compete; every admitted entry is kept, or the latest ones if the archive has a capacity. An entry's cell
is its number in order of entry: 0, 1, 2 and so on, also after older entries were dropped.
"""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from qdrl.archives.admission import All, Rule
from qdrl.archives.base import FIELDS, Insertion, Numbers
from qdrl.archives.batches import allocate, copy_rows, draw_cells, genomes_of_rows, read_batch, tensor_of
from qdrl.archives.described import Described
from qdrl.archives.entries import Entries
from qdrl.archives.grid import bounds_in_words, check_bounds
from qdrl.archives.statistics import NO_OFFSETS, Offsets, Statistics, statistics


class Unstructured:
    """A descriptor space without cells; see `qdrl.archives.base.Space`.

    Args:
        lower: lower bound of each axis, in its unit. Bounds are for plots and critics; entries may lie outside.
        upper: upper bound of each axis.
        neighbours: the k of novelty.
        cells: number of entries added so far.
    """

    kind = "novelty"

    def __init__(self, lower: Sequence[float], upper: Sequence[float], neighbours: int, cells: int) -> None:
        self.lower, self.upper = np.asarray(lower, np.float64), np.asarray(upper, np.float64)
        self.neighbours = neighbours
        self.cells = cells
        self.shape: tuple[int, ...] = (cells,)

    @property
    def centroids(self) -> np.ndarray:
        """An empty array `(0, d)`."""
        return np.empty((0, len(self.lower)))


class NoveltyArchive:
    """An archive of entries in order of entry; see `qdrl.archives.base.AnyArchive`.

    Args:
        lower: lower bound of each axis of the descriptor, in its unit.
        upper: upper bound of each axis.
        parameters: length of a genome.
        k: number of neighbours over which novelty is averaged.
        rule: admits rows; all valid ones when left out.
        capacity: maximum number of stored entries, of which the oldest are dropped; unlimited when left out.
        offsets: of the QD score, `task.spec.offsets` for the archive of a task; none when left out. With an offset per
            step, `add` needs `steps`.
        dtype: of genomes.
        device: of genomes; novelty is computed on the host.

    Raises:
        UserError: the bounds are invalid.
        ValueError: k or capacity is below 1.
    """

    def __init__(
        self,
        lower: Sequence[float],
        upper: Sequence[float],
        parameters: int,
        *,
        k: int = 15,
        rule: Rule | None = None,
        capacity: int | None = None,
        offsets: Offsets = NO_OFFSETS,
        dtype: torch.dtype = torch.float32,
        device: str | torch.device = "cpu",
    ) -> None:
        if k < 1 or (capacity is not None and capacity < 1):
            raise ValueError(f"k and capacity must be at least 1, got {k} and {capacity}")
        check_bounds(lower, upper)
        self._bounds = tuple(lower), tuple(upper)
        self.parameters = parameters
        self.k = k
        self.rule = All() if rule is None else rule
        self.capacity = capacity
        self.offsets = offsets
        self.device = torch.device(device)
        self._entries = Entries(parameters, len(lower), capacity, dtype, self.device)

    def __len__(self) -> int:
        return self._entries.stored

    def __repr__(self) -> str:
        dtype = str(self._entries.columns["genome"].dtype).removeprefix("torch.")
        count = f"{len(self)} of {self._entries.added} entries"
        form = f"{self.parameters} parameters, {dtype} on {self.device}"
        return f"NoveltyArchive({count}, over {bounds_in_words(*self._bounds)}, k={self.k}, {form})"

    @property
    def geometry(self) -> Unstructured:
        """The descriptor space, with the number of entries added so far as its cells."""
        return Unstructured(*self._bounds, self.k, self._entries.added)

    @property
    def occupied_cells(self) -> Tensor:
        """Numbers of the stored entries, `(entries,)` int64, ascending."""
        return self._entries.numbers

    @property
    def fitness(self) -> Tensor:
        """`(entries,)` float64, in order of entry."""
        return self._entries.column("fitness")

    @property
    def descriptor(self) -> Tensor:
        """`(entries, d)` float64, in order of entry."""
        return self._entries.column("descriptor")

    @property
    def genomes(self) -> Tensor:
        """`(entries, parameters)`, in order of entry."""
        return self._entries.column("genome")

    @property
    def fields(self) -> dict[str, Tensor]:
        """The columns of `qdrl.archives.base.FIELDS`, `(entries, ...)` in order of entry."""
        return {name: self._entries.column(name) for name in FIELDS}

    def statistics(self) -> Statistics:
        """Return fitness statistics and the QD score; coverage is NaN, because there are no cells."""
        fitness, steps = (self._entries.column(name).cpu().numpy() for name in ("fitness", "steps"))
        return statistics(fitness, steps, None, self.offsets)

    def add(
        self,
        genomes: Numbers | Callable[[Tensor], Numbers],
        fitness: Numbers,
        descriptor: Numbers,
        *,
        valid: Numbers | None = None,
        **fields: Numbers,
    ) -> Insertion:
        """Add the rows of a batch that the rule admits, in row order; arguments are those of `Archive.add`.

        An algorithm that selects rows itself uses the rule `All` and passes a mask as `valid`. If more rows are
        admitted than the capacity, only the last are added. A row's status is 2 if it was added, 0 otherwise.

        Raises:
            ValueError: shapes do not fit, or a valid row's fitness or descriptor is not finite. Archive and rule are
                then unchanged.
        """
        dimensions = len(self._bounds[0])
        shape: dict[str, Any] = {"parameters": self.parameters, "dimensions": dimensions, "device": self.device}
        batch = read_batch(genomes, fitness, descriptor, valid, fields, offsets=self.offsets, **shape)
        accepted = self._admitted(batch.descriptor, batch.valid)
        cells = self._entries.added + torch.arange(len(accepted), device=self.device)
        if len(accepted):
            # Genomes are fetched before anything changes: an exchange that fails leaves the archive unchanged.
            source, rows = genomes_of_rows(batch, accepted, self.parameters)
            places = self._entries.reserve(len(accepted))
            columns = self._entries.columns
            copy_rows(source, rows, columns["genome"], places)
            for name, values in {"fitness": batch.fitness, "descriptor": batch.descriptor, **batch.columns}.items():
                columns[name].index_copy_(0, places, values.index_select(0, accepted))
        self.rule.count(len(accepted))
        nowhere = torch.full((len(batch),), -1, device=self.device)
        cell = nowhere.index_copy(0, accepted, cells)
        return Insertion(accepted, cell, 2 * (cell >= 0).long())

    def sample(self, generator: np.random.Generator, count: int) -> Tensor:
        """Draw numbers of entries uniformly with replacement, `(count,)` int64.

        Raises:
            ValueError: the archive is empty.
        """
        return draw_cells(self.occupied_cells, generator, count)

    def genomes_of(self, cells: Numbers) -> Tensor:
        """Return copies of entries' genomes, `(count,)` integers -> `(count, parameters)`.

        Raises:
            ValueError: a number is not that of a stored entry; the stored range is named.
        """
        places, genomes = self._entries.rows_of(cells), self._entries.columns["genome"]
        copies = allocate(len(places), self.parameters, genomes.dtype, self.device)
        return torch.index_select(genomes, 0, places, out=copies)

    def descriptors_of(self, cells: Numbers) -> Tensor:
        """Return copies of entries' descriptors, `(count,)` integers -> `(count, d)` float64.

        Raises:
            ValueError: a number is not that of a stored entry; the stored range is named.
        """
        return self._entries.columns["descriptor"].index_select(0, self._entries.rows_of(cells))

    def replace_genomes(self, cells: Numbers, genomes: Numbers) -> None:
        """Replace the genomes of entries, `(count,)` integers, by `(count, parameters)` others.

        Raises:
            ValueError: a number is not that of a stored entry; the stored range is named.
        """
        column = self._entries.columns["genome"]
        column.index_copy_(0, self._entries.rows_of(cells), tensor_of(genomes, "genomes").to(column))

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
        """Write the archive to a file, atomically; see `qdrl.Archive.save`."""
        from qdrl.archives.snapshot import save  # h5py is not needed before

        return save(self, path, task, seed=seed, emitters=emitters, config=config, license=license)

    def columns(self) -> dict[str, np.ndarray]:
        """Return copies of the entries' columns as host arrays, by number; genomes are not among them."""
        columns = {name: self._entries.column(name) for name in ("fitness", "descriptor", *FIELDS)}
        return {"cell": self.occupied_cells.cpu().numpy(), **{n: c.cpu().numpy().copy() for n, c in columns.items()}}

    def state_dict(self) -> dict[str, Any]:
        """Return `columns`, the genomes under `genome` and the rule's state under `rule`."""
        return {**self.columns(), "genome": self.genomes.cpu().numpy().copy(), "rule": self.rule.state_dict()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore a state that `state_dict` returned. Without `rule`, as from an archive file, the rule is unchanged.

        Raises:
            ValueError: a shape does not fit this archive, or numbers of entries are missing; it is then unchanged.
        """
        cells = torch.tensor(np.asarray(state["cell"]), dtype=torch.int64, device=self.device)
        if len(cells) and (int(cells[0]) < 0 or not torch.equal(cells, cells[0] + torch.arange(len(cells)).to(cells))):
            raise ValueError(f"numbers of entries must be consecutive, got {cells.tolist()[:5]} ...")
        if self.capacity is not None and len(cells) > self.capacity:
            raise ValueError(f"{len(cells)} entries do not fit a capacity of {self.capacity}")
        own = self._entries.columns
        columns = {name: torch.tensor(np.asarray(state[name])).to(column) for name, column in own.items()}
        for name, column in columns.items():
            if column.shape != (expected := (len(cells), *own[name].shape[1:])):
                raise ValueError(f"{name} must have shape {expected} for this archive, got {tuple(column.shape)}")
        if "rule" in state:
            self.rule.load_state_dict(state["rule"])
        self._entries.replace(int(cells[0]) if len(cells) else 0, columns)

    def _admitted(self, descriptor: Tensor, valid: Tensor | None) -> Tensor:
        """Return the rows that are added, ascending."""
        usable = np.ones(len(descriptor), bool) if valid is None else valid.cpu().numpy()
        admitted = self.rule.admitted(descriptor.cpu().numpy(), usable, self.descriptor.cpu().numpy(), self.k)
        rows = np.flatnonzero(admitted)[-self.capacity if self.capacity else 0 :]
        return torch.from_numpy(rows).to(self.device)
