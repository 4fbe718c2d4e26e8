"""OpenAI-ES (Salimans et al. 2017): gradient ascent of a mean on the ranked fitness of mirrored perturbations.

Paper: https://arxiv.org/abs/1703.03864.

As in the authors' code, returns are ranked over the whole generation, the gradient is not divided by sigma, and weight
decay is added before the optimiser. There are three differences. Noise is keyed by default instead of read from a
table. All observations enter the running normaliser, instead of those of one in a hundred episodes. Actions have no
noise.

Every perturbation also competes for a cell of the archive. The update of the mean does not use the archive.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch

from qdrl.algorithms.base import Algorithm, Workload
from qdrl.algorithms.champions import make_champion, restored_champion
from qdrl.algorithms.evolution_strategy import EvolutionStrategySettings, Mean, centred_ranks
from qdrl.archives.base import AnyArchive
from qdrl.evaluation import Candidates, Evaluation
from qdrl.genomes.noise import share_noise, source_for
from qdrl.parallel.exchange import LOCAL, Exchange
from qdrl.parallel.ranks import Ranks
from qdrl.streams import Purpose, Streams
from qdrl.tasks.base import Task


class OpenAiEsSettings(EvolutionStrategySettings):
    """Settings of OpenAI-ES; see `EvolutionStrategySettings` for the source of the defaults."""

    name: str = "openai_es"
    """Name of the algorithm: "openai_es"."""


class OpenAiEs(Algorithm):
    """OpenAI-ES: one mean, updated from the ranked fitness of its perturbations.

    Attributes:
        mean: the mean and its optimiser.

    Args:
        task: draws the initial mean.
        archive: the archive that `tell` inserts into.
        streams: the run's random numbers.
        settings: settings of the algorithm.
    """

    Settings = OpenAiEsSettings
    settings: OpenAiEsSettings
    emitters = ("perturbation", "mean")

    def __init__(self, task: Task, archive: AnyArchive, streams: Streams, settings: OpenAiEsSettings) -> None:
        super().__init__(task, archive, streams, settings)
        self.batch_size = settings.batch_size + settings.mean_rows
        self._noise = source_for(settings.noise, task.parameters)
        first = task.initial(streams.generator(Purpose.INITIAL)) * (settings.initial == "random")
        self.mean = Mean(first, settings, streams, self._noise)

    @classmethod
    def workload(cls, settings: OpenAiEsSettings) -> Workload:
        """Return the work that settings state."""
        return Workload(rows=settings.batch_size + settings.mean_rows, noise_table=settings.noise.table_size)

    def share_memory(self, ranks: Ranks) -> None:
        """Create the noise table once per node. Collective."""
        share_noise(self._noise, ranks)

    def ask(self, rows: range | None = None) -> Candidates:
        """Return perturbations of the mean, followed by `mean_rows` copies of the mean."""
        rows = range(self.batch_size) if rows is None else rows
        emitter = [self.emitters.index("mean" if row >= self.settings.batch_size else "perturbation") for row in rows]
        return self.make_candidates(rows, self.mean.perturbed(self.generation, rows), np.array(emitter, np.int64))

    def tell(self, evaluation: Evaluation, exchange: Exchange = LOCAL) -> dict[str, float]:
        """Update the mean and insert all rows that did not fail into the archive. Collective.

        Returns:
            The counts of `insert`; `champion_fitness`, the mean fitness of the rows of the mean; `mean_norm`, the
            Euclidean norm of the mean before the update.
        """
        self.check_turn(evaluation)
        fitness, before = evaluation.fitness.cpu().numpy(), self.mean.genome.numpy().copy()
        rows = self.mean.perturbed(self.generation, range(self.batch_size))
        self.mean.improve(evaluation.generation, centred_ranks(fitness[: self.settings.batch_size]), exchange)
        own = fitness[self.settings.batch_size :]
        if np.isfinite(own).any():
            self.champion = make_champion(own[np.isfinite(own)], evaluation.generation, genome=before)
        counts = self.insert(
            evaluation,
            ~evaluation.failed,
            lambda accepted: torch.cat([rows[row : row + 1] for row in accepted.tolist()]),
        )
        self.generation += 1
        return {
            **counts,
            "champion_fitness": float(np.nanmean(own)) if np.isfinite(own).any() else np.nan,
            "mean_norm": float(np.linalg.norm(before.astype(np.float64))),
        }

    def state_dict(self) -> dict[str, Any]:
        """Return the generation, the mean with its optimiser, and the champion."""
        return {"generation": self.generation, "mean": self.mean.state_dict(), "champion": self.champion or {}}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore the state that `state_dict` returned.

        Raises:
            KeyError: an array of the champion is missing.
            ValueError: an array has another shape, or the champion is not finite.
        """
        self.generation = int(state["generation"])
        self.mean.load_state_dict(state["mean"])
        self.champion = restored_champion(state["champion"], len(self.mean.genome))
