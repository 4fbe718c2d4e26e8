"""Lineages: a genome as how it came to be (Such et al. 2017, section 3.1, "compact network encoding").

A lineage is a number that stands for a first genome, and for each mutation since then a number and a power. All that a
run still needs are nodes of one tree: relatives share what they have in common.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

NO_PARENT, KEYFRAME = -1, -2


@dataclass(frozen=True)
class Lineage:
    """One genome.

    Attributes:
        seeds: `(n,)` uint32: of the first genome, or the number of a keyframe, and then of each mutation.
        sigmas: `(n,)` float32 power of each mutation; 0 for the first, NaN where it is a keyframe.
    """

    seeds: np.ndarray
    sigmas: np.ndarray

    def __len__(self) -> int:
        return len(self.seeds)

    @property
    def nbytes(self) -> int:
        """What it takes to keep."""
        return self.seeds.nbytes + self.sigmas.nbytes

    @property
    def keyframe(self) -> int | None:
        """The keyframe it starts from, None where it starts from a seed."""
        return int(self.seeds[0]) if np.isnan(self.sigmas[0]) else None


class Ancestry:
    """The tree; nodes are numbered in the order they came, so that parents come before children.

    Attributes:
        parent: `(nodes,)` int64; `NO_PARENT` for a first genome, `KEYFRAME` for one that is kept as it is.
        seed: `(nodes,)` uint32 of the node's own mutation; of a keyframe, its number.
        sigma: `(nodes,)` float32.
        keyframes: `(parameters,)` float32 by number.
    """

    def __init__(self) -> None:
        self.parent = np.empty(0, np.int64)
        self.seed = np.empty(0, np.uint32)
        self.sigma = np.empty(0, np.float32)
        self.keyframes: dict[int, np.ndarray] = {}

    def __len__(self) -> int:
        return len(self.parent)

    def add(self, parents: Sequence[int], seeds: Sequence[int], sigmas: Sequence[float]) -> np.ndarray:
        """New nodes, one a row; their numbers, `(rows,)` int64. First genomes have `NO_PARENT` and power 0."""
        first = len(self)
        self.parent = np.concatenate([self.parent, np.asarray(parents, np.int64)])
        self.seed = np.concatenate([self.seed, np.asarray(seeds, np.uint32)])
        self.sigma = np.concatenate([self.sigma, np.asarray(sigmas, np.float32)])
        return np.arange(first, len(self))

    def path(self, node: int) -> list[int]:
        """The nodes from the first one to this."""
        nodes = [int(node)]
        while (parent := int(self.parent[nodes[-1]])) >= 0:
            nodes.append(parent)
        return nodes[::-1]

    def lineage(self, node: int) -> Lineage:
        """All of a node's mutations."""
        path = self.path(node)
        sigmas = self.sigma[path].copy()
        sigmas[0] = np.nan if self.parent[path[0]] == KEYFRAME else 0.0
        return Lineage(self.seed[path], sigmas)

    def insert(self, lineage: Lineage) -> int:
        """A lineage that came from elsewhere; the number of its last node. Its keyframe must be there already.

        Raises:
            ValueError: it is empty, or starts from a keyframe that is not here.
        """
        if len(lineage) == 0:
            raise ValueError("a lineage has at least a first genome")
        if lineage.keyframe is not None and lineage.keyframe not in self.keyframes:
            raise ValueError(f"keyframe {lineage.keyframe} is missing")
        first = len(self)
        parents = [NO_PARENT if lineage.keyframe is None else KEYFRAME, *range(first, first + len(lineage) - 1)]
        return int(self.add(parents, lineage.seeds, np.nan_to_num(lineage.sigmas))[-1])  # pyright: ignore[reportArgumentType]

    def insert_all(self, offsets: np.ndarray, seeds: np.ndarray, sigmas: np.ndarray) -> np.ndarray:
        """Many lineages, the i-th being `seeds[offsets[i]:offsets[i + 1]]`; the numbers of their last nodes."""
        first, starts = len(self), offsets[:-1]
        parents = np.arange(first - 1, first + len(seeds) - 1)
        parents[starts] = np.where(np.isnan(sigmas[starts]), KEYFRAME, NO_PARENT)
        self.add(parents, seeds, np.nan_to_num(sigmas))  # pyright: ignore[reportArgumentType]
        return first + offsets[1:] - 1

    def common_ancestor(self, nodes: Iterable[int]) -> int | None:
        """The last node that all of these descend from or are; None where there is none."""
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
        """Keep a node's genome as it is: lineages through it start there from now on."""
        number = max(self.keyframes, default=-1) + 1
        self.keyframes[number] = genome.copy()
        self.parent[node], self.seed[node], self.sigma[node] = KEYFRAME, number, 0.0

    def prune(self, keep: Iterable[int]) -> np.ndarray:
        """Forget every node that none of these need; returns new numbers by old ones, -1 for the forgotten."""
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
        """The tree as arrays."""
        keyframes = {str(number): genome for number, genome in self.keyframes.items()}
        copies = {name: getattr(self, name).copy() for name in ("parent", "seed", "sigma")}
        return copies | {"keyframes": keyframes}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore what `state_dict` returned.

        Raises:
            ValueError: the arrays are not those of a tree; this one is then as it was.
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
