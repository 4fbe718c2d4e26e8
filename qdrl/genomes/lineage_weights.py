"""Weights of lineages, bit-identical on every CPU (Deep GA's compact encoding, https://arxiv.org/abs/1712.06567).

The weights are those of the initial genome or keyframe, to which the mutations are added in order, in float32. The
decoder caches the genomes of selected nodes; decoding a child of a cached genome adds a single mutation. The bits do
not depend on which genomes are cached.
"""

from collections.abc import Callable, Iterable, Sequence

import numpy as np
import torch
from torch import Tensor

from qdrl.genomes.ancestry import KEYFRAME, Ancestry
from qdrl.genomes.noise import NoiseSource
from qdrl.streams import generator_from_seed

Initial = Callable[[np.random.Generator], np.ndarray]
"""Draws an initial genome, `(parameters,)` float32, as `qdrl.tasks.base.Task.initial` does."""


class Decoder:
    """Computes the genomes of nodes of a tree.

    Args:
        ancestry: the tree; it may grow.
        initial: draws an initial genome.
        noise: the source of the mutations' noise.
    """

    def __init__(self, ancestry: Ancestry, initial: Initial, noise: NoiseSource) -> None:
        self._ancestry, self._initial, self.noise = ancestry, initial, noise
        self._held: dict[int, np.ndarray] = {}

    def genome(self, node: int) -> np.ndarray:
        """Return a copy of the genome of a node, `(parameters,)` float32."""
        tree, mutations = self._ancestry, []
        while node not in self._held and tree.parent[node] >= 0:
            mutations.append(node)
            node = int(tree.parent[node])
        genome = self._start(node)
        for mutated in reversed(mutations):
            self.noise.add(genome, int(tree.seed[mutated]), float(tree.sigma[mutated]))
        return genome

    def first(self, seed: int) -> np.ndarray:
        """Return the initial genome of a seed, `(parameters,)` float32."""
        return self._initial(generator_from_seed(seed))

    def hold(self, nodes: Iterable[int]) -> None:
        """Cache the genomes of these nodes, and of no others."""
        before = self._held
        self._held = {int(n): before[int(n)] if int(n) in before else self.genome(int(n)) for n in nodes}

    def renumber(self, numbers: np.ndarray) -> None:
        """Renumber the cached genomes after the tree was pruned.

        Args:
            numbers: `(nodes before,)` new numbers by old number, as `Ancestry.prune` returns them.
        """
        self._held = {int(numbers[node]): genome for node, genome in self._held.items() if numbers[node] >= 0}

    def _start(self, node: int) -> np.ndarray:
        if node in self._held:
            return self._held[node].copy()
        if self._ancestry.parent[node] == KEYFRAME:
            return self._ancestry.keyframes[int(self._ancestry.seed[node])].copy()
        return self.first(int(self._ancestry.seed[node]))


class Offspring:
    """Rows of genomes that are decoded on access; see `qdrl.evaluation.Genomes`.

    Args:
        decoder: decoder of the tree that contains the parents.
        parents: `(rows,)` nodes, -1 for initial genomes.
        seeds: `(rows,)` seed of each row's mutation or initial genome.
        sigmas: `(rows,)` power of each row's mutation; 0 for an unchanged copy of the parent.
    """

    def __init__(self, decoder: Decoder, parents: Sequence[int], seeds: Sequence[int], sigmas: Sequence[float]) -> None:
        self._decoder, self._rows = decoder, list(zip(parents, seeds, sigmas, strict=True))

    def take(self, rows: Iterable[int]) -> "Offspring":
        """Return the offspring of some of the rows, in the given order."""
        return Offspring(self._decoder, *zip(*(self._rows[row] for row in rows), strict=True))

    def __len__(self) -> int:
        """Return the number of rows."""
        return len(self._rows)

    def __getitem__(self, rows: slice) -> Tensor:
        """Return the genomes of these rows, `(rows, parameters)` float32."""
        some = self._rows[rows]
        if not some:
            return torch.empty(0, len(self._decoder.first(0)))
        return torch.from_numpy(np.stack([self._row(*row) for row in some]))

    def _row(self, parent: int, seed: int, sigma: float) -> np.ndarray:
        if parent < 0:
            return self._decoder.first(seed)
        genome = self._decoder.genome(parent)
        if sigma:
            self._decoder.noise.add(genome, seed, sigma)
        return genome
