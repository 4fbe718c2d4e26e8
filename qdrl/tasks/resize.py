"""Resizing of grey pictures in integers, so that results are the same bits on any machine."""

from functools import cache
from math import gcd
from typing import Literal

import numpy as np
from numpy.typing import NDArray

Resize = Literal["area", "bilinear"]


def resize_picture(picture: NDArray[np.uint8], side: int, method: Resize) -> NDArray[np.uint8]:
    """Return a picture of `side` x `side` pixels, rounded halves up.

    Args:
        picture: `(height, width)`, each at most 256 and at least 2.
        side: Height and width of the result, at least 2 and at most 100.
        method: "area" averages the pixels that a new pixel covers. "bilinear" interpolates between the four nearest
            pixels, with the corners of both pictures aligned, and does not smooth.
    """
    height, width = picture.shape
    rows, columns = _neighbours(height, side, method), _neighbours(width, side, method)
    sums = np.zeros((side, width), np.int32)
    for row, weight in rows:
        sums += picture[row] * weight[:, None]
    sums_transposed = np.ascontiguousarray(sums.T)
    both = np.zeros((side, side), np.int32)
    for column, weight in columns:
        both += sums_transposed[column] * weight[:, None]
    whole = int(sum(weight[0] for _, weight in rows) * sum(weight[0] for _, weight in columns))
    return ((2 * both.T + whole) // (2 * whole)).astype(np.uint8)


@cache
def _neighbours(size: int, side: int, method: Resize) -> tuple[tuple[NDArray[np.intp], NDArray[np.int32]], ...]:
    """Return old pixels along one axis and their integer weights, each `(side,)`, which all new pixels add up in turn.

    The weights of every new pixel have the same sum.
    """
    weights = _area_weights(size, side) if method == "area" else _bilinear_weights(size, side)
    order = np.argsort(weights == 0, axis=1, kind="stable")[:, : int((weights > 0).sum(axis=1).max())]
    values = np.take_along_axis(weights, order, axis=1).astype(np.int32)
    return tuple((order[:, tap], values[:, tap]) for tap in range(order.shape[1]))


def _area_weights(size: int, side: int) -> NDArray[np.int64]:
    """Return the shared lengths `(side, size)` of new and old pixels."""
    divisor = gcd(size, side)
    new, old = size // divisor, side // divisor  # lengths of a pixel in a common unit
    starts, old_starts = np.arange(side)[:, None] * new, np.arange(size)[None, :] * old
    return (np.minimum(starts + new, old_starts + old) - np.maximum(starts, old_starts)).clip(min=0)


def _bilinear_weights(size: int, side: int) -> NDArray[np.int64]:
    """Return the weights `(side, size)` of the pixels below and above each new pixel's position."""
    weights, rows = np.zeros((side, size), np.int64), np.arange(side)
    lower, share = np.divmod(rows * (size - 1), side - 1)
    weights[rows, lower] += side - 1 - share
    weights[rows, np.minimum(lower + 1, size - 1)] += share
    return weights
