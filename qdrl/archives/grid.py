"""A regular grid of cells over the descriptor space (Mouret and Clune 2015, arXiv:1504.04909)."""

from collections.abc import Iterable, Sequence

import numpy as np
import torch
from torch import Tensor

from qdrl.errors import UserError

BORDER_TOLERANCE = 1e-6


class Grid:
    """Cells that are axis-aligned boxes of equal size.

    A descriptor outside the bounds belongs to the nearest cell. A descriptor on a border between two cells belongs to
    the upper one; `BORDER_TOLERANCE` allows for rounding and is the default of pyribs, so that both agree on the cell
    of 0.1 + 0.2. Cells are numbered row-major: the number of the last axis varies fastest.

    Args:
        lower: lower bound of each axis, in the axis's unit.
        upper: upper bound of each axis.
        shape: number of cells along each axis.

    Raises:
        UserError: the bounds are not finite and increasing, or the shape does not fit them.
    """

    kind = "grid"

    def __init__(self, lower: Sequence[float], upper: Sequence[float], shape: Sequence[int]) -> None:
        check_bounds(lower, upper)
        if len(shape) != len(lower) or min(shape) < 1:
            raise UserError(f"a grid over {len(lower)} axes needs {len(lower)} positive cell counts, got {list(shape)}")
        self.lower, self.upper = np.asarray(lower, np.float64), np.asarray(upper, np.float64)
        self.shape = tuple(int(n) for n in shape)
        self.cells = int(np.prod(self.shape))

    def __repr__(self) -> str:
        return f"Grid({' x '.join(map(str, self.shape))} cells over {bounds_in_words(self.lower, self.upper)})"

    @property
    def centroids(self) -> np.ndarray:
        """Centres of the cells, `(cells, d)` float64."""
        axes = [
            low + (np.arange(n) + 0.5) * (high - low) / n
            for low, high, n in zip(self.lower, self.upper, self.shape, strict=True)
        ]
        return np.stack([axis.ravel() for axis in np.meshgrid(*axes, indexing="ij")], axis=1)

    def cell_of(self, descriptor: Tensor) -> Tensor:
        """Return the cells of finite descriptors, `(rows, d)` float64 -> `(rows,)` int64."""
        # Axis by axis and in place: with twenty temporaries of (rows, d), 100,000 rows took seven times as long.
        cell = torch.zeros(len(descriptor), dtype=torch.int64, device=descriptor.device)
        axes = zip(self.lower.tolist(), self.upper.tolist(), self.shape, strict=True)
        for column, (lower, upper, count) in zip(descriptor.unbind(dim=1), axes, strict=True):
            place = column.clamp(lower, upper).sub_(lower).mul_(count).add_(BORDER_TOLERANCE).div_(upper - lower)
            cell.mul_(count).add_(place.long().clamp_(max=count - 1))
        return cell


def check_bounds(lower: Sequence[float], upper: Sequence[float]) -> None:
    """Raise an error for bounds that do not span a box.

    Raises:
        UserError: lengths differ, a bound is not finite, or a lower bound is not below its upper one.
    """
    if len(lower) != len(upper) or len(lower) == 0:
        raise UserError(f"bounds need the same number of axes, got lower {list(lower)} and upper {list(upper)}")
    for axis, (low, high) in enumerate(zip(lower, upper, strict=True)):
        if not (np.isfinite(low) and np.isfinite(high) and low < high):
            raise UserError(f"axis {axis}: lower bound {low} must be finite and below upper bound {high}")


def bounds_in_words(lower: Iterable[float], upper: Iterable[float]) -> str:
    """Return bounds in one line, for example "[0, 1] x [-2, 2]"."""
    return " x ".join(f"[{low:g}, {high:g}]" for low, high in zip(lower, upper, strict=True))
