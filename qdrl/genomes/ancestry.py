"""Lineages: a genome as the seeds that produce it (Deep GA's compact encoding, https://arxiv.org/abs/1712.06567).

A lineage is the seed of an initial genome and, for each mutation since then, a seed and a power. The lineages of a run
are paths in one tree, so genomes with a common ancestor share its nodes.

A keyframe is a stored dense genome. A lineage may start from a keyframe instead of an initial genome.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

NO_PARENT, KEYFRAME = -1, -2
"""Values of `Ancestry.parent` for nodes without a parent: initial genomes, and keyframes."""


@dataclass(frozen=True)
class Lineage:
    """One genome, as an initial genome or a keyframe and its mutations.

    Attributes:
        seeds: `(n,)` uint32. The first is the seed of the initial genome or the number of the keyframe; the others are
            the seeds of the mutations.
        sigmas: `(n,)` float32 power of each mutation. The first is 0 for an initial genome, NaN for a keyframe.
    """

    seeds: np.ndarray
    sigmas: np.ndarray

    def __len__(self) -> int:
        """Return the number of mutations and one for the first genome."""
        return len(self.seeds)

    @property
    def nbytes(self) -> int:
        """Return the storage size in bytes."""
        return self.seeds.nbytes + self.sigmas.nbytes

    @property
    def keyframe(self) -> int | None:
        """Return the number of the keyframe that the lineage starts from; None where it starts from a seed."""
        return int(self.seeds[0]) if np.isnan(self.sigmas[0]) else None


class Node(NamedTuple):
    """A node of the tree: its parent's number, the seed of its mutation or initial genome, and the mutation's power."""

    parent: int
    seed: int
    sigma: float


def columns_of(nodes: Sequence[Node]) -> tuple[list[int], list[int], list[float]]:
    """Return parents, seeds and powers of nodes."""
    return [node.parent for node in nodes], [node.seed for node in nodes], [node.sigma for node in nodes]


class Ancestry:
    """A tree of mutations. Nodes are numbered in the order of their addition, so parents come before children.

    Attributes:
        parent: `(nodes,)` int64 number of the parent; `NO_PARENT` for an initial genome, `KEYFRAME` for a keyframe.
        seed: `(nodes,)` uint32 seed of the node's mutation or initial genome; for a keyframe, its number.
        sigma: `(nodes,)` float32 power of the node's mutation; 0 for nodes without a parent.
        keyframes: dense genomes by number, `(parameters,)` float32 each.
    """

    def __init__(self) -> None:
        """Create an empty tree."""
        self.parent = np.empty(0, np.int64)
        self.seed = np.empty(0, np.uint32)
        self.sigma = np.empty(0, np.float32)
        self.keyframes: dict[int, np.ndarray] = {}

    def __len__(self) -> int:
        """Return the number of nodes."""
        return len(self.parent)

    def add(self, parents: Sequence[int], seeds: Sequence[int], sigmas: Sequence[float]) -> np.ndarray:
        """Add nodes and return their numbers.

        Args:
            parents: `(rows,)` number of each parent; `NO_PARENT` for initial genomes.
            seeds: `(rows,)` uint32 seed of each mutation or initial genome.
            sigmas: `(rows,)` power of each mutation; 0 for initial genomes.

        Returns:
            `(rows,)` int64.
        """
        first = len(self)
        self.parent = np.concatenate([self.parent, np.asarray(parents, np.int64)])
        self.seed = np.concatenate([self.seed, np.asarray(seeds, np.uint32)])
        self.sigma = np.concatenate([self.sigma, np.asarray(sigmas, np.float32)])
        return np.arange(first, len(self))

    def check(self, nodes: Mapping[str, np.ndarray], parameters: int) -> None:
        """Check that nodes are in the tree and that keyframes are genomes of the right length.

        Args:
            nodes: arrays of node numbers by a name for the message.
            parameters: length of a genome.

        Raises:
            ValueError: a node is out of range, or a keyframe has another shape.
        """
        for name, numbers in nodes.items():
            if len(numbers) and not 0 <= numbers.min() <= numbers.max() < len(self):
                raise ValueError(f"a node of {name} is not in the tree, which has {len(self)} nodes")
        for number, genome in self.keyframes.items():
            if genome.shape != (parameters,):
                raise ValueError(f"keyframe {number} has shape {genome.shape}, expected ({parameters},)")

    def path(self, node: int) -> list[int]:
        """Return the nodes on the path from the first ancestor to this node, both included."""
        nodes = [int(node)]
        while (parent := int(self.parent[nodes[-1]])) >= 0:
            nodes.append(parent)
        return nodes[::-1]

    def lineage(self, node: int) -> Lineage:
        """Return the lineage of a node."""
        path = self.path(node)
        sigmas = self.sigma[path].copy()
        sigmas[0] = np.nan if self.parent[path[0]] == KEYFRAME else 0.0
        return Lineage(self.seed[path], sigmas)

    def arrays_of(self, nodes: Iterable[int], parameters: int) -> dict[str, np.ndarray]:
        """Return the lineages of nodes one after the other, and all keyframes; the counterpart of `insert_all`.

        Args:
            nodes: n numbers of nodes.
            parameters: length of a genome.

        Returns:
            `offsets`, `seeds` and `sigmas` as arguments of `insert_all`; `keyframe_numbers`, `(k,)`, ascending;
            `keyframes`, `(k, parameters)`.
        """
        lineages, numbers = [self.lineage(node) for node in nodes], sorted(self.keyframes)
        keyframes = np.array([self.keyframes[number] for number in numbers], np.float32)
        return {
            "offsets": np.cumsum([0, *map(len, lineages)]),
            "seeds": np.concatenate([np.empty(0, np.uint32), *(lineage.seeds for lineage in lineages)]),
            "sigmas": np.concatenate([np.empty(0, np.float32), *(lineage.sigmas for lineage in lineages)]),
            "keyframe_numbers": np.array(numbers, np.int64),
            "keyframes": keyframes.reshape(len(numbers), parameters),
        }

    def insert(self, lineage: Lineage) -> int:
        """Add the nodes of a lineage of another tree and return the number of its last node.

        Its keyframe must be in `keyframes` already.

        Raises:
            ValueError: the lineage is empty, or its keyframe is missing.
        """
        if len(lineage) == 0:
            raise ValueError("a lineage has at least a first genome")
        if lineage.keyframe is not None and lineage.keyframe not in self.keyframes:
            raise ValueError(f"keyframe {lineage.keyframe} is missing")
        first = len(self)
        parents = [NO_PARENT if lineage.keyframe is None else KEYFRAME, *range(first, first + len(lineage) - 1)]
        return int(self.add(parents, lineage.seeds, np.nan_to_num(lineage.sigmas))[-1])  # pyright: ignore[reportArgumentType]

    def insert_all(self, offsets: np.ndarray, seeds: np.ndarray, sigmas: np.ndarray) -> np.ndarray:
        """Add the nodes of many lineages and return the numbers of their last nodes.

        Args:
            offsets: `(lineages + 1,)`; lineage i is `seeds[offsets[i]:offsets[i + 1]]`.
            seeds: seeds of all lineages, one after the other; see `Lineage.seeds`.
            sigmas: powers of all lineages, one after the other; see `Lineage.sigmas`.

        Returns:
            `(lineages,)` integer node numbers.
        """
        first, starts = len(self), offsets[:-1]
        parents = np.arange(first - 1, first + len(seeds) - 1)
        parents[starts] = np.where(np.isnan(sigmas[starts]), KEYFRAME, NO_PARENT)
        self.add(parents, seeds, np.nan_to_num(sigmas))  # pyright: ignore[reportArgumentType]
        return first + offsets[1:] - 1

    def common_ancestor(self, nodes: Iterable[int]) -> int | None:
        """Return the last node that is on the paths of all given nodes; None where there is none."""
        shared: list[int] | None = None
        for node in nodes:
            path = self.path(node)
            if shared is None:
                shared = path
            else:
                length = next((i for i, (a, b) in enumerate(zip(shared, path, strict=False)) if a != b), None)
                shared = shared[: min(len(shared), len(path)) if length is None else length]
        return shared[-1] if shared else None

    def rebase(self, node: int, genome: np.ndarray) -> None:
        """Turn a node into a keyframe, so that lineages through it start there.

        Args:
            node: number of the node.
            genome: the node's genome, `(parameters,)` float32; it is copied.
        """
        number = max(self.keyframes, default=-1) + 1
        self.keyframes[number] = genome.copy()
        self.parent[node], self.seed[node], self.sigma[node] = KEYFRAME, number, 0.0

    def prune(self, keep: Iterable[int]) -> np.ndarray:
        """Remove every node that is on no path of the given nodes, and renumber the others.

        Args:
            keep: nodes whose paths are kept; negative numbers are ignored.

        Returns:
            `(nodes before,)` integer new numbers by old number, -1 for removed nodes.
        """
        needed = np.zeros(len(self), bool)
        for node in keep:
            while node >= 0 and not needed[node]:
                needed[node] = True
                node = int(self.parent[node])
        renumbered = np.where(needed, np.cumsum(needed) - 1, -1)
        parents = self.parent[needed]
        self.parent = np.where(parents >= 0, renumbered[parents], parents)
        self.seed, self.sigma = self.seed[needed], self.sigma[needed]
        used = set(self.seed[self.parent == KEYFRAME].tolist())
        self.keyframes = {number: genome for number, genome in self.keyframes.items() if number in used}
        return renumbered

    def state_dict(self) -> dict[str, Any]:
        """Return copies of the tree's arrays by name."""
        keyframes = {str(number): genome for number, genome in self.keyframes.items()}
        copies = {name: getattr(self, name).copy() for name in ("parent", "seed", "sigma")}
        return copies | {"keyframes": keyframes}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore what `state_dict` returned.

        Raises:
            ValueError: the arrays do not form a tree. This tree is then unchanged.
        """
        parent = np.array(state["parent"], np.int64)
        seed, sigma = np.array(state["seed"], np.uint32), np.array(state["sigma"], np.float32)
        keyframes = {int(number): np.asarray(genome, np.float32) for number, genome in state["keyframes"].items()}
        if parent.ndim != 1 or not parent.shape == seed.shape == sigma.shape:
            raise ValueError(
                f"parents {parent.shape}, seeds {seed.shape} and powers {sigma.shape} must have one length"
            )
        if len(wrong := np.flatnonzero((parent < KEYFRAME) | (parent >= np.arange(len(parent))))):
            raise ValueError(f"node {wrong[0]} has parent {parent[wrong[0]]}; parents come before their children")
        if not np.isfinite(sigma).all() or not all(np.isfinite(genome).all() for genome in keyframes.values()):
            raise ValueError("a power or a keyframe is not finite")
        if missing := set(seed[parent == KEYFRAME].tolist()) - keyframes.keys():
            raise ValueError(f"keyframe {min(missing)} is missing")
        self.parent, self.seed, self.sigma, self.keyframes = parent, seed, sigma, keyframes
