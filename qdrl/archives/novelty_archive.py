"""The unstructured archive of novelty search (Lehman and Stanley 2011).

Entries never compete; every admitted entry is kept, or the latest ones where the archive has a capacity.

An entry's cell is its number: the first entry's is 0, the next one's 1, whatever is dropped later.
"""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from qdrl.archives.admission import All, Rule
from qdrl.archives.base import FIELDS, Insertion, Numbers, width_of
from qdrl.archives.batches import cells_of, copy_rows, drawn_from, read_batch, room, taken, tensor_of
from qdrl.archives.described import Described
from qdrl.archives.grid import bounds_in_words, check_bounds
from qdrl.archives.statistics import Statistics, statistics

_FIRST_ROOM = 64  # entries; doubled whenever it is full


class Unstructured:
    """A descriptor space without cells; see `qdrl.archives.base.Space`.

    Args:
        lower: lower bound of each axis, in its unit. Bounds are for plots and for critics; entries may lie anywhere.
        upper: upper bound of each axis.
        neighbours: the k of novelty.
        cells: how many entries there have ever been.
    """

    kind = "novelty"

    def __init__(self, lower: Sequence[float], upper: Sequence[float], neighbours: int, cells: int) -> None:
        self.lower, self.upper = np.asarray(lower, np.float64), np.asarray(upper, np.float64)
        self.neighbours = neighbours
        self.cells = cells
        self.shape: tuple[int, ...] = (cells,)

    @property
    def centroids(self) -> np.ndarray:
        return np.empty((0, len(self.lower)))


class NoveltyArchive:
    """Entries in order of entry; see `qdrl.archives.base.AnyArchive`.

    Args:
        lower: lower bound of each axis of the descriptor, in its unit.
        upper: upper bound of each axis.
        parameters: length of a genome.
        k: neighbours that count for novelty.
        rule: who is let in; everyone when left out.
        capacity: most entries held at once; the oldest are dropped. Without it the archive grows as long as the run.
        qd_offset: what the QD score subtracts from every entry's fitness.
        dtype: of genomes.
        device: where genomes live. Novelty is computed on the host.

    Raises:
        UserError: the bounds are impossible.
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
        qd_offset: float = 0.0,
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
        self.qd_offset = qd_offset
        self.device = torch.device(device)
        self._entered = self._held = 0
        self._columns = self._room(min(_FIRST_ROOM, capacity or _FIRST_ROOM), dtype)

    def __len__(self) -> int:
        return self._held

    def __repr__(self) -> str:
        genomes = self._columns["genome"]
        bounds = bounds_in_words(*self._bounds)
        form = f"{self.parameters} parameters, {str(genomes.dtype).removeprefix('torch.')} on {self.device}"
        return f"NoveltyArchive({self._held} of {self._entered} entries, over {bounds}, k={self.k}, {form})"

    @property
    def geometry(self) -> Unstructured:
        """The space, with as many cells as there have been entries."""
        return Unstructured(*self._bounds, self.k, self._entered)

    @property
    def occupied_cells(self) -> Tensor:
        """Numbers of the entries held, `(entries,)` int64, ascending."""
        return torch.arange(self._entered - self._held, self._entered, device=self.device)

    @property
    def fitness(self) -> Tensor:
        """`(entries,)` float64, in order of entry."""
        return self._in_order("fitness")

    @property
    def descriptor(self) -> Tensor:
        """`(entries, d)` float64, in order of entry."""
        return self._in_order("descriptor")

    @property
    def genomes(self) -> Tensor:
        """`(entries, parameters)`, in order of entry."""
        return self._in_order("genome")

    @property
    def fields(self) -> dict[str, Tensor]:
        """The columns of `qdrl.archives.base.FIELDS`, `(entries, ...)` in order of entry."""
        return {name: self._in_order(name) for name in FIELDS}

    def statistics(self) -> Statistics:
        """How the archive stands; coverage is NaN, for there are no cells to cover."""
        return statistics(self.fitness.cpu().numpy(), None, self.qd_offset)

    def add(
        self,
        genomes: Numbers | Callable[[Tensor], Numbers],
        fitness: Numbers,
        descriptor: Numbers,
        *,
        valid: Numbers | None = None,
        **fields: Numbers,
    ) -> Insertion:
        """Let those rows of a batch enter, in row order, that the rule admits; arguments are those of `Archive.add`.

        An algorithm that decides by itself leaves the rule at `All` and passes a mask as `valid`. Of more rows than
        the capacity only the last enter. A row's status is 2 when it entered, 0 otherwise.

        Raises:
            ValueError: shapes do not fit, or a valid row's fitness or descriptor is not finite. Archive and rule are
                then as they were before.
        """
        dimensions = len(self._bounds[0])
        shape: dict[str, Any] = {"parameters": self.parameters, "dimensions": dimensions, "device": self.device}
        batch = read_batch(genomes, fitness, descriptor, valid, fields, **shape)
        accepted = self._admitted(batch.descriptor, batch.valid)
        cells = self._entered + torch.arange(len(accepted), device=self.device)
        if len(accepted):
            # Genomes are fetched before anything changes: an exchange that fails leaves the archive whole.
            source, rows = taken(batch, accepted, self.parameters)
            self._make_room(len(accepted))
            places = self._places(cells)
            copy_rows(source, rows, self._columns["genome"], places)
            rows_of = {"fitness": batch.fitness, "descriptor": batch.descriptor, **batch.columns}
            for name, column in rows_of.items():
                self._columns[name].index_copy_(0, places, column.index_select(0, accepted))
            self._note_entries(len(accepted))
        self.rule.count(len(accepted))
        nowhere = torch.full((len(batch),), -1, device=self.device)
        cell = nowhere.index_copy(0, accepted, cells)
        return Insertion(accepted, cell, 2 * (cell >= 0).long())

    def sample(self, generator: np.random.Generator, count: int) -> Tensor:
        """Numbers of entries drawn uniformly with replacement, `(count,)` int64.

        Raises:
            ValueError: the archive is empty.
        """
        return drawn_from(self.occupied_cells, generator, count)

    def genomes_of(self, cells: Numbers) -> Tensor:
        """Return copies of entries' genomes, `(count,)` integers -> `(count, parameters)`.

        Raises:
            ValueError: a number is not that of a stored entry; the stored range is named.
        """
        places, genomes = self._held_places(cells), self._columns["genome"]
        copies = room(len(places), self.parameters, genomes.dtype, self.device)
        return torch.index_select(genomes, 0, places, out=copies)

    def descriptors_of(self, cells: Numbers) -> Tensor:
        """Return copies of entries' descriptors, `(count,)` integers -> `(count, d)` float64.

        Raises:
            ValueError: a number is not that of a stored entry; the stored range is named.
        """
        return self._columns["descriptor"].index_select(0, self._held_places(cells))

    def replace_genomes(self, cells: Numbers, genomes: Numbers) -> None:
        """Put other genomes `(count, parameters)` into entries, `(count,)` integers.

        Raises:
            ValueError: a number is not that of a stored entry; the stored range is named.
        """
        column = self._columns["genome"]
        column.index_copy_(0, self._held_places(cells), tensor_of(genomes, "genomes").to(column))

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
        columns = {name: self._in_order(name) for name in ("fitness", "descriptor", *FIELDS)}
        return {"cell": self.occupied_cells.cpu().numpy(), **{n: c.cpu().numpy().copy() for n, c in columns.items()}}

    def state_dict(self) -> dict[str, Any]:
        """Return `columns`, the genomes under `genome` and the rule's state under `rule`."""
        return {**self.columns(), "genome": self.genomes.cpu().numpy().copy(), "rule": self.rule.state_dict()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Put back what `state_dict` gave. Without a `rule` in it, as from an archive file, the rule stays as it is.

        Raises:
            ValueError: a shape does not fit this archive, or numbers of entries are missing; it is then as before.
        """
        cells = torch.tensor(np.asarray(state["cell"]), dtype=torch.int64, device=self.device)
        if len(cells) and (int(cells[0]) < 0 or not torch.equal(cells, cells[0] + torch.arange(len(cells)).to(cells))):
            raise ValueError(f"entries must be numbered one after the other, got {cells.tolist()[:5]} and so on")
        if self.capacity is not None and len(cells) > self.capacity:
            raise ValueError(f"{len(cells)} entries do not fit a capacity of {self.capacity}")
        columns = {name: torch.tensor(np.asarray(state[name])).to(column) for name, column in self._columns.items()}
        for name, column in columns.items():
            if column.shape != (expected := (len(cells), *self._columns[name].shape[1:])):
                raise ValueError(f"{name} must have shape {expected} for this archive, got {tuple(column.shape)}")
        if "rule" in state:
            self.rule.load_state_dict(state["rule"])
        self._held = self._entered = 0
        self._make_room(len(cells))
        self._entered = int(cells[-1]) + 1 if len(cells) else 0
        self._held = len(cells)
        for name, column in columns.items():
            self._columns[name].index_copy_(0, self._places(cells), column)

    def _admitted(self, descriptor: Tensor, valid: Tensor | None) -> Tensor:
        """Rows that enter, ascending."""
        usable = np.ones(len(descriptor), bool) if valid is None else valid.cpu().numpy()
        admitted = self.rule.admitted(descriptor.cpu().numpy(), usable, self.descriptor.cpu().numpy(), self.k)
        rows = np.flatnonzero(admitted)[-self.capacity if self.capacity else 0 :]
        return torch.from_numpy(rows).to(self.device)

    def _room(self, rows: int, dtype: torch.dtype) -> dict[str, Tensor]:
        """Uninitialised columns; rows that hold no entry are never read."""
        dimensions = len(self._bounds[0])
        fields = {
            name: torch.empty(rows, *width_of(name, dimensions), dtype=kind, device=self.device)
            for name, (kind, _) in FIELDS.items()
        }
        return {
            "fitness": torch.empty(rows, dtype=torch.float64, device=self.device),
            "descriptor": torch.empty(rows, dimensions, dtype=torch.float64, device=self.device),
            "genome": room(rows, self.parameters, dtype, self.device),
            **fields,
        }

    def _make_room(self, more: int) -> None:
        """Grow, at least to double, until so many more entries fit or the capacity is reached."""
        there, needed = len(self._columns["fitness"]), self._held + more
        rows = min(max(needed, 2 * there), self.capacity or 2**62)
        if needed <= there or rows == there:
            return
        larger, cells = self._room(rows, self._columns["genome"].dtype), self.occupied_cells
        for name, column in self._columns.items():
            copy_rows(column, cells % there, larger[name], cells % rows)
        self._columns = larger

    def _note_entries(self, count: int) -> None:
        self._entered += count
        self._held = min(self._held + count, len(self._columns["fitness"]))

    def _places(self, cells: Tensor) -> Tensor:
        """Where entries lie: one after the other, and from the beginning again when the capacity is reached."""
        return cells % len(self._columns["fitness"])

    def _held_places(self, cells: Numbers) -> Tensor:
        cells = cells_of(cells, self.device)
        wrong = (cells < self._entered - self._held) | (cells >= self._entered)
        if bool(wrong.any()):
            held = f"{self._entered - self._held} to {self._entered - 1}" if self._held else "none"
            raise ValueError(f"entry {int(cells[wrong][0])} is not held; held are {held}")
        return self._places(cells)

    def _in_order(self, name: str) -> Tensor:
        if self._held == self._entered:  # nothing was dropped: as they lie
            return self._columns[name][: self._held]
        return self._columns[name].index_select(0, self._places(self.occupied_cells))
