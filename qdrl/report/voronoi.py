"""Draw Voronoi cells as an image, with numpy only."""

from collections.abc import Sequence

import numpy as np

_TILE_PIXELS = 32  # width and height of a tile


def nearest_centroids(
    centroids: np.ndarray, lower: Sequence[float], upper: Sequence[float], tiles: int = 32
) -> np.ndarray:
    """Return the nearest centroid of each pixel of a square image of a box; ties go to the lowest.

    Distances are those in the image, in which both axes are equally long, as in a CVT archive. Each tile of pixels is
    compared only with the centroids that can be nearest in it: those whose distance from its centre exceeds the
    smallest one by at most the tile's diagonal.

    Args:
        centroids: `(cells, 2)` in axis units.
        lower: lower corner of the box.
        upper: upper corner.
        tiles: number of tiles along each side; each is 32 pixels wide.

    Returns:
        `(pixels, pixels)` cell numbers; rows follow the second axis upwards, columns the first.
    """
    pixels = tiles * _TILE_PIXELS
    place = (np.arange(pixels) + 0.5) / pixels
    centroids = (centroids - np.asarray(lower)) / (np.asarray(upper) - np.asarray(lower))
    image = np.empty((pixels, pixels), np.int64)
    for row in range(0, pixels, _TILE_PIXELS):
        for column in range(0, pixels, _TILE_PIXELS):
            window = np.s_[row : row + _TILE_PIXELS, column : column + _TILE_PIXELS]
            image[window] = _nearest_in_tile(centroids, place[window[1]], place[window[0]])
    return image


def borders(cell: np.ndarray) -> np.ndarray:
    """Return where the cell number changes to the right or above, as a bool image of the same shape."""
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
