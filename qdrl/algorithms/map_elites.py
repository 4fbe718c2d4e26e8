"""MAP-Elites (Mouret and Clune 2015), with CVT cells (Vassiliades et al. 2018) when the archive has them.

The first generations are random genomes. Every later row draws its parents uniformly over the occupied cells, with
replacement, and varies them (Iso+LineDD by default, Vassiliades and Mouret 2018).
"""

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Annotated, Any

import numpy as np
import torch
from pydantic import Field
from torch import Tensor

from qdrl.algorithms.base import Algorithm
from qdrl.archives.base import AnyArchive
from qdrl.compute.arrays import native
from qdrl.evaluation import Candidates, Evaluation
from qdrl.genomes.variation import Gaussian, IsoLine, Variation
from qdrl.parallel.exchange import LOCAL, Exchange
from qdrl.settings.base import SettingsModel
from qdrl.streams import Purpose, Streams
from qdrl.tasks.base import Task


class MapElitesSettings(SettingsModel):
    """Settings of MAP-Elites."""

    name: str = "map_elites"
    """Name of the algorithm: "map_elites", or the `package.module:Class` of a subclass."""
    batch_size: Annotated[int, Field(ge=1, le=1_000_000)] = 256
    """Evaluations a generation."""
    initial_generations: Annotated[int, Field(ge=1)] = 1
    """Generations of random genomes before variation starts."""
    variation: Annotated[IsoLine | Gaussian, Field(discriminator="name")] = IsoLine()
    """The operator and its scales."""


class MapElites(Algorithm):
    """See `qdrl.algorithms.base.Algorithm`.

    Args:
        task: gives first genomes.
        archive: filled by `tell`.
        streams: the run's random numbers.
        settings: batch size, operator.
    """

    Settings = MapElitesSettings
    settings: MapElitesSettings
    emitters = ("random", "variation")

    def __init__(self, task: Task, archive: AnyArchive, streams: Streams, settings: MapElitesSettings) -> None:
        super().__init__(task, archive, streams, settings)
        self.batch_size = settings.batch_size
        self._initial_generations = settings.initial_generations
        self._variation: Variation = settings.variation

    def ask(self, rows: range | None = None) -> Candidates:
        rows = range(self.batch_size) if rows is None else rows
        genomes, parent_cell, emitter = self._propose(rows)
        return self.make_candidates(rows, genomes, emitter, parent_cell)

    def tell(self, evaluation: Evaluation, exchange: Exchange = LOCAL) -> dict[str, float]:
        self.check_turn(evaluation)
        return self._insert(evaluation, ~evaluation.failed, exchange)

    def state_dict(self) -> dict[str, Any]:
        return {"generation": self.generation}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.generation = int(state["generation"])

    @property
    def _varies(self) -> bool:
        """Whether there are parents to vary."""
        return self.generation >= self._initial_generations and len(self.archive) > 0

    def _propose(self, rows: range) -> tuple[Tensor, np.ndarray, np.ndarray]:
        """Genomes `(rows, parameters)` beside the archive; each one's first parent's cell, and emitter, `(rows,)`."""
        genomes, cells = self._children(rows) if self._varies else self._first_genomes(rows)
        emitter = self.emitters.index("variation" if self._varies else "random")
        return genomes, cells, np.full(len(rows), emitter)

    def _insert(self, evaluation: Evaluation, valid: Tensor, exchange: Exchange) -> dict[str, float]:
        """Collective. End the generation: insert the valid rows; return what each emitter added and improved."""
        counts = self.insert(evaluation, valid, partial(exchange.genomes, evaluation))
        self.generation += 1
        return counts

    def _first_genomes(self, rows: Sequence[int]) -> tuple[Tensor, np.ndarray]:
        genomes = np.empty((len(rows), self.task.parameters), np.float32)
        for index, row in enumerate(rows):
            genomes[index] = self.task.initial(self.streams.generator(Purpose.INITIAL, self.generation, row))
        return torch.from_numpy(genomes).to(self.archive.device), np.full(len(rows), -1)

    def _children(self, rows: Sequence[int]) -> tuple[Tensor, np.ndarray]:
        """Children `(rows, parameters)` and the cell of each one's first parent."""
        occupied, count = self.archive.occupied_cells.cpu().numpy(), self._variation.parents
        generators = [self.streams.generator(Purpose.VARIATION, self.generation, row) for row in rows]
        drawn = [generator.integers(len(occupied), size=count) for generator in generators]
        cells = occupied[np.array(drawn, np.int64).reshape(len(rows), count)]
        # All parents are fetched at once: one by one they were most of the cost on a cheap task.
        parents = self.archive.genomes_of(torch.from_numpy(cells.ravel())).view(len(rows), count, self.task.parameters)
        genomes = torch.empty(len(rows), self.task.parameters, device=self.archive.device)
        children, pairs = native(genomes), native(parents)
        for index, generator in enumerate(generators):
            children[index] = self._variation(generator, *pairs[index])
        return genomes, cells[:, 0]
