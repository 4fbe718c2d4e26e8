"""OpenAI-ES (Salimans et al. 2017): a mean climbs the ranked fitness of its mirrored perturbations.

As in the authors' code, returns are ranked over the whole generation, the gradient is not divided by sigma, and weight
decay is added before the optimiser. What differs: noise is keyed unless a table is asked for, all observations count in
the running normaliser instead of one in a hundred episodes, and actions have no noise.

Every perturbation also competes for a cell of the archive, which has no say in where the mean goes.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch

from qdrl.algorithms.base import Algorithm, make_champion, restored_champion
from qdrl.algorithms.evolution_strategy import EvolutionStrategySettings, Mean, centred_ranks
from qdrl.archives.base import AnyArchive
from qdrl.evaluation import Candidates, Evaluation
from qdrl.genomes.noise import share_noise, source_for
from qdrl.parallel.exchange import LOCAL, Exchange
from qdrl.parallel.ranks import Ranks
from qdrl.streams import Purpose, Streams
from qdrl.tasks.base import Task


class OpenAiEsSettings(EvolutionStrategySettings):
    """Settings of OpenAI-ES."""

    name: str = "openai_es"
    """"openai_es"."""


class OpenAiEs(Algorithm):
    """See `qdrl.algorithms.base.Algorithm`.

    Attributes:
        mean: what perturbations are made of.

    Args:
        task: gives the first mean.
        archive: filled by `tell`.
        streams: the run's random numbers.
        settings: see `OpenAiEsSettings`.
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

    def share_memory(self, ranks: Ranks) -> None:
        """Collective. Have the noise table once a node."""
        share_noise(self._noise, ranks)

    def ask(self, rows: range | None = None) -> Candidates:
        rows = range(self.batch_size) if rows is None else rows
        emitter = [self.emitters.index("mean" if row >= self.settings.batch_size else "perturbation") for row in rows]
        return self.make_candidates(rows, self.mean.perturbed(self.generation, rows), np.array(emitter, np.int64))

    def tell(self, evaluation: Evaluation, exchange: Exchange = LOCAL) -> dict[str, float]:
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
        return {"generation": self.generation, "mean": self.mean.state_dict(), "champion": self.champion or {}}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.generation = int(state["generation"])
        self.mean.load_state_dict(state["mean"])
        self.champion = restored_champion(state["champion"], len(self.mean.genome))
