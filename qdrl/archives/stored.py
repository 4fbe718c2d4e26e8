"""An archive as it is read from a file, for notebooks, reports and reruns. Needs no torch."""

import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from operator import index
from pathlib import Path
from typing import Any

import numpy as np

from qdrl.archives.axes import Axis
from qdrl.archives.files import open_hdf5
from qdrl.archives.lineages import StoredLineages
from qdrl.archives.novelty import novelty
from qdrl.archives.statistics import Offsets, Statistics, statistics
from qdrl.errors import UserError


@dataclass(frozen=True, repr=False)
class StoredArchive:
    """An archive read from a file: small columns in memory, genomes read from the file one at a time.

    Attributes:
        axes: the descriptor's axes.
        kind: "grid", "cvt" or "novelty".
        shape: cells along each axis of a grid; `(cells,)` for cvt; the number of entries added so far for novelty.
        centroids: `(cells, d)` float64; `(0, d)` for novelty.
        fitness_name: what fitness measures, with its unit.
        offsets: of the QD score.
        emitters: emitter names; `elites["emitter"]` indexes this tuple.
        elites: `(n, ...)` columns by name, ordered by cell, without genomes.
        history: `(generations,)` metrics by name.
        attributes: created_utc, qdrl_version, git_commit, seed, and `license` if the user stated one.
        meta: config, command, packages, task and policy as parsed JSON; `code` if users' code was run; `mjcf` as text
            and `assets`, the files that it names, if the task has a MuJoCo model.
        normalizer: mean, var `(observation,)` and count; `at.generation` `(s,)`, `at.mean` and `at.var`
            `(s, observation)`: the statistics of each generation that has an elite. None if policies do not
            normalise.
        actor: of runs that train one: `genome` `(q,)` float32, a flat row of layers whose first has `dimensions` more
            inputs at its end, the descriptor normalised to [-1, 1]; the layers are the policy's, or `layers` `(l,)`.
        champion: of runs that optimise a single genome: `fitness` `(episodes,)` of the episodes that selected it, their
            `generation` `(1,)`, and `genome` `(parameters,)` float32, or `seeds` and `sigmas` of its lineage; after a
            held-out test also `test_fitness` `(episodes,)`, NaN for a failed episode.
        lineages: the genomes, if they are lineages; `qdrl.analysis.decode` converts them to weights.
        neighbours: of a novelty archive: the k of novelty.
        genomes: `(n, parameters)` float32 if they are in memory.
        path: the file, if the archive was read from one.
    """

    axes: tuple[Axis, ...]
    kind: str
    shape: tuple[int, ...]
    centroids: np.ndarray
    fitness_name: str
    offsets: Offsets
    emitters: tuple[str, ...]
    elites: dict[str, np.ndarray]
    history: dict[str, np.ndarray] = field(default_factory=dict)
    attributes: dict[str, Any] = field(default_factory=dict)
    meta: dict[str, Any] = field(default_factory=dict)
    normalizer: dict[str, np.ndarray] | None = None
    actor: dict[str, np.ndarray] | None = None
    champion: dict[str, np.ndarray] | None = None
    lineages: StoredLineages | None = None
    neighbours: int | None = None
    genomes: np.ndarray | None = None
    path: Path | None = None

    def __len__(self) -> int:
        return len(self.elites["cell"])

    def __repr__(self) -> str:
        task = (self.meta.get("task") or {}).get("name", "an unnamed task")
        axes = ", ".join(f"{axis.label} [{axis.lower:g}, {axis.upper:g}]" for axis in self.axes)
        count = f"{len(self)} of {self.cells} {'entries' if self.unstructured else 'cells'}"
        source = "in memory" if self.path is None else str(self.path)
        return f"StoredArchive({count}, {self.kind} of {task} over {axes}, {source})"

    @property
    def cells(self) -> int:
        """Number of cells, occupied or not; of a novelty archive the number of entries, stored or dropped."""
        return math.prod(self.shape)

    @property
    def unstructured(self) -> bool:
        """Whether this is a novelty archive, whose cells are numbers of entries."""
        return self.kind == "novelty"

    def statistics(self) -> Statistics:
        """Return coverage, QD score and fitness statistics, from the stored fitness."""
        cells = None if self.unstructured else self.cells
        return statistics(self.elites["fitness"], self.elites.get("steps", np.array(np.nan)), cells, self.offsets)

    def mean_novelty(self) -> float:
        """Return the mean novelty of the entries of a novelty archive, each among the others.

        In the axes' units; NaN for fewer than two entries. See `qdrl.archives.novelty.novelty`.

        Raises:
            ValueError: not a novelty archive.
        """
        if self.neighbours is None:
            raise ValueError(f"mean novelty needs an archive of kind 'novelty', this one is '{self.kind}'")
        if len(self) < 2:
            return float("nan")
        places = self.elites["descriptor"]
        return float(novelty(places, places, self.neighbours, own=np.arange(len(places))).mean())

    @property
    def best_cell(self) -> int:
        """The cell of the elite with the highest fitness, the lowest cell on ties.

        Raises:
            UserError: the archive is empty.
        """
        self._refuse_empty()
        return int(self.elites["cell"][self.elites["fitness"].argmax()])

    def row_of(self, cell: int) -> int:
        """Return the row of the elite in a cell.

        Raises:
            UserError: the cell does not exist or is empty; the nearest occupied cell is named.
            TypeError: the cell is not an integer.
        """
        self._refuse_empty()
        cell = index(cell)
        if not 0 <= cell < self.cells:
            raise UserError(f"cell {cell} does not exist; cells run from 0 to {self.cells - 1}")
        row = int(np.searchsorted(self.elites["cell"], cell))
        if row < len(self) and self.elites["cell"][row] == cell:
            return row
        if self.unstructured:
            raise UserError(f"entry {cell} was dropped; the oldest stored entry is {self.elites['cell'][0]}")
        near = int(self.elites["cell"][self.nearest(self.centroids[cell], 1)[0]])
        raise UserError(f"cell {cell} is empty; the nearest occupied one is {near}")

    def nearest(self, descriptor: np.ndarray, count: int) -> np.ndarray:
        """Return the rows of the elites with the nearest descriptors, `(count,)`, measured in units of the bounds."""
        span = np.array([axis.upper - axis.lower for axis in self.axes])
        distance = np.linalg.norm((self.elites["descriptor"] - descriptor) / span, axis=1)
        return np.argsort(distance, kind="stable")[:count]

    @property
    def parameters(self) -> int:
        """Number of weights of a genome."""
        if self.lineages is not None:
            return int(self.lineages.keyframes.shape[1])
        with self._stored_genomes() as genomes:
            return int(genomes.shape[1])

    def genome(self, cell: int | None = None, *, row: int | None = None) -> np.ndarray:
        """Return one elite's genome, `(parameters,)` float32, without reading the others.

        Args:
            cell: the elite's cell, as in `qdrl archive show FILE CELL`; of a novelty archive the entry's number.
            row: the elite's row in the columns of `elites`, instead of a cell; negative rows count from the end.

        Raises:
            UserError: the cell does not exist or is empty, the genome is damaged or not finite, or genomes are
                lineages, which `qdrl.analysis.decode.genome_of` decodes.
            IndexError: there is no such row.
            TypeError: not exactly one of cell and row is given, or it is not an integer.
        """
        if (cell is None) == (row is None):
            raise TypeError("genome() takes either a cell or row=...")
        row = self.row_of(cell) if row is None else index(row)  # pyright: ignore[reportArgumentType]
        if not -len(self) <= row < len(self):
            raise IndexError(f"row {row} of an archive of {len(self)} elites")
        with self._stored_genomes() as genomes:
            genome = np.array(genomes[row % len(self)])
        if not np.isfinite(genome).all():
            place = self.path or "archive"
            raise UserError(f"{place}: the genome of cell {self.elites['cell'][row]} has values that are not finite")
        return genome

    def all_genomes(self) -> np.ndarray:
        """Return all genomes, `(n, parameters)` float32, in the order of `elites`; not a copy if they are in memory."""
        with self._stored_genomes() as genomes:
            return genomes[:]

    def _refuse_empty(self) -> None:
        if len(self) == 0:
            raise UserError(f"{self.path or 'archive'}: the archive is empty")

    @contextmanager
    def _stored_genomes(self) -> Iterator[Any]:
        if self.lineages is not None:
            raise UserError("this archive holds lineages; `qdrl.analysis.decode.genome_of(archive, row)` decodes one")
        if self.genomes is not None:
            yield self.genomes
            return
        if self.path is None:
            raise ValueError("this archive has neither genomes in memory nor a file")
        with open_hdf5(self.path) as file:
            # A run that continues replaces the file. Any new elite of a cell has another fitness.
            elites = file["elites"]
            if not all(np.array_equal(elites[name][:], self.elites[name]) for name in ("cell", "fitness")):
                raise UserError(f"{self.path}: the elites have changed since it was read; open it again")
            yield elites["genome"]
