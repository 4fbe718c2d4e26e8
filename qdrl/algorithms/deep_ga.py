"""Deep GA (Such et al. 2017, "Deep Neuroevolution", algorithm 1): truncation selection and Gaussian mutation.

A genome is a lineage: the number of its first genome, and number and power of each mutation since. Every rank knows all
lineages, for what they need is drawn from the streams of rows; weights never cross ranks.

One of its generations is two of the engine's. First the children are evaluated once each. Then the candidates, the
elite so far and the best children, are evaluated over some episodes more, which count like all others: the mean over
these alone decides who is the elite, so that a child that was lucky once does not stay for ever. The best children and
the elite are the next parents. The elite is a parent, not a child: all children are mutated, as in the authors' code;
the paper writes one of them as its copy.

With `objective = "novelty"` it is GA-NS: parents are the children whose behaviour is newest, by their mean distance to
the nearest neighbours in the archive and among themselves (Lehman and Stanley 2011). The elite is still the fittest,
but no parent for that.

With no parents it is random search, by the same rules. Every child that was evaluated competes for a cell of the
archive, which has no say in who is selected unless the objective is novelty.
"""

from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Literal

import numpy as np
import torch
from pydantic import Field, model_validator

from qdrl.algorithms.base import Algorithm, make_champion, require_novelty_archive
from qdrl.archives.base import AnyArchive
from qdrl.archives.lineages import StoredLineages
from qdrl.archives.novelty import novelty
from qdrl.evaluation import Candidates, Evaluation
from qdrl.genomes.ancestry import NO_PARENT, Ancestry
from qdrl.genomes.lineage_weights import Decoder, Offspring
from qdrl.genomes.mutation import MutationPower
from qdrl.genomes.noise import KeyedNoise, Noise, share_noise, source_for
from qdrl.parallel.exchange import LOCAL, Exchange
from qdrl.parallel.ranks import Ranks
from qdrl.settings.base import SettingsModel
from qdrl.streams import Purpose, Streams
from qdrl.tasks.base import Task

_SPARE = 10_000  # nodes that are not worth a pruning


class DeepGaSettings(SettingsModel):
    """Settings of Deep GA; defaults are those of Such et al. 2017 on Atari."""

    name: str = "deep_ga"
    """Name of the algorithm: "deep_ga"."""
    objective: Literal["fitness", "novelty"] = "fitness"
    """What makes parents: "fitness", or "novelty", which needs an archive of that kind."""
    batch_size: Annotated[int, Field(ge=1, le=1_000_000)] = 1000
    """Children a generation."""
    parents: Annotated[int, Field(ge=0, le=1_000_000)] = 20
    """How many of the best are parents of the next, the elite among them; 0 for random search."""
    mutation: MutationPower = MutationPower()
    """Power of mutations."""
    candidates: Annotated[int, Field(ge=1, le=10_000)] = 10
    """Who may become the elite: the elite so far and the best children."""
    candidate_episodes: Annotated[int, Field(ge=0, le=10_000)] = 30
    """Episodes that decide among the candidates; 0 to go by what each reached once, which is enough where an episode
    has no chance in it."""
    noise: Noise = KeyedNoise()
    """Source of the noise."""
    rebase_depth: Annotated[int, Field(ge=1)] | None = None
    """Lineages of common ancestors longer than this start at a stored genome from then on."""

    @model_validator(mode="after")
    def _compares(self) -> "DeepGaSettings":
        if self.candidate_episodes and self.candidates < 2:
            raise ValueError("candidates must be at least 2, the elite so far and who may follow it")
        return self


class DeepGa(Algorithm):
    """See `qdrl.algorithms.base.Algorithm`.

    Attributes:
        ancestry: every lineage that is still needed; the archive's genomes are numbers of its nodes.
        parents: `(k,)` nodes, best first.
        elite: its node, -1 before there is one.

    Args:
        task: gives first genomes.
        archive: of nodes, filled by `tell`.
        streams: the run's random numbers.
        settings: see `DeepGaSettings`.

    Raises:
        UserError: the objective is novelty, the archive is of cells; or a noise table is shorter than a genome.
    """

    Settings = DeepGaSettings
    settings: DeepGaSettings
    emitters = ("random", "mutation", "candidate")
    holds_lineages = True

    def __init__(self, task: Task, archive: AnyArchive, streams: Streams, settings: DeepGaSettings) -> None:
        super().__init__(task, archive, streams, settings)
        self.ancestry = Ancestry()
        self.parents, self.elite = np.empty(0, np.int64), -1
        self._elite_scores, self._elite_of = np.empty(0), -1  # what it got, and in which generation
        self._seen = require_novelty_archive(archive, "objective novelty") if settings.objective == "novelty" else None
        self._decoder = Decoder(self.ancestry, task.initial, source_for(settings.noise, task.parameters))
        self._candidates = np.empty(0, np.int64)  # nodes under comparison; none while children are evaluated
        self._ranked = np.empty(0, np.int64)  # the children's nodes, best first, while candidates are compared
        self._births = 0  # generations of children so far
        self._pruned = 0  # nodes left by the last pruning

    @property
    def batch_size(self) -> int:
        """Rows of this generation: children, or episodes of candidates."""
        if len(self._candidates):
            return len(self._candidates) * self.settings.candidate_episodes
        return self.settings.batch_size

    def share_memory(self, ranks: Ranks) -> None:
        """Collective. Have the noise table once a node."""
        share_noise(self._decoder.noise, ranks)

    def ask(self, rows: range | None = None) -> Candidates:
        rows = range(self.batch_size) if rows is None else rows
        parents, seeds, sigmas, emitter = self._plan(rows)
        return self.make_candidates(rows, Offspring(self._decoder, parents, seeds, sigmas), emitter)

    def tell(self, evaluation: Evaluation, exchange: Exchange = LOCAL) -> dict[str, float]:  # noqa: ARG002
        self.check_turn(evaluation)
        candidates = float(len(self._candidates) * self.settings.candidate_episodes)
        counts = self._compare(evaluation) if len(self._candidates) else self._select(evaluation)
        self.generation += 1
        self._forget()
        return {
            **counts,
            "candidate_evaluations": candidates,
            "champion_fitness": float(self._elite_scores.mean()) if len(self._elite_scores) else np.nan,
            "champion_mutations": float(len(self.ancestry.path(self.elite)) - 1) if self.elite >= 0 else np.nan,
        }

    @property
    def champion(self) -> dict[str, np.ndarray] | None:
        """The elite as `StoredArchive.champion` keeps it; None before there is one."""
        if self.elite < 0:
            return None
        lineage = self.ancestry.lineage(self.elite)
        return make_champion(self._elite_scores, self._elite_of, seeds=lineage.seeds, sigmas=lineage.sigmas)

    def lineages(self, genomes: np.ndarray) -> StoredLineages:
        """The lineages of the archive's genomes, `(n, 1)` nodes, as a file keeps them."""
        lineages = [self.ancestry.lineage(int(node)) for node in genomes[:, 0]]
        keyframes = self.ancestry.keyframes
        return StoredLineages(
            offsets=np.cumsum([0, *(len(lineage) for lineage in lineages)]),
            seeds=np.concatenate([np.empty(0, np.uint32), *(lineage.seeds for lineage in lineages)]),
            sigmas=np.concatenate([np.empty(0, np.float32), *(lineage.sigmas for lineage in lineages)]),
            noise=self.settings.noise.model_dump(),
            keyframe_numbers=np.array(sorted(keyframes), np.int64),
            keyframes=np.array([keyframes[number] for number in sorted(keyframes)], np.float32).reshape(
                len(keyframes), self.task.parameters
            ),
        )

    def state_dict(self) -> dict[str, Any]:
        return {
            "generation": self.generation,
            "births": self._births,
            "pruned": self._pruned,
            "elite": self.elite,
            "elite_scores": self._elite_scores,
            "elite_of": self._elite_of,
            "parents": self.parents,
            "candidates": self._candidates,
            "ranked": self._ranked,
            "nodes": self.archive.state_dict()["genome"],
            "ancestry": self.ancestry.state_dict(),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore what `state_dict` returned.

        Raises:
            ValueError: the arrays are not those of a tree, or a node is not in it.
        """
        self.ancestry.load_state_dict(state["ancestry"])
        self.generation, self._births, self._pruned = (int(state[name]) for name in ("generation", "births", "pruned"))
        self.elite, self._elite_of = int(state["elite"]), int(state["elite_of"])
        self._elite_scores = np.asarray(state["elite_scores"], np.float64)
        self.parents, self._candidates, self._ranked = (
            np.asarray(state[name], np.int64) for name in ("parents", "candidates", "ranked")
        )
        self._check_nodes(state["nodes"])
        self._decoder.hold([*self.parents.tolist(), *self._candidates.tolist()])

    def _check_nodes(self, archived: Any) -> None:
        """Refuse nodes that are not in the tree, and keyframes that are not genomes of this task."""
        for name, nodes in {
            "the elite": [self.elite] if self.elite >= 0 else [],
            "parents": self.parents,
            "candidates": self._candidates,
            "ranked": self._ranked,
            "the archive": np.asarray(archived).ravel(),
        }.items():
            numbers = np.asarray(nodes)
            if len(numbers) and not 0 <= numbers.min() <= numbers.max() < len(self.ancestry):
                raise ValueError(f"a node of {name} is not among the {len(self.ancestry)} of the tree")
        for number, genome in self.ancestry.keyframes.items():
            if genome.shape != (self.task.parameters,):
                raise ValueError(f"keyframe {number} has shape {genome.shape}, expected ({self.task.parameters},)")

    def _plan(self, rows: Sequence[int]) -> tuple[list[int], list[int], list[float], str]:
        """Parent, number and power of each row, and who proposes them; the same on whichever rank asks."""
        if len(self._candidates):
            nodes = [int(self._candidates[row // self.settings.candidate_episodes]) for row in rows]
            return nodes, [0] * len(nodes), [0.0] * len(nodes), "candidate"
        generators = [self.streams.generator(Purpose.MUTATION, self.generation, row) for row in rows]
        if len(self.parents) == 0:
            return [NO_PARENT] * len(rows), [int(g.integers(2**32)) for g in generators], [0.0] * len(rows), "random"
        sigma, noise = float(np.float32(self.settings.mutation.at(self._births))), self._decoder.noise
        parents = [int(self.parents[generator.integers(len(self.parents))]) for generator in generators]
        return parents, [noise.draw(g, self.task.parameters) for g in generators], [sigma] * len(rows), "mutation"

    def _select(self, evaluation: Evaluation) -> dict[str, float]:
        """After the children: who competes to be the elite, and who is a parent if nobody has to compete."""
        parents, seeds, sigmas, _ = self._plan(range(self.batch_size))
        nodes = self.ancestry.add(parents, seeds, sigmas)
        new, handles = self._novelty(evaluation), torch.from_numpy(nodes)[:, None]
        counts = self.insert(evaluation, ~evaluation.failed, handles)
        self._births += 1
        fitness = evaluation.fitness.cpu().numpy()
        fittest = _best_first(fitness)
        self._ranked = nodes[fittest if new is None else _best_first(new)]
        if not self.settings.candidate_episodes:
            if len(fittest) and not (len(self._elite_scores) and self._elite_scores.mean() >= fitness[fittest[0]]):
                self.elite, self._elite_scores = int(nodes[fittest[0]]), fitness[fittest[:1]]
                self._elite_of = evaluation.generation
            self._succeed()
            return counts
        wanted = self.settings.candidates - (self.elite >= 0)
        elite = [self.elite] if self.elite >= 0 else []
        self._candidates = np.array([*elite, *nodes[fittest[:wanted]]], np.int64)
        self._decoder.hold([*self.parents.tolist(), *self._candidates.tolist()])
        return counts

    def _novelty(self, evaluation: Evaluation) -> np.ndarray | None:
        """Of each row `(rows,)`, NaN where it failed; None where it is not asked for."""
        if self._seen is None:
            return None
        descriptor = evaluation.descriptor.cpu().numpy()
        alive = np.flatnonzero(~evaluation.failed.cpu().numpy())
        known, found = self._seen.descriptor.cpu().numpy(), np.full(len(descriptor), np.nan)
        references = np.concatenate([known, descriptor[alive]])
        found[alive] = novelty(descriptor[alive], references, self._seen.k, own=len(known) + np.arange(len(alive)))
        return found

    def _compare(self, evaluation: Evaluation) -> dict[str, float]:
        """After the candidates' episodes: the elite is who did best on average; failed episodes do not count."""
        scores = evaluation.fitness.cpu().numpy().reshape(len(self._candidates), -1)
        known = np.isfinite(scores)
        means = np.where(known, scores, 0).sum(1) / np.maximum(known.sum(1), 1)
        means[~known.any(1)] = -np.inf
        best = int(means.argmax())  # of equal ones the first: the elite so far
        self.elite, self._elite_scores = int(self._candidates[best]), scores[best][known[best]]
        self._elite_of = evaluation.generation
        self._candidates = np.empty(0, np.int64)
        self._succeed()
        return dict.fromkeys((f"{verb}_{name}" for verb in ("added", "improved") for name in self.emitters), 0.0)

    def _succeed(self) -> None:
        """The next parents: the best children, the elite among them."""
        count = self.settings.parents
        if count and self.elite >= 0:
            best = self._ranked[:count].tolist()
            if self._seen is None and self.elite not in best:
                best = [self.elite, *best[: count - 1]]
            self.parents = np.array(best, np.int64) if best else self.parents
        self._ranked = np.empty(0, np.int64)
        self._rebase()
        self._decoder.hold(self.parents.tolist())

    def _rebase(self) -> None:
        """Keep the genome of all parents' last common ancestor, once its lineage is too long."""
        depth = self.settings.rebase_depth
        shared = None if depth is None else self.ancestry.common_ancestor(self.parents.tolist())
        if depth is not None and shared is not None and len(self.ancestry.path(shared)) > depth:
            self.ancestry.rebase(shared, self._decoder.genome(shared))

    def _forget(self) -> None:
        """Drop nodes that nobody needs any more, whenever there are twice as many as were needed last."""
        if len(self.ancestry) <= 2 * self._pruned + _SPARE:
            return
        cells = self.archive.occupied_cells
        held = self.archive.genomes_of(cells)[:, 0].tolist()
        own = [self.elite, *self.parents, *self._candidates, *self._ranked]
        numbers = self.ancestry.prune([*held, *(int(node) for node in own)])
        self._pruned = len(self.ancestry)
        self.archive.replace_genomes(cells, torch.from_numpy(numbers[held])[:, None])
        self.elite = int(numbers[self.elite]) if self.elite >= 0 else -1
        self.parents, self._candidates, self._ranked = (
            numbers[nodes] for nodes in (self.parents, self._candidates, self._ranked)
        )
        self._decoder.renumber(numbers)


def _best_first(scores: np.ndarray) -> np.ndarray:
    """Rows by falling score, the lower row first where equal; those that are NaN left out."""
    order = np.argsort(-scores, kind="stable")
    return order[~np.isnan(scores[order])]
