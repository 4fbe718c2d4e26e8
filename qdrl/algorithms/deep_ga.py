"""Deep GA (Such et al. 2017, "Deep Neuroevolution", algorithm 1): truncation selection and Gaussian mutation.

Paper: https://arxiv.org/abs/1712.06567.

A genome is a lineage: the seed of its initial genome, and the seed and standard deviation of each mutation. Both are
drawn from random streams keyed by row, so every rank computes all lineages itself and ranks never exchange weights.

One generation of the algorithm takes two generations of the run. The first evaluates each child over
`episodes_per_child` episodes. The second evaluates the candidates, which are the elite so far and the best children,
over `candidate_episodes` episodes each. These episodes count in every budget. The candidate with the highest mean
fitness in these episodes alone is the elite, so that one lucky evaluation does not decide. The best children and the
elite are the next parents. All children are mutated, as in the authors' code; with `copy_elite` an unmodified copy of
the elite is evaluated beside them, as in the paper.

With `objective = "novelty"` the algorithm is GA-NS. The parents are the most novel children: those with the largest
mean distance to their nearest neighbours in the archive and among the children (Lehman and Stanley 2011,
https://doi.org/10.1162/EVCO_a_00025). The elite is still the fittest genome, but it is not made a parent.

With `parents = 0` the algorithm is random search. Every child competes for a cell of the archive. Selection uses the
archive only if the objective is novelty.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch

from qdrl.algorithms.base import Algorithm, Workload, require_novelty_archive
from qdrl.algorithms.champions import make_champion
from qdrl.algorithms.deep_ga_selection import best_candidate, best_first, novelty_of_rows
from qdrl.algorithms.deep_ga_settings import DeepGaSettings
from qdrl.algorithms.episode_means import mean_over_episodes
from qdrl.archives.base import AnyArchive
from qdrl.archives.lineages import StoredLineages
from qdrl.evaluation import Candidates, Evaluation
from qdrl.genomes.ancestry import NO_PARENT, Ancestry, Node, columns_of
from qdrl.genomes.lineage_weights import Decoder, Offspring
from qdrl.genomes.noise import share_noise, source_for
from qdrl.parallel.exchange import LOCAL, Exchange
from qdrl.parallel.ranks import Ranks
from qdrl.streams import Purpose, Streams
from qdrl.tasks.base import Task

_SPARE = 10_000  # growth of the tree, in nodes, below which it is never pruned


class DeepGa(Algorithm):
    """Deep GA, GA-NS or random search, on genomes stored as lineages.

    Attributes:
        ancestry: tree of all lineages in use; the archive's genomes are numbers of its nodes.
        parents: `(k,)` int64 nodes, best first.
        elite: node of the elite, -1 if there is none.

    Args:
        task: draws initial genomes.
        archive: archive of nodes that `tell` inserts into.
        streams: the run's random numbers.
        settings: settings of the algorithm.

    Raises:
        UserError: the objective is novelty but the archive has cells, or a noise table is shorter than a genome.
    """

    Settings = DeepGaSettings
    settings: DeepGaSettings
    emitters = ("random", "mutation", "candidate")
    holds_lineages = True

    def __init__(self, task: Task, archive: AnyArchive, streams: Streams, settings: DeepGaSettings) -> None:
        super().__init__(task, archive, streams, settings)
        self.ancestry = Ancestry()
        self.parents, self.elite = np.empty(0, np.int64), -1
        self._elite_scores, self._elite_of = np.empty(0), -1  # its fitness values, and their generation
        wants_novelty = settings.objective == "novelty"
        self._entries = require_novelty_archive(archive, "objective novelty") if wants_novelty else None
        self._decoder = Decoder(self.ancestry, task.initial, source_for(settings.noise, task.parameters))
        self._candidates = np.empty(0, np.int64)  # nodes under comparison; none while children are evaluated
        self._ranked = np.empty(0, np.int64)  # the children's nodes, best first, while candidates are compared
        self._births = 0  # number of generations of children so far
        self._pruned = 0  # number of nodes after the last pruning

    @property
    def batch_size(self) -> int:
        """Return the number of rows in the next generation: children, or episodes of candidates."""
        if len(self._candidates):
            return len(self._candidates) * self.settings.candidate_episodes
        return (self.settings.batch_size + (self._copied() is not None)) * self.settings.episodes_per_child

    @classmethod
    def workload(cls, settings: DeepGaSettings) -> Workload:
        """Return the work that settings state."""
        children = (settings.batch_size + settings.copy_elite) * settings.episodes_per_child
        candidates = settings.candidates * settings.candidate_episodes
        return Workload(
            rows=max(children, candidates),
            further_rows=min(children, candidates),
            generations=2 if candidates else 1,
            noise_table=settings.noise.table_size,
        )

    def share_memory(self, ranks: Ranks) -> None:
        """Create the noise table once per node. Collective."""
        share_noise(self._decoder.noise, ranks)

    def ask(self, rows: range | None = None) -> Candidates:
        """Return `episodes_per_child` or `candidate_episodes` rows of each child or candidate, decoded on access."""
        rows = range(self.batch_size) if rows is None else rows
        parents, seeds, sigmas, emitter = self._plan(rows)
        return self.make_candidates(rows, Offspring(self._decoder, parents, seeds, sigmas), emitter)

    def tell(self, evaluation: Evaluation, exchange: Exchange = LOCAL) -> dict[str, float]:  # noqa: ARG002
        """Insert children into the archive and choose the candidates, or choose the elite among the candidates.

        Returns:
            The counts of `insert`; `candidate_evaluations`, episodes of candidates in this generation;
            `champion_fitness`, the elite's mean fitness; `champion_mutations`, the mutations in its lineage.
        """
        self.check_turn(evaluation)
        candidates = float(len(self._candidates) * self.settings.candidate_episodes)
        counts = self._compare(evaluation) if len(self._candidates) else self._select(evaluation)
        self.generation += 1
        self._prune()
        return {
            **counts,
            "candidate_evaluations": candidates,
            "champion_fitness": float(self._elite_scores.mean()) if len(self._elite_scores) else np.nan,
            "champion_mutations": float(len(self.ancestry.path(self.elite)) - 1) if self.elite >= 0 else np.nan,
        }

    @property
    def champion(self) -> dict[str, np.ndarray] | None:
        """Return the elite in the format of `StoredArchive.champion`; None if there is none."""
        if self.elite < 0:
            return None
        lineage = self.ancestry.lineage(self.elite)
        return make_champion(self._elite_scores, self._elite_of, seeds=lineage.seeds, sigmas=lineage.sigmas)

    def champion_genome(self) -> np.ndarray:
        """Return the elite's weights, decoded from its lineage."""
        return self._decoder.genome(self.elite)

    def lineages(self, genomes: np.ndarray) -> StoredLineages:
        """Return the lineages of genomes in the format of archive files.

        Args:
            genomes: `(n, 1)` int64 nodes, genomes of the archive.
        """
        arrays = self.ancestry.arrays_of(genomes[:, 0].tolist(), self.task.parameters)
        return StoredLineages(noise=self.settings.noise.model_dump(), **arrays)

    def state_dict(self) -> dict[str, Any]:
        """Return the tree of lineages, the elite, and the nodes of parents, candidates, children and archive."""
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
        """Restore the state that `state_dict` returned.

        Raises:
            ValueError: the arrays do not form a tree, a node is not in it, or a stored genome has another length.
        """
        self.ancestry.load_state_dict(state["ancestry"])
        self.generation, self._births, self._pruned = (int(state[name]) for name in ("generation", "births", "pruned"))
        self.elite, self._elite_of = int(state["elite"]), int(state["elite_of"])
        self._elite_scores = np.asarray(state["elite_scores"], np.float64)
        self.parents, self._candidates, self._ranked = (
            np.asarray(state[name], np.int64) for name in ("parents", "candidates", "ranked")
        )
        nodes = {"parents": self.parents, "candidates": self._candidates, "ranked": self._ranked}
        nodes["the elite"] = np.array([self.elite] if self.elite >= 0 else [], np.int64)
        nodes["the archive"] = np.asarray(state["nodes"]).ravel()
        self.ancestry.check(nodes, self.task.parameters)
        self._decoder.hold([*self.parents.tolist(), *self._candidates.tolist()])

    def _plan(self, rows: Sequence[int]) -> tuple[list[int], list[int], list[float], str]:
        """Return parent, seed and standard deviation of each row, and their emitter; identical on every rank."""
        if len(self._candidates):
            nodes = [int(self._candidates[row // self.settings.candidate_episodes]) for row in rows]
            return nodes, [0] * len(nodes), [0.0] * len(nodes), "candidate"
        numbers = [row // self.settings.episodes_per_child for row in rows]
        children = self._children(sorted(set(numbers)))
        planned = [children[number] for number in numbers]
        return *columns_of(planned), "mutation" if len(self.parents) else "random"

    def _children(self, numbers: Sequence[int]) -> dict[int, Node]:
        """Return the children by number; the copy of the elite has the last number."""
        sigma, noise = float(np.float32(self.settings.mutation.at(self._births))), self._decoder.noise
        children: dict[int, Node] = {}
        for number in numbers:
            generator = self.streams.generator(Purpose.MUTATION, self.generation, number)
            if len(self.parents) == 0:
                children[number] = Node(NO_PARENT, int(generator.integers(2**32)), 0.0)
            elif number < self.settings.batch_size:
                parent = int(self.parents[generator.integers(len(self.parents))])
                children[number] = Node(parent, noise.draw(generator, self.task.parameters), sigma)
            elif (copied := self._copied()) is not None:
                children[number] = Node(copied, 0, 0.0)
        return children

    def _copied(self) -> int | None:
        """Return the node of which the children include an unmodified copy; None for no copy."""
        if not self.settings.copy_elite or len(self.parents) == 0:
            return None
        return self.elite if self._entries is None else int(self.parents[0])  # the most novel parent is the first

    def _select(self, evaluation: Evaluation) -> dict[str, float]:
        """Insert the children into the archive; choose the candidates, or elite and parents if there are none."""
        episodes, scores, columns = self.settings.episodes_per_child, evaluation.fitness.cpu().numpy(), {}
        if episodes > 1:
            evaluation, columns = mean_over_episodes(evaluation, episodes)
        nodes = self._add_children()
        squared, handles = self.settings.distance == "squared_euclidean", torch.from_numpy(nodes)[:, None]
        new = None if self._entries is None else novelty_of_rows(evaluation, self._entries, squared=squared)
        counts = self.insert(evaluation, ~evaluation.failed, handles, **columns)
        self._births += 1
        fitness = evaluation.fitness.cpu().numpy()
        fittest = best_first(fitness)
        self._ranked = nodes[fittest if new is None else best_first(new)]
        if not self.settings.candidate_episodes:
            if len(fittest) and not (len(self._elite_scores) and self._elite_scores.mean() >= fitness[fittest[0]]):
                of_best = scores.reshape(-1, episodes)[fittest[0]]
                self.elite, self._elite_scores = int(nodes[fittest[0]]), of_best[np.isfinite(of_best)]
                self._elite_of = evaluation.generation
            self._set_parents()
            return counts
        elite, best = [self.elite] if self.elite >= 0 else [], nodes[fittest]
        others = best[best != self.elite][: self.settings.candidates - len(elite)]
        self._candidates = np.array([*elite, *others], np.int64)
        self._decoder.hold([*self.parents.tolist(), *self._candidates.tolist()])
        return counts

    def _add_children(self) -> np.ndarray:
        """Add the children to the tree and return their nodes; the copy of the elite is the elite's own node."""
        children = self._children(range(self.settings.batch_size))
        nodes = self.ancestry.add(*columns_of(list(children.values())))
        copied = self._copied()
        return nodes if copied is None else np.append(nodes, copied)

    def _compare(self, evaluation: Evaluation) -> dict[str, float]:
        """Make the candidate with the best mean fitness the elite; failed episodes do not count."""
        scores = evaluation.fitness.cpu().numpy().reshape(len(self._candidates), -1)
        best, self._elite_scores = best_candidate(scores)
        self.elite = int(self._candidates[best])
        self._elite_of = evaluation.generation
        self._candidates = np.empty(0, np.int64)
        self._set_parents()
        return dict.fromkeys((f"{verb}_{name}" for verb in ("added", "improved") for name in self.emitters), 0.0)

    def _set_parents(self) -> None:
        """Set the next parents: the best children and, if the objective is fitness, the elite."""
        count = self.settings.parents
        if count and self.elite >= 0:
            best = self._ranked[:count].tolist()
            if self._entries is None and self.elite not in best:
                best = [self.elite, *best[: count - 1]]
            self.parents = np.array(best, np.int64) if best else self.parents
        self._ranked = np.empty(0, np.int64)
        self._rebase()
        self._decoder.hold(self.parents.tolist())

    def _rebase(self) -> None:
        """Store the genome of the parents' last common ancestor if its lineage exceeds `rebase_depth`."""
        depth = self.settings.rebase_depth
        shared = None if depth is None else self.ancestry.common_ancestor(self.parents.tolist())
        if depth is not None and shared is not None and len(self.ancestry.path(shared)) > depth:
            self.ancestry.rebase(shared, self._decoder.genome(shared))

    def _prune(self) -> None:
        """Remove unused nodes once the tree has grown to twice its size after the last pruning."""
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
