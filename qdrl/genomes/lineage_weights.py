"""From lineages to weights: bit for bit the same on any CPU, along whatever path.

A genome is its first genome and then its mutations, added one after the other in float32. A child of a genome that is
held costs one mutation.
"""

from collections.abc import Callable, Iterable, Sequence

import numpy as np
import torch
from torch import Tensor

from qdrl.genomes.ancestry import KEYFRAME, Ancestry
from qdrl.genomes.noise import NoiseSource
from qdrl.streams import generator_from_seed

Initial = Callable[[np.random.Generator], np.ndarray]


class Decoder:
    """Decodes nodes of a tree.

    Args:
        ancestry: the tree, which may grow.
        initial: draws a first genome, `(parameters,)` float32, as `qdrl.tasks.base.Task.initial` does.
        noise: what mutations add.
    """

    def __init__(self, ancestry: Ancestry, initial: Initial, noise: NoiseSource) -> None:
        self._ancestry, self._initial, self.noise = ancestry, initial, noise
        self._held: dict[int, np.ndarray] = {}

    def genome(self, node: int) -> np.ndarray:
        """The genome of a node, `(parameters,)` float32, a copy."""
        tree, mutations = self._ancestry, []
        while node not in self._held and tree.parent[node] >= 0:
            mutations.append(node)
            node = int(tree.parent[node])
        genome = self._start(node)
        for mutated in reversed(mutations):
            self.noise.add(genome, int(tree.seed[mutated]), float(tree.sigma[mutated]))
        return genome

    def first(self, seed: int) -> np.ndarray:
        """A first genome."""
        return self._initial(generator_from_seed(seed))

    def hold(self, nodes: Iterable[int]) -> None:
        """Hold the genomes of these nodes, and of no others."""
        before = self._held
        self._held = {int(n): before[int(n)] if int(n) in before else self.genome(int(n)) for n in nodes}

    def renumber(self, numbers: np.ndarray) -> None:
        """The tree was pruned: new numbers by old ones."""
        self._held = {int(numbers[node]): genome for node, genome in self._held.items() if numbers[node] >= 0}

    def _start(self, node: int) -> np.ndarray:
        if node in self._held:
            return self._held[node].copy()
        if self._ancestry.parent[node] == KEYFRAME:
            return self._ancestry.keyframes[int(self._ancestry.seed[node])].copy()
        return self.first(int(self._ancestry.seed[node]))


class Offspring:
    """Rows of genomes that are decoded when they are asked for; see `qdrl.evaluation.Genomes`.

    Args:
        decoder: of the tree that parents are in.
        parents: `(rows,)` nodes, -1 for first genomes.
        seeds: `(rows,)` of each row's mutation or first genome.
        sigmas: `(rows,)`; 0 leaves the parent as it is.
    """

    def __init__(self, decoder: Decoder, parents: Sequence[int], seeds: Sequence[int], sigmas: Sequence[float]) -> None:
        self._decoder, self._rows = decoder, list(zip(parents, seeds, sigmas, strict=True))

    def take(self, rows: Iterable[int]) -> "Offspring":
        """Some of the rows."""
        return Offspring(self._decoder, *zip(*(self._rows[row] for row in rows), strict=True))

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, rows: slice) -> Tensor:
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
