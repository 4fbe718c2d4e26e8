"""Novelty of 256 rows compared with scikit-learn, on one thread: `python experiments/benchmarks/novelty.py`.

`novelty_<references>x<axes>`: the mean distance to the 15 nearest of that many uniform points.

- `times_sklearn_ask`: seconds of scikit-learn's `NearestNeighbors` with automatic choice of its algorithm, fit and
  query, over ours. Above 15 axes it multiplies matrices, where the last bits of a row depend on the other rows.
- `times_force_tree`: seconds of our brute force over those of our k-d tree. At 1 the tree has no advantage.
"""

from collections.abc import Callable
from unittest.mock import patch

import numpy as np
from measure import alternate, compare
from sklearn.neighbors import NearestNeighbors
from threadpoolctl import threadpool_limits

from qdrl.archives import novelty as module
from qdrl.archives.novelty import novelty

ROWS, K = 256, 15
SIZES = [
    (500, 2),
    (10_000, 1),
    (10_000, 2),
    (10_000, 4),
    (10_000, 8),
    (10_000, 12),
    (10_000, 20),
    (10_000, 40),
    (100_000, 2),
]


def main() -> None:
    with threadpool_limits(1):
        for references, axes in SIZES:
            name = f"novelty_{references}x{axes}"
            ours, sklearn = measured(references, axes, automatic), measured(references, axes, by_sklearn)
            compare(name, "sklearn", "ask", *alternate(ours, sklearn, repeats=9))
            tree, force = measured(references, axes, by_tree), measured(references, axes, by_force)
            compare(name, "force", "tree", *alternate(tree, force, repeats=9))


def measured(
    references: int, axes: int, way: Callable[[np.ndarray, np.ndarray], object]
) -> Callable[[int], Callable[[], object]]:
    """Return a query that is prepared with new points for each repeat."""

    def prepare(repeat: int) -> Callable[[], object]:
        draw = np.random.default_rng(repeat)
        known, rows = draw.random((references, axes)), draw.random((ROWS, axes))
        return lambda: way(rows, known)

    return prepare


def automatic(rows: np.ndarray, known: np.ndarray) -> np.ndarray:
    return novelty(rows, known, K)


def by_tree(rows: np.ndarray, known: np.ndarray) -> np.ndarray:
    with patch.multiple(module, _TREE_AXES=1000, _TREE_REFERENCES=1, _TREE_ROWS=1):
        return novelty(rows, known, K)


def by_force(rows: np.ndarray, known: np.ndarray) -> np.ndarray:
    with patch.multiple(module, _TREE_AXES=0):
        return novelty(rows, known, K)


def by_sklearn(rows: np.ndarray, known: np.ndarray) -> np.ndarray:
    distances, _ = NearestNeighbors(n_neighbors=K).fit(known).kneighbors(rows)
    return distances.mean(axis=1)


if __name__ == "__main__":
    main()
