"""Voronoi cells as an image, with numpy alone."""

from collections.abc import Sequence

import numpy as np

_TILE = 32  # pixels a side


def nearest_centroids(
    centroids: np.ndarray, lower: Sequence[float], upper: Sequence[float], tiles: int = 32
) -> np.ndarray:
    """Which centroid is nearest to each pixel of a square image of a box; ties go to the lowest.

    Distances are those of the image, with both axes of the box equally long, as in a cvt archive.

    Exact, and quick for many cells: a tile of pixels only looks at the centroids that can win in it, those no
    further from its centre than the nearest one plus the tile's diagonal.

    Args:
        centroids: `(cells, 2)` in axis units.
        lower: lower corner of the box.
        upper: upper corner.
        tiles: tiles a side; each is 32 pixels wide.

    Returns:
        `(pixels, pixels)` cell numbers; rows go up the second axis, columns along the first.
    """
    pixels = tiles * _TILE
    place = (np.arange(pixels) + 0.5) / pixels
    centroids = (centroids - np.asarray(lower)) / (np.asarray(upper) - np.asarray(lower))
    image = np.empty((pixels, pixels), np.int64)
    for row in range(0, pixels, _TILE):
        for column in range(0, pixels, _TILE):
            window = np.s_[row : row + _TILE, column : column + _TILE]
            image[window] = _nearest_in_tile(centroids, place[window[1]], place[window[0]])
    return image


def borders(cell: np.ndarray) -> np.ndarray:
    """Where an image of cell numbers changes to the right or above: a bool image of the same shape."""
    edge = np.zeros(cell.shape, bool)
    edge[:, :-1] |= cell[:, 1:] != cell[:, :-1]
    edge[:-1] |= cell[1:] != cell[:-1]
    return edge


def _nearest_in_tile(centroids: np.ndarray, across: np.ndarray, up: np.ndarray) -> np.ndarray:
    center = np.array([across.mean(), up.mean()])
    diagonal = np.hypot(across[-1] - across[0], up[-1] - up[0])
    distance = np.hypot(*(centroids - center).T)
    rivals = np.flatnonzero(distance <= distance.min() + diagonal * (1 + 1e-9))
    x, y = centroids[rivals].T
    squared = (across[None, :, None] - x) ** 2 + (up[:, None, None] - y) ** 2
    return rivals[squared.argmin(axis=2)]
