"""Running normalisation of observations, identical on every rank and stored with every elite.

Statistics are constant during a generation, so a row's result does not depend on the other rows. After a generation
the moments of all rows are merged in row order (Chan, Golub and LeVeque 1983), so that the statistics have the same
bits for any number of ranks. An elite needs the statistics of its evaluation: `snapshots` holds those of every
generation, and a file stores the ones that its elites need.
"""

from collections.abc import Iterable, Mapping

import numpy as np
import torch
from torch import Tensor

from qdrl.evaluation import ObservationMoments


class ObservationNormalizer:
    """Running mean and variance of observations.

    Args:
        size: Length of an observation.
    """

    def __init__(self, size: int) -> None:
        self.count = 0
        self.mean = np.zeros(size)
        self._deviation = np.zeros(size)
        self.snapshots: dict[int, tuple[np.ndarray, np.ndarray]] = {}

    @property
    def var(self) -> np.ndarray:
        """Return the variance `(size,)`; ones before the first update."""
        return self._deviation / self.count if self.count else np.ones_like(self._deviation)

    def snapshot(self, generation: int) -> tuple[np.ndarray, np.ndarray]:
        """Return mean and variance of a generation; the first call for a generation stores the current ones."""
        return self.snapshots.setdefault(generation, (self.mean.copy(), self.var.copy()))

    def update(self, moments: ObservationMoments, valid: Tensor) -> None:
        """Merge the moments of all rows of a generation, in row order.

        Args:
            moments: Moments of all rows.
            valid: `(rows,)` bool; other rows are ignored, because a broken world may show huge or NaN values.
        """
        columns = (moments.count * valid, moments.mean, moments.deviation)
        for count, mean, deviation in zip(*(column.cpu().numpy() for column in columns), strict=True):
            if count == 0:
                continue
            total = self.count + int(count)
            difference = mean - self.mean
            self.mean = self.mean + difference * (count / total)
            self._deviation = self._deviation + deviation + difference**2 * (self.count * count / total)
            self.count = total

    def state_dict(self, generations: Iterable[int]) -> dict[str, np.ndarray]:
        """Return the current statistics and those of the given generations.

        Returns:
            mean, var, deviation `(size,)`, count; `at.generation` `(s,)`, `at.mean`, `at.var` `(s, size)`.
        """
        kept = sorted(set(generations) & set(self.snapshots))
        size = len(self.mean)
        return {
            "mean": self.mean,
            "var": self.var,
            "deviation": self._deviation,
            "count": np.array(self.count),
            "at.generation": np.array(kept, np.int64),
            "at.mean": np.array([self.snapshots[g][0] for g in kept]).reshape(-1, size),
            "at.var": np.array([self.snapshots[g][1] for g in kept]).reshape(-1, size),
        }

    def load_state_dict(self, state: Mapping[str, np.ndarray]) -> None:
        """Restore what `state_dict` returned.

        Raises:
            ValueError: The statistics have another shape or are not finite; the current ones are then unchanged.
        """
        generations, size = np.asarray(state["at.generation"], np.int64), self.mean.shape
        shapes = {"mean": size, "deviation": size}
        shapes |= {name: (len(generations), *size) for name in ("at.mean", "at.var")}
        arrays = {name: np.array(state[name], np.float64) for name in shapes}
        for name, array in arrays.items():
            if array.shape != shapes[name] or not np.isfinite(array).all():
                raise ValueError(f"{name} must be finite and of shape {shapes[name]}, has shape {array.shape}")
        if (count := int(state["count"])) < 0:
            raise ValueError(f"count must not be negative, is {count}")
        self.count, self.mean, self._deviation = count, arrays["mean"], arrays["deviation"]
        rows = zip(generations.tolist(), arrays["at.mean"], arrays["at.var"], strict=True)
        self.snapshots = {generation: (mean, var) for generation, mean, var in rows}


def normalize_(observations: Tensor, mean: Tensor, deviation: Tensor, clip: float) -> Tensor:
    """Normalise observations `(n, size)` in place, clipped to +-`clip`; `deviation` comes from `deviation_of`."""
    return observations.sub_(mean).div_(deviation).clamp_(-clip, clip)


def deviation_of(var: np.ndarray, floor: float) -> Tensor:
    """Return the divisor of observations, `(size,)` float32.

    Deviations below `floor` count as `floor`, so that a constant observation is not amplified.
    """
    return torch.from_numpy(np.maximum(np.sqrt(var), floor).astype(np.float32))
