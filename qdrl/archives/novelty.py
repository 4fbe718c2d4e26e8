"""How new a behaviour is: the mean distance to its k nearest neighbours (Lehman and Stanley 2011). Needs no torch.

Distances are Euclidean, in the axes' own units, as published; where axes have different units, scale descriptors first.

A row's novelty is the same bits whatever other rows are asked for beside it and whichever way its neighbours are found:
a distance is the root of the squares added axis by axis, and the k smallest are added in ascending order. A k-d tree
only proposes candidates, one more than needed. Their distances are taken anew, and where the last candidate is not
clearly farther than the k-th neighbour, as among ties, the tree is asked for more of them.
"""

from collections.abc import Iterator
from typing import Any

import numpy as np

# Measured on uniform points with k = 15 (experiments/benchmarks/novelty.py): with fewer references or rows the tree
# takes longer to build than all distances to compute; with more than 20 axes it visits nearly every point.
_TREE_AXES, _TREE_REFERENCES, _TREE_ROWS = 20, 500, 32
_BLOCK = 1 << 17  # distances held at once: 1 MB of float64 stays in the cache
_CLEARLY, _TINY = 1e-9, 1e-150  # relative, and where squares lose digits absolute: far more than rounding can do


def novelty(descriptors: Any, references: Any, k: int, *, own: Any = None) -> np.ndarray:
    """The novelty of each row: its mean Euclidean distance to the k nearest references, exact.

    Args:
        descriptors: `(rows, d)`, finite.
        references: `(n, d)`, finite: the archive, or the archive and the population.
        k: how many neighbours count; all there are where there are fewer.
        own: `(rows,)` integers: where among the references each row itself stands, -1 for nowhere. That one reference
            is not its neighbour; another one at distance zero is.

    Returns:
        `(rows,)` float64; infinite for a row without any neighbour, because nothing is known that is like it. So the
        first row of all passes every threshold and leads every ranking.

    Raises:
        ValueError: shapes do not fit, k is below 1, a number is not finite, or `own` leads out of the references.
    """
    points, known, places = _checked(descriptors, references, k, own)
    return mean_of(_nearest(points, known, k, places), np.minimum(k, len(known) - (places >= 0)))


def nearest_distances(descriptors: Any, references: Any, k: int) -> np.ndarray:
    """Distances of each row to its k nearest references, ascending: `(rows, min(k, n))` float64.

    Arguments and errors are those of `novelty`.
    """
    points, known, places = _checked(descriptors, references, k, None)
    return _nearest(points, known, k, places)


def distances_between(descriptors: np.ndarray, references: np.ndarray) -> np.ndarray:
    """Euclidean distances, `(..., d)` float64 against `(..., d)`, as numpy broadcasts."""
    return np.sqrt(_squares(descriptors, references))


def mean_of(distances: np.ndarray, counts: Any) -> np.ndarray:
    """Means over the first `counts` `(rows,)` of ascending distances `(rows, m)`, added in that order.

    Infinite where the count is 0.
    """
    counts = np.broadcast_to(np.asarray(counts), len(distances))
    if distances.shape[1] == 0:
        return np.full(len(distances), np.inf)
    last = np.maximum(counts - 1, 0)
    total = np.cumsum(distances, axis=1)[np.arange(len(distances)), last]
    return np.where(counts > 0, total / np.maximum(counts, 1), np.inf)


def _checked(descriptors: Any, references: Any, k: int, own: Any) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    points, known = np.asarray(descriptors, np.float64), np.asarray(references, np.float64)
    if points.ndim != 2 or known.ndim != 2 or points.shape[1] != known.shape[1] or points.shape[1] == 0:
        raise ValueError(f"expected descriptors (rows, d) and references (n, d), got {points.shape} and {known.shape}")
    if k < 1:
        raise ValueError(f"k must be at least 1, got {k}")
    for name, values in (("descriptors", points), ("references", known)):
        if not (finite := np.isfinite(values).all(axis=1)).all():
            raise ValueError(f"{name}: row {int(np.argmin(finite))} is not finite")
    if own is None:
        return points, known, np.full(len(points), -1)
    places = np.asarray(own)
    if places.shape != (len(points),) or places.dtype.kind not in "iu":
        raise ValueError(f"own must be ({len(points)},) integers, got {places.shape} {places.dtype}")
    if len(places) and not -1 <= places.min() <= places.max() < len(known):
        raise ValueError(f"own must lie within -1..{len(known) - 1}, got {places.min()} to {places.max()}")
    return points, known, places


def _nearest(points: np.ndarray, known: np.ndarray, k: int, own: np.ndarray) -> np.ndarray:
    """`(rows, min(k, n))` distances, ascending; infinite at the end of rows that have fewer neighbours."""
    k = min(k, len(known))
    if k == 0:
        return np.empty((len(points), 0))
    pays = known.shape[1] <= _TREE_AXES and len(known) >= _TREE_REFERENCES and len(points) >= _TREE_ROWS
    search = _nearest_by_tree if pays else _nearest_by_force
    return np.sqrt(search(points, known, k, own))


def _nearest_by_force(points: np.ndarray, known: np.ndarray, k: int, own: np.ndarray) -> np.ndarray:
    """`(rows, k)` squared distances, ascending."""
    found = np.empty((len(points), k))
    for rows in _blocks(len(points), len(known)):
        squares = _squares(points[rows, None], known[None])
        mine = np.flatnonzero(own[rows] >= 0)
        squares[mine, own[rows][mine]] = np.inf
        found[rows] = _smallest(squares, k)
    return found


def _nearest_by_tree(points: np.ndarray, known: np.ndarray, k: int, own: np.ndarray) -> np.ndarray:
    """The same, by a k-d tree."""
    from scipy.spatial import KDTree  # takes 0.2 s to import, which other archives need not wait for

    tree, found = KDTree(known), np.empty((len(points), k))
    unsure, count = np.arange(len(points)), min(k + 2, len(known))  # the neighbours, the row itself, and the next one
    while len(unsure):
        still = []
        for block in _blocks(len(unsure), count):
            rows = unsure[block]
            far, index = (part.reshape(-1, count) for part in tree.query(points[rows], k=count))
            there = index < len(known)  # not where a distance overflows
            squares = _squares(points[rows, None], known[np.where(there, index, 0)])
            squares[~there | (index == own[rows, None])] = np.inf
            found[rows] = _smallest(squares, k)
            reach = np.sqrt(found[rows, -1])
            settled = (reach == 0) | (reach < far[:, -1] * (1 - _CLEARLY) - _TINY)
            still.append(rows[~settled])
        if count == len(known):
            break
        unsure, count = np.concatenate(still), min(2 * count, len(known))
    return found


def _smallest(squares: np.ndarray, k: int) -> np.ndarray:
    """The k smallest of each row, ascending; works in place."""
    if k < squares.shape[1]:
        squares.partition(k - 1, axis=1)
    return np.sort(squares[:, :k], axis=1)


def _squares(descriptors: np.ndarray, references: np.ndarray) -> np.ndarray:
    """Squared distances, added axis by axis: the same bits however many stand beside each other."""
    with np.errstate(over="ignore"):  # two behaviours 1e154 apart are infinitely far from each other
        total = np.square(descriptors[..., 0] - references[..., 0])
        for axis in range(1, descriptors.shape[-1]):
            total += np.square(descriptors[..., axis] - references[..., axis])
    return total


def _blocks(rows: int, width: int) -> Iterator[slice]:
    """Slices of rows whose distances to `width` others fit into a block."""
    block = max(1, _BLOCK // width)
    return (slice(start, min(start + block, rows)) for start in range(0, rows, block))
