"""NS-ES, NSR-ES and NSRA-ES (Conti et al. 2018): evolution strategies that maximise novelty, or novelty and fitness.

Paper: https://arxiv.org/abs/1712.06560.

There are `means` means. The archive holds the descriptor of each mean after each of its updates
(`archive.kind = "novelty"`, `rule = "all"`). The novelty of a perturbation is its mean distance to its nearest
neighbours in the archive. The mean to update next is drawn with a probability proportional to its novelty. It takes one
step of an evolution strategy on

    ns      ranks of novelty
    nsr     the mean of the ranks of novelty and of fitness
    nsra    reward_weight * ranks of fitness + (1 - reward_weight) * ranks of novelty

The weight of nsra grows when the updated mean is fitter than all means before, and shrinks after `patience` updates
without such an improvement. The generation after each update evaluates the updated mean over `mean_rows` episodes, and
their mean descriptor enters the archive.

Before the next mean is drawn, the authors' code evaluates all means again and compares these behaviours with the whole
archive: `reroll_means = true`. By default the behaviours stored last are compared, and a mean's own latest entry is not
its neighbour.

One difference from the authors' code remains: all means share the running statistics of observations.
"""

from collections.abc import Mapping
from typing import Annotated, Any, Literal

import numpy as np
import torch
from pydantic import Field

from qdrl.algorithms.base import Algorithm, Workload, require_novelty_archive
from qdrl.algorithms.champions import make_champion, restored_champion
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
    """Settings of the family.

    Defaults are those of the authors' code on Humanoid (configurations/humanoid_nses.json of
    https://github.com/uber-research/deep-neuroevolution), except for `objective` and `reroll_means`.
    """

    name: str = "novelty_es"
    """Name of the algorithm: "novelty_es"."""
    objective: Literal["ns", "nsr", "nsra"] = "nsra"
    """Objective: "ns" (novelty), "nsr" (novelty and fitness) or "nsra" (novelty and fitness, adaptive weight)."""
    means: Annotated[int, Field(ge=1, le=1000)] = 5
    """Number of means."""
    mean_rows: Annotated[int, Field(ge=1, le=10_000)] = 5
    """Episodes that evaluate a mean after its update."""
    selection: Literal["novelty", "turns"] = "novelty"
    """Choice of the mean to update: "novelty", at random in proportion to novelty, or "turns", in rotation."""
    reroll_means: bool = False
    """Evaluate every mean over `mean_rows` further episodes before the mean to update is drawn by novelty, as the
    authors' code does. These episodes count in every budget, and enter neither the archive nor the champion's score."""
    reward_weight: Share = 1.0
    """Initial weight of fitness in nsra."""
    weight_step: Share = 0.05
    """Amount by which the weight of fitness grows or shrinks."""
    patience: Annotated[int, Field(ge=1)] = 50
    """Number of evaluations of means without a new best fitness after which the weight of fitness shrinks."""


class NoveltyEs(Algorithm):
    """NS-ES, NSR-ES or NSRA-ES: several means, one of which is updated at a time.

    Attributes:
        means: the means, each with its optimiser.
        reward_weight: current weight of fitness in nsra, in [0, 1].

    Args:
        task: draws the initial means.
        archive: a novelty archive of the means' descriptors; novelty uses its `k` nearest neighbours.
        streams: the run's random numbers.
        settings: settings of the algorithm.

    Raises:
        UserError: the archive has cells, or its rule is not "all".
    """

    Settings = NoveltyEsSettings
    settings: NoveltyEsSettings
    archive: NoveltyArchive
    emitters = ("perturbation", "mean")

    def __init__(self, task: Task, archive: AnyArchive, streams: Streams, settings: NoveltyEsSettings) -> None:
        super().__init__(task, require_novelty_archive(archive, settings.name), streams, settings)
        if not isinstance(self.archive.rule, All):
            raise UserError(f"archive.rule: {settings.name} needs 'all': it archives the behaviour of every mean")
        self._noise = source_for(settings.noise, task.parameters)
        firsts = [task.initial(streams.generator(Purpose.INITIAL, 0, index)) for index in range(settings.means)]
        scale = np.float32(settings.initial == "random")
        self.means = [Mean(first * scale, settings, streams, self._noise) for first in firsts]
        self.reward_weight = settings.reward_weight
        self._due = list(range(settings.means))  # means that were updated and not yet evaluated
        self._moving = 0  # index of the mean that is perturbed
        self._behaviour = np.full((settings.means, len(task.spec.axes)), np.nan)  # latest descriptor of each mean
        self._entry = np.full(settings.means, -1)  # number of each mean's latest entry, from the run's start
        self._entries = 0
        self._best, self._waited = -np.inf, 0

    @property
    def batch_size(self) -> int:
        """Return the number of rows in the next generation: episodes of updated means, or perturbations."""
        return len(self._evaluated()) * self.settings.mean_rows if self._due else self.settings.batch_size

    @classmethod
    def workload(cls, settings: NoveltyEsSettings) -> Workload:
        """Return the work that settings state."""
        again = settings.means if settings.reroll_means else 0
        first, later = ((count + again) * settings.mean_rows for count in (settings.means, 1))
        return Workload(
            rows=max(settings.batch_size, first),
            further_rows=min(settings.batch_size, later),
            generations=2,
            noise_table=settings.noise.table_size,
        )

    def share_memory(self, ranks: Ranks) -> None:
        """Create the noise table once per node. Collective."""
        share_noise(self._noise, ranks)

    def ask(self, rows: range | None = None) -> Candidates:
        """Return `mean_rows` copies of each updated mean if there are any, otherwise perturbations of one mean."""
        rows = range(self.batch_size) if rows is None else rows
        if self._due:
            whole = [self.means[mean].genome for mean in self._evaluated()]
            genomes: Any = torch.stack([whole[row // self.settings.mean_rows] for row in rows] or whole)[: len(rows)]
        else:
            genomes = self.means[self._moving].perturbed(self.generation, rows)
        return self.make_candidates(rows, genomes, "mean" if self._due else "perturbation")

    def tell(self, evaluation: Evaluation, exchange: Exchange = LOCAL) -> dict[str, float]:
        """Add evaluated means to the archive, or update the perturbed mean. Collective.

        Returns:
            `added_mean`, entries added; `champion_fitness`, the best mean fitness so far; `reward_weight`;
            `moving_mean`, the index of the mean that is perturbed next.
        """
        self.check_turn(evaluation)
        added = self._add_means(evaluation) if self._due else self._step(evaluation, exchange)
        self.generation += 1
        return {
            "added_mean": float(added),
            "champion_fitness": self._best if np.isfinite(self._best) else np.nan,
            "reward_weight": self.reward_weight,
            "moving_mean": float(self._moving),
        }

    def state_dict(self) -> dict[str, Any]:
        """Return the means with their optimisers, their latest entries, and the state of nsra."""
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
        """Restore the state that `state_dict` returned.

        Raises:
            KeyError: a mean, or an array of the champion, is missing.
            ValueError: an array has another shape, or the index of a mean is out of range.
        """
        self.generation, self._moving, self._entries, self._waited = (
            int(state[name]) for name in ("generation", "moving", "entries", "waited")
        )
        for index, mean in enumerate(self.means):
            mean.load_state_dict(state["means"][str(index)])
        self.reward_weight, self._best = float(state["reward_weight"]), float(state["best"])
        self._due = np.asarray(state["due"], np.int64).tolist()
        if wrong := {self._moving, *self._due} - set(range(len(self.means))):
            raise ValueError(f"the index of a mean is {min(wrong)}, expected 0 to {len(self.means) - 1}")
        behaviour, entry = np.array(state["behaviour"], np.float64), np.array(state["entry"], np.int64)
        if behaviour.shape != self._behaviour.shape or entry.shape != self._entry.shape:
            raise ValueError(
                f"behaviour and entry have shapes {behaviour.shape} and {entry.shape}, expected"
                f" {self._behaviour.shape} and {self._entry.shape}"
            )
        self._behaviour, self._entry = behaviour, entry
        self.champion = restored_champion(state["champion"], len(self.means[0].genome))

    def _step(self, evaluation: Evaluation, exchange: Exchange) -> int:
        """Update the perturbed mean; return 0, the number of added entries. Collective."""
        fitness, descriptor = evaluation.fitness.cpu().numpy(), evaluation.descriptor.cpu().numpy()
        new = np.full(len(fitness), np.nan)
        known = np.isfinite(descriptor).all(axis=1)
        new[known] = novelty(descriptor[known], self.archive.descriptor.cpu().numpy(), self.archive.k)
        fit, far = centred_ranks(fitness), centred_ranks(new)
        share = {"ns": 0.0, "nsr": 0.5, "nsra": self.reward_weight}[self.settings.objective]
        self.means[self._moving].improve(evaluation.generation, share * fit + (1 - share) * far, exchange)
        self._due = [self._moving]
        return 0

    def _add_means(self, evaluation: Evaluation) -> int:
        """Add the evaluated means to the archive and choose the next mean; return the number of added entries."""
        rows, due = self.settings.mean_rows, len(self._due)
        fitness = evaluation.fitness.cpu().numpy().reshape(-1, rows)
        descriptor = evaluation.descriptor.cpu().numpy().reshape(len(fitness), rows, -1)
        added = 0
        steps = evaluation.steps.cpu().numpy().reshape(-1, rows)
        seeds_of = evaluation.seeds.reshape(-1, rows)
        for mean, scores, places, lengths, seeds in zip(
            self._due, fitness[:due], descriptor[:due], steps[:due], seeds_of[:due], strict=True
        ):
            alive = np.isfinite(scores)
            if not alive.any():
                continue  # all episodes failed: the latest known descriptor is kept
            self._behaviour[mean] = places[alive].mean(axis=0)
            self.archive.add(
                self.means[mean].genome[None],
                torch.tensor([scores[alive].mean()]),
                torch.from_numpy(self._behaviour[mean][None]),
                evaluation_seed=seeds[int(alive.argmax())],
                generation=evaluation.generation,
                emitter=self.emitters.index("mean"),
                n_evaluations=int(alive.sum()),
                steps=float(lengths[alive].mean()),
                fitness_std=torch.from_numpy(_std(scores[alive])[None]),
                descriptor_std=torch.from_numpy(_std(places[alive])[None]),
            )
            self._entry[mean] = self._entries
            self._entries += 1
            added += 1
            self._update_weight(self.means[mean], scores[alive], evaluation.generation)
        for mean, scores, places in zip(self._evaluated()[due:], fitness[due:], descriptor[due:], strict=True):
            if (alive := np.isfinite(scores)).any():
                self._behaviour[mean] = places[alive].mean(axis=0)
        self._due = []
        self._moving = self._next_mean()
        return added

    def _evaluated(self) -> list[int]:
        """Return the means of a generation of means: the updated ones, then all of them if they are rerolled."""
        again = self.settings.reroll_means and self.settings.selection == "novelty"
        return self._due + (list(range(len(self.means))) if again else [])

    def _update_weight(self, mean: Mean, scores: np.ndarray, generation: int) -> None:
        """Update the champion and the weight of fitness from the episodes of a mean, `(episodes,)`."""
        step = self.settings.weight_step
        if scores.mean() > self._best:
            self._best, self._waited = float(scores.mean()), 0
            self.champion = make_champion(scores, generation, genome=mean.genome.numpy().copy())
            self.reward_weight = min(1.0, self.reward_weight + step)
            return
        self._waited += 1
        if self._waited >= self.settings.patience:
            self.reward_weight, self._waited = max(0.0, self.reward_weight - step), 0

    def _next_mean(self) -> int:
        """Return the index of the mean to update next."""
        count = len(self.means)
        if self.settings.selection == "turns":
            return (self._moving + 1) % count
        known = np.isfinite(self._behaviour).all(axis=1)
        weights = np.zeros(count)
        oldest = self._entries - len(self.archive)  # number of entries that a full archive has dropped
        own = np.where((self._entry >= oldest) & (not self.settings.reroll_means), self._entry - oldest, -1)
        if known.any():
            described = self.archive.descriptor.cpu().numpy()
            weights[known] = novelty(self._behaviour[known], described, self.archive.k, own=own[known])
        if not np.isfinite(weights).all() or weights.sum() == 0:
            weights = np.ones(count)
        generator = self.streams.generator(Purpose.MEAN, self.generation)
        return int(generator.choice(count, p=weights / weights.sum()))


def _std(values: np.ndarray) -> np.ndarray:
    """Return the standard deviation over rows; NaN for a single row."""
    return np.asarray(values.std(axis=0)) if len(values) > 1 else np.full(values.shape[1:], np.nan)
