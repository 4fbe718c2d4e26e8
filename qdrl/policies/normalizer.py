"""Running normalisation of observations, the same on every rank, kept with every elite.

During a generation the statistics stand still, so a row's result does not depend on its neighbours. After it they
absorb the moments of all rows, combined in row order (Chan, Golub and LeVeque 1983), so that they are the same bits
for any number of ranks. An elite is bound to the statistics it was evaluated with: `snapshots` keeps those of every
generation, and a file stores the ones its elites need.
"""

from collections.abc import Iterable, Mapping

import numpy as np
import torch
from torch import Tensor

from qdrl.evaluation import ObservationMoments

CLIP = 10.0
FLOOR = 1e-2


class ObservationNormalizer:
    """(observation - mean) / deviation, clipped to +-10.

    Deviations below 0.01 count as 0.01, so that a constant observation is not blown up.

    Args:
        size: numbers in an observation.
    """

    def __init__(self, size: int) -> None:
        self.count = 0
        self.mean = np.zeros(size)
        self._deviation = np.zeros(size)
        self.snapshots: dict[int, tuple[np.ndarray, np.ndarray]] = {}

    @property
    def var(self) -> np.ndarray:
        """`(size,)` variance; ones before anything was seen."""
        return self._deviation / self.count if self.count else np.ones_like(self._deviation)

    def snapshot(self, generation: int) -> tuple[np.ndarray, np.ndarray]:
        """Mean and variance in force during a generation, remembered from its first use."""
        return self.snapshots.setdefault(generation, (self.mean.copy(), self.var.copy()))

    def update(self, moments: ObservationMoments, valid: Tensor) -> None:
        """Absorb the moments of all rows of a generation, in row order.

        Args:
            moments: of all rows.
            valid: `(rows,)` bool; the other rows are left out, for what a broken world shows may be huge or NaN.
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
        """Current statistics, and those in force during the given generations.

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
            ValueError: the statistics are of other observations, or not finite; these are then as they were.
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


def normalize_(observations: Tensor, mean: Tensor, deviation: Tensor) -> Tensor:
    """Normalise observations `(n, size)` in place; `deviation` comes from `deviation_of`."""
    return observations.sub_(mean).div_(deviation).clamp_(-CLIP, CLIP)


def deviation_of(var: np.ndarray) -> Tensor:
    """What observations are divided by, `(size,)` float32."""
    return torch.from_numpy(np.maximum(np.sqrt(var), FLOOR).astype(np.float32))
