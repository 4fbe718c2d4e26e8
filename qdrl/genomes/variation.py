"""How dense genomes vary: one parent or two in, one child out, all randomness from the child's own stream."""

from typing import Annotated, Literal, Protocol

import numpy as np
from pydantic import Field

from qdrl.compute.arrays import Array
from qdrl.compute.random import normal_like
from qdrl.settings.base import SettingsModel

Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]
NotNegative = Annotated[float, Field(ge=0, allow_inf_nan=False)]


class Variation(Protocol):
    """A variation operator; `parents` says how many it takes."""

    @property
    def parents(self) -> int: ...

    def __call__(self, generator: np.random.Generator, *parents: Array) -> Array:
        """Parents `(parameters,)` float32 each, numpy's or torch's -> one child of the same shape and kind."""
        ...


class IsoLine(SettingsModel):
    """Iso+LineDD (Vassiliades and Mouret 2018, equation 2): Gaussian noise and a step towards a second elite.

    child = x1 + iso_sigma * N(0, I) + line_sigma * N(0, 1) * (x2 - x1), one line scalar for the whole genome, no
    clipping. Defaults are those published for neural policies (Nilsson and Cully 2021; Faldor et al. 2023).
    """

    name: Literal["iso_line"] = "iso_line"
    """Name of the operator: "iso_line"."""
    iso_sigma: NotNegative = 0.005
    """Standard deviation of the isotropic noise."""
    line_sigma: NotNegative = 0.05
    """Standard deviation of the step towards the second parent, as a multiple of the distance to it."""

    @property
    def parents(self) -> int:
        return 2

    def __call__(self, generator: np.random.Generator, *parents: Array) -> Array:
        first, second = parents
        line = self.line_sigma * generator.standard_normal()
        child = normal_like(generator, first)
        child *= self.iso_sigma
        child += first
        child += line * (second - first)
        return child


class Gaussian(SettingsModel):
    """Isotropic Gaussian mutation: child = x + sigma * N(0, I)."""

    name: Literal["gaussian"] = "gaussian"
    """Name of the operator: "gaussian"."""
    sigma: Positive = 0.01
    """Standard deviation of the noise."""

    @property
    def parents(self) -> int:
        return 1

    def __call__(self, generator: np.random.Generator, *parents: Array) -> Array:
        child = normal_like(generator, parents[0])
        child *= self.sigma
        child += parents[0]
        return child
