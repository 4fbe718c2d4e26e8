"""MAP-Elites (Mouret and Clune 2015), with CVT cells (Vassiliades et al. 2018) if the archive has them.

MAP-Elites: https://arxiv.org/abs/1504.04909. CVT-MAP-Elites: https://arxiv.org/abs/1610.05729.

The first generations are random genomes. In later generations each row draws its parents uniformly from the occupied
cells, with replacement. The default variation operator is Iso+LineDD (Vassiliades and Mouret 2018,
https://arxiv.org/abs/1804.03906).
"""

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Annotated, Any, ClassVar

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
    """Name of the algorithm, or the `package.module:Class` of a subclass."""
    batch_size: Annotated[int, Field(ge=1, le=1_000_000)] = 256
    """Evaluations per generation."""
    initial_generations: Annotated[int, Field(ge=1)] = 1
    """Generations of random genomes before variation starts."""
    variation: Annotated[IsoLine | Gaussian, Field(discriminator="name")] = IsoLine()
    """Variation operator and its standard deviations."""


class MapElites(Algorithm):
    """MAP-Elites: offspring of uniformly drawn elites compete for the cells of the archive.

    Args:
        task: draws initial genomes.
        archive: the archive that `tell` inserts into.
        streams: the run's random numbers.
        settings: settings of the algorithm.
    """

    Settings: ClassVar[type[MapElitesSettings]] = MapElitesSettings  # pyright: ignore[reportIncompatibleVariableOverride]
    settings: MapElitesSettings
    emitters = ("random", "variation")

    def __init__(self, task: Task, archive: AnyArchive, streams: Streams, settings: MapElitesSettings) -> None:
        super().__init__(task, archive, streams, settings)
        self._initial_generations = settings.initial_generations
        self._variation: Variation = settings.variation

    @property
    def batch_size(self) -> int:
        """Return the number of rows in the next generation."""
        return self.settings.batch_size

    def ask(self, rows: range | None = None) -> Candidates:
        """Return random genomes in the first generations, offspring of elites later."""
        rows = range(self.batch_size) if rows is None else rows
        genomes, parent_cell, emitter = self._propose(rows)
        return self.make_candidates(rows, genomes, emitter, parent_cell)

    def tell(self, evaluation: Evaluation, exchange: Exchange = LOCAL) -> dict[str, float]:
        """Insert the rows that did not fail into the archive. Collective."""
        self.check_turn(evaluation)
        return self._insert(evaluation, ~evaluation.failed, exchange)

    def state_dict(self) -> dict[str, Any]:
        """Return the generation; the archive is stored apart."""
        return {"generation": self.generation}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore the state that `state_dict` returned."""
        self.generation = int(state["generation"])

    @property
    def _varies(self) -> bool:
        """Return whether the next generation is offspring of elites."""
        return self.generation >= self._initial_generations and len(self.archive) > 0

    def _propose(self, rows: range) -> tuple[Tensor, np.ndarray, np.ndarray]:
        """Return genomes, first parents' cells and emitter indices of these rows.

        Returns:
            `(rows, parameters)` float32 on the archive's device; `(rows,)` cells, -1 for none; `(rows,)` indices.
        """
        genomes, cells = self._children(rows) if self._varies else self._first_genomes(rows)
        emitter = self.emitters.index("variation" if self._varies else "random")
        return genomes, cells, np.full(len(rows), emitter)

    def _insert(self, evaluation: Evaluation, valid: Tensor, exchange: Exchange) -> dict[str, float]:
        """Insert the valid rows and advance to the next generation; return the counts of `insert`. Collective."""
        counts = self.insert(evaluation, valid, partial(exchange.genomes, evaluation))
        self.generation += 1
        return counts

    def _first_genomes(self, rows: Sequence[int]) -> tuple[Tensor, np.ndarray]:
        """Return random genomes, `(rows, parameters)` float32, and -1 for each row."""
        genomes = np.empty((len(rows), self.task.parameters), np.float32)
        for index, row in enumerate(rows):
            genomes[index] = self.task.initial(self.streams.generator(Purpose.INITIAL, self.generation, row))
        return torch.from_numpy(genomes).to(self.archive.device), np.full(len(rows), -1)

    def _children(self, rows: Sequence[int]) -> tuple[Tensor, np.ndarray]:
        """Return offspring, `(rows, parameters)` float32, and the cells of their first parents, `(rows,)`."""
        occupied, count = self.archive.occupied_cells.cpu().numpy(), self._variation.parents
        generators = [self.streams.generator(Purpose.VARIATION, self.generation, row) for row in rows]
        drawn = [generator.integers(len(occupied), size=count) for generator in generators]
        cells = occupied[np.array(drawn, np.int64).reshape(len(rows), count)]
        # All parents are fetched at once: single fetches took most of the time on a cheap task.
        parents = self.archive.genomes_of(torch.from_numpy(cells.ravel())).view(len(rows), count, self.task.parameters)
        genomes = torch.empty(len(rows), self.task.parameters, device=self.archive.device)
        children, pairs = native(genomes), native(parents)
        for index, generator in enumerate(generators):
            children[index] = self._variation(generator, *pairs[index])
        return genomes, cells[:, 0]
