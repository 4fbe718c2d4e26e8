"""Novelty: the mean distance to the k nearest neighbours (Lehman and Stanley 2011, doi:10.1162/EVCO_a_00025).

Distances are Euclidean, in the axes' own units, as published. If axes have different units, scale descriptors first.
Needs no torch.

A row's novelty has the same bits whatever the other rows and the search method: a distance is the root of the squares
added axis by axis, and the k smallest distances are added in ascending order. A k-d tree only proposes candidates, one
more than needed. Their distances are recomputed. If the last candidate is not farther than the k-th neighbour by more
than rounding errors, as among ties, more candidates are queried.
"""

from collections.abc import Iterator
from typing import Any

import numpy as np

# Measured on uniform points with k = 15 (experiments/benchmarks/novelty.py): with fewer references or rows, building
# the tree takes longer than computing all distances; with more than 20 axes, the tree visits nearly every point.
_TREE_AXES, _TREE_REFERENCES, _TREE_ROWS = 20, 500, 32
_BLOCK_DISTANCES = 1 << 17  # computed at once: 1 MB of float64 stays in the cache
# Differences of distances that exceed any rounding error; the absolute one is for squares that underflow.
_RELATIVE_MARGIN, _ABSOLUTE_MARGIN = 1e-9, 1e-150


def novelty(descriptors: Any, references: Any, k: int, *, own: Any = None, squared: bool = False) -> np.ndarray:
    """Return the novelty of each row: its exact mean Euclidean distance to the k nearest references.

    Args:
        descriptors: `(rows, d)`, finite.
        references: `(n, d)`, finite: the archive, or the archive and the population.
        k: number of neighbours; all references if there are fewer.
        own: `(rows,)` integers: the row's own index among the references, -1 if it is not among them. That reference
            is not its neighbour; another one at distance zero is.
        squared: average the squares of the distances.

    Returns:
        `(rows,)` float64; infinite for a row without neighbours, so that the very first row passes every threshold and
        leads every ranking.

    Raises:
        ValueError: shapes do not fit, k is below 1, a number is not finite, or `own` is out of range.
    """
    points, known, places = _checked(descriptors, references, k, own)
    squares = _nearest_squares(points, known, k, places)
    return mean_of(squares if squared else np.sqrt(squares), np.minimum(k, len(known) - (places >= 0)))


def nearest_distances(descriptors: Any, references: Any, k: int) -> np.ndarray:
    """Return the distances of each row to its k nearest references, ascending, `(rows, min(k, n))` float64.

    Arguments and errors are those of `novelty`.
    """
    points, known, places = _checked(descriptors, references, k, None)
    return np.sqrt(_nearest_squares(points, known, k, places))


def distances_between(descriptors: np.ndarray, references: np.ndarray) -> np.ndarray:
    """Return Euclidean distances between `(..., d)` and `(..., d)` float64, with numpy's broadcasting."""
    return np.sqrt(_squares(descriptors, references))


def mean_of(distances: np.ndarray, counts: Any) -> np.ndarray:
    """Return the means of the first `counts` `(rows,)` of ascending distances `(rows, m)`, added in that order.

    The mean of a row is infinite if its count is 0.
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


def _nearest_squares(points: np.ndarray, known: np.ndarray, k: int, own: np.ndarray) -> np.ndarray:
    """Return squared distances `(rows, min(k, n))`, ascending; infinite at the end of rows with fewer neighbours."""
    k = min(k, len(known))
    if k == 0:
        return np.empty((len(points), 0))
    use_tree = known.shape[1] <= _TREE_AXES and len(known) >= _TREE_REFERENCES and len(points) >= _TREE_ROWS
    search = _nearest_by_tree if use_tree else _nearest_by_force
    return search(points, known, k, own)


def _nearest_by_force(points: np.ndarray, known: np.ndarray, k: int, own: np.ndarray) -> np.ndarray:
    """Return squared distances `(rows, k)`, ascending, after computing all of them."""
    found = np.empty((len(points), k))
    for rows in _blocks(len(points), len(known)):
        squares = _squares(points[rows, None], known[None])
        mine = np.flatnonzero(own[rows] >= 0)
        squares[mine, own[rows][mine]] = np.inf
        found[rows] = _smallest(squares, k)
    return found


def _nearest_by_tree(points: np.ndarray, known: np.ndarray, k: int, own: np.ndarray) -> np.ndarray:
    """Return the same as `_nearest_by_force`, with candidates from a k-d tree."""
    from scipy.spatial import KDTree  # its import takes 0.2 s, which other archives do without

    tree, found = KDTree(known), np.empty((len(points), k))
    unsure, count = np.arange(len(points)), min(k + 2, len(known))  # the neighbours, the row itself, and the next one
    while len(unsure):
        still = []
        for block in _blocks(len(unsure), count):
            rows = unsure[block]
            far, index = (part.reshape(-1, count) for part in tree.query(points[rows], k=count))
            there = index < len(known)  # false if a distance overflows
            squares = _squares(points[rows, None], known[np.where(there, index, 0)])
            squares[~there | (index == own[rows, None])] = np.inf
            found[rows] = _smallest(squares, k)
            reach = np.sqrt(found[rows, -1])
            settled = (reach == 0) | (reach < far[:, -1] * (1 - _RELATIVE_MARGIN) - _ABSOLUTE_MARGIN)
            still.append(rows[~settled])
        if count == len(known):
            break
        unsure, count = np.concatenate(still), min(2 * count, len(known))
    return found


def _smallest(squares: np.ndarray, k: int) -> np.ndarray:
    """Return the k smallest of each row, ascending; changes the argument."""
    if k < squares.shape[1]:
        squares.partition(k - 1, axis=1)
    return np.sort(squares[:, :k], axis=1)


def _squares(descriptors: np.ndarray, references: np.ndarray) -> np.ndarray:
    """Return squared distances, added axis by axis so that their bits do not depend on the number of rows."""
    with np.errstate(over="ignore"):  # distances above 1e154 are infinite
        total = np.square(descriptors[..., 0] - references[..., 0])
        for axis in range(1, descriptors.shape[-1]):
            total += np.square(descriptors[..., axis] - references[..., axis])
    return total


def _blocks(rows: int, width: int) -> Iterator[slice]:
    """Return slices of rows whose distances to `width` others fit into a block."""
    block = max(1, _BLOCK_DISTANCES // width)
    return (slice(start, min(start + block, rows)) for start in range(0, rows, block))
