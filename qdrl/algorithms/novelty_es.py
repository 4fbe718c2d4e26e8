"""NS-ES, NSR-ES and NSRA-ES (Conti et al. 2018): a few means that climb towards what has not been seen.

The archive holds what every mean did whenever it had moved (`archive.kind = "novelty"`, `rule = "all"`). The novelty of
a perturbation is its mean distance to its nearest neighbours there. Of the means, the one to move next is drawn with a
chance proportional to its novelty; it takes one step of an evolution strategy up

    ns      ranks of novelty
    nsr     the mean of both ranks, of novelty and of fitness
    nsra    reward_weight * ranks of fitness + (1 - reward_weight) * ranks of novelty: the weight grows when a mean
            is fitter than any before, and shrinks when that has not happened for a while

and is evaluated over `mean_rows` episodes in a generation of its own, whose mean descriptor enters the archive. What
differs from the authors' code: a mean's own latest entry is not its neighbour when means are compared.
"""

from collections.abc import Mapping
from typing import Annotated, Any, Literal

import numpy as np
import torch
from pydantic import Field

from qdrl.algorithms.base import Algorithm, make_champion, require_novelty_archive, restored_champion
from qdrl.algorithms.evolution_strategy import EvolutionStrategySettings, Mean, centred_ranks
from qdrl.archives.admission import All
from qdrl.archives.base import AnyArchive
from qdrl.archives.novelty import novelty
from qdrl.archives.novelty_archive import NoveltyArchive
from qdrl.errors import UserError
from qdrl.evaluation import Candidates, Evaluation
from qdrl.genomes.noise import share_noise, source_for
from qdrl.parallel.exchange import LOCAL, Exchange
from qdrl.parallel.ranks import Ranks
from qdrl.streams import Purpose, Streams
from qdrl.tasks.base import Task

Share = Annotated[float, Field(ge=0, le=1)]


class NoveltyEsSettings(EvolutionStrategySettings):
    """Settings of the family; defaults are those of Conti et al. 2018 on Humanoid."""

    name: str = "novelty_es"
    """Name of the algorithm: "novelty_es"."""
    objective: Literal["ns", "nsr", "nsra"] = "nsra"
    """Objective: "ns" (novelty), "nsr" (novelty and fitness) or "nsra" (with an adaptive weight)."""
    means: Annotated[int, Field(ge=1, le=1000)] = 5
    """Number of means."""
    mean_rows: Annotated[int, Field(ge=1, le=10_000)] = 5
    """Episodes of a mean that has moved."""
    selection: Literal["novelty", "turns"] = "novelty"
    """Which mean moves: by "novelty", or in "turns"."""
    reward_weight: Share = 1.0
    """Weight of the fitness in nsra in the first generation."""
    weight_step: Share = 0.05
    """Step by which the weight of the fitness changes."""
    patience: Annotated[int, Field(ge=1)] = 50
    """Steps without a fitter mean after which it shrinks."""


class NoveltyEs(Algorithm):
    """See `qdrl.algorithms.base.Algorithm`.

    Attributes:
        means: the means, with an optimiser each.
        reward_weight: of nsra, as it stands.

    Args:
        task: gives the first means.
        archive: of what means did; its `k` says how many neighbours count.
        streams: the run's random numbers.
        settings: see `NoveltyEsSettings`.

    Raises:
        UserError: the archive is of cells, or does not let everyone in.
    """

    Settings = NoveltyEsSettings
    settings: NoveltyEsSettings
    archive: NoveltyArchive
    emitters = ("perturbation", "mean")

    def __init__(self, task: Task, archive: AnyArchive, streams: Streams, settings: NoveltyEsSettings) -> None:
        super().__init__(task, require_novelty_archive(archive, settings.name), streams, settings)
        if not isinstance(self.archive.rule, All):
            raise UserError(f"archive.rule: {settings.name} needs 'all': its archive holds what every mean did")
        self._noise = source_for(settings.noise, task.parameters)
        firsts = [task.initial(streams.generator(Purpose.INITIAL, 0, index)) for index in range(settings.means)]
        scale = np.float32(settings.initial == "random")
        self.means = [Mean(first * scale, settings, streams, self._noise) for first in firsts]
        self.reward_weight = settings.reward_weight
        self._due = list(range(settings.means))  # means that have moved and were not evaluated since
        self._moving = 0  # the mean that is perturbed
        self._behaviour = np.full((settings.means, len(task.spec.axes)), np.nan)  # what each mean did last
        self._entry = np.full(settings.means, -1)  # its entry in the archive, counted from the run's beginning
        self._entries = 0
        self._best, self._waited = -np.inf, 0

    @property
    def batch_size(self) -> int:
        """Rows of this generation: episodes of means that have moved, or perturbations."""
        return len(self._due) * self.settings.mean_rows if self._due else self.settings.batch_size

    def share_memory(self, ranks: Ranks) -> None:
        """Collective. Have the noise table once a node."""
        share_noise(self._noise, ranks)

    def ask(self, rows: range | None = None) -> Candidates:
        rows = range(self.batch_size) if rows is None else rows
        if self._due:
            whole = [self.means[mean].genome for mean in self._due]
            genomes: Any = torch.stack([whole[row // self.settings.mean_rows] for row in rows] or whole)[: len(rows)]
        else:
            genomes = self.means[self._moving].perturbed(self.generation, rows)
        return self.make_candidates(rows, genomes, "mean" if self._due else "perturbation")

    def tell(self, evaluation: Evaluation, exchange: Exchange = LOCAL) -> dict[str, float]:
        self.check_turn(evaluation)
        added = self._welcome(evaluation) if self._due else self._step(evaluation, exchange)
        self.generation += 1
        return {
            "added_mean": float(added),
            "champion_fitness": self._best if np.isfinite(self._best) else np.nan,
            "reward_weight": self.reward_weight,
            "moving_mean": float(self._moving),
        }

    def state_dict(self) -> dict[str, Any]:
        return {
            "generation": self.generation,
            "means": {str(index): mean.state_dict() for index, mean in enumerate(self.means)},
            "reward_weight": self.reward_weight,
            "due": np.array(self._due, np.int64),
            "moving": self._moving,
            "behaviour": self._behaviour.copy(),
            "entry": self._entry.copy(),
            "entries": self._entries,
            "best": self._best,
            "waited": self._waited,
            "champion": self.champion or {},
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore what `state_dict` returned.

        Raises:
            ValueError: a shape is that of other settings, or a mean does not exist.
        """
        self.generation, self._moving, self._entries, self._waited = (
            int(state[name]) for name in ("generation", "moving", "entries", "waited")
        )
        for index, mean in enumerate(self.means):
            mean.load_state_dict(state["means"][str(index)])
        self.reward_weight, self._best = float(state["reward_weight"]), float(state["best"])
        self._due = np.asarray(state["due"], np.int64).tolist()
        if wrong := {self._moving, *self._due} - set(range(len(self.means))):
            raise ValueError(f"there is no mean {min(wrong)} among {len(self.means)}")
        behaviour, entry = np.array(state["behaviour"], np.float64), np.array(state["entry"], np.int64)
        if behaviour.shape != self._behaviour.shape or entry.shape != self._entry.shape:
            raise ValueError(f"behaviour {behaviour.shape} and entries {entry.shape} are those of other means")
        self._behaviour, self._entry = behaviour, entry
        self.champion = restored_champion(state["champion"], len(self.means[0].genome))

    def _step(self, evaluation: Evaluation, exchange: Exchange) -> int:
        """Collective. After perturbations: their mean moves."""
        fitness, descriptor = evaluation.fitness.cpu().numpy(), evaluation.descriptor.cpu().numpy()
        new = np.full(len(fitness), np.nan)
        known = np.isfinite(descriptor).all(axis=1)
        new[known] = novelty(descriptor[known], self.archive.descriptor.cpu().numpy(), self.archive.k)
        fit, far = centred_ranks(fitness), centred_ranks(new)
        share = {"ns": 0.0, "nsr": 0.5, "nsra": self.reward_weight}[self.settings.objective]
        self.means[self._moving].improve(evaluation.generation, share * fit + (1 - share) * far, exchange)
        self._due = [self._moving]
        return 0

    def _welcome(self, evaluation: Evaluation) -> int:
        """After episodes of means: what they did enters the archive, and the next one to move is drawn."""
        rows = self.settings.mean_rows
        fitness = evaluation.fitness.cpu().numpy().reshape(-1, rows)
        descriptor = evaluation.descriptor.cpu().numpy().reshape(len(fitness), rows, -1)
        added = 0
        for mean, scores, places, seeds in zip(
            self._due, fitness, descriptor, evaluation.seeds.reshape(-1, rows), strict=True
        ):
            alive = np.isfinite(scores)
            if not alive.any():
                continue  # it stays where it was known to be
            self._behaviour[mean] = places[alive].mean(axis=0)
            self.archive.add(
                self.means[mean].genome[None],
                torch.tensor([scores[alive].mean()]),
                torch.from_numpy(self._behaviour[mean][None]),
                evaluation_seed=seeds[int(alive.argmax())],
                generation=evaluation.generation,
                emitter=self.emitters.index("mean"),
                n_evaluations=int(alive.sum()),
                fitness_std=torch.from_numpy(_spread(scores[alive])[None]),
                descriptor_std=torch.from_numpy(_spread(places[alive])[None]),
            )
            self._entry[mean] = self._entries
            self._entries += 1
            added += 1
            self._note(self.means[mean], scores[alive], evaluation.generation)
        self._due = []
        self._moving = self._next()
        return added

    def _note(self, mean: Mean, scores: np.ndarray, generation: int) -> None:
        """A mean was evaluated: is it the fittest, and what does that say of the weight of fitness?"""
        step = self.settings.weight_step
        if scores.mean() > self._best:
            self._best, self._waited = float(scores.mean()), 0
            self.champion = make_champion(scores, generation, genome=mean.genome.numpy().copy())
            self.reward_weight = min(1.0, self.reward_weight + step)
            return
        self._waited += 1
        if self._waited >= self.settings.patience:
            self.reward_weight, self._waited = max(0.0, self.reward_weight - step), 0

    def _next(self) -> int:
        """The mean to move."""
        count = len(self.means)
        if self.settings.selection == "turns":
            return (self._moving + 1) % count
        known = np.isfinite(self._behaviour).all(axis=1)
        chances = np.zeros(count)
        oldest = self._entries - len(self.archive)  # entries that a full archive has dropped
        own = np.where(self._entry >= oldest, self._entry - oldest, -1)
        if known.any():
            described = self.archive.descriptor.cpu().numpy()
            chances[known] = novelty(self._behaviour[known], described, self.archive.k, own=own[known])
        if not np.isfinite(chances).all() or chances.sum() == 0:
            chances = np.ones(count)
        generator = self.streams.generator(Purpose.MEAN, self.generation)
        return int(generator.choice(count, p=chances / chances.sum()))


def _spread(values: np.ndarray) -> np.ndarray:
    """Standard deviation over rows; NaN of a single one."""
    return np.asarray(values.std(axis=0)) if len(values) > 1 else np.full(values.shape[1:], np.nan)
