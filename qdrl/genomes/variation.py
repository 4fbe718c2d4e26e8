"""Variation operators of dense genomes.

An operator makes one child of one or two parents. All its random numbers come from the child's own stream.
"""

from typing import Annotated, Literal, Protocol

import numpy as np
from pydantic import Field

from qdrl.compute.arrays import Array
from qdrl.compute.random import normal_like
from qdrl.settings.base import SettingsModel

Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]
NotNegative = Annotated[float, Field(ge=0, allow_inf_nan=False)]


class Variation(Protocol):
    """A variation operator."""

    @property
    def parents(self) -> int:
        """Return the number of parents of a child."""
        ...

    def __call__(self, generator: np.random.Generator, *parents: Array) -> Array:
        """Return one child.

        Args:
            generator: the child's random stream.
            parents: `(parameters,)` float32 each, numpy arrays or torch tensors.

        Returns:
            `(parameters,)` float32, of the parents' type.
        """
        ...


class IsoLine(SettingsModel):
    """Iso+LineDD: Gaussian noise and a step towards a second elite (https://arxiv.org/abs/1804.03906, equation 2).

    child = x1 + iso_sigma * N(0, I) + line_sigma * N(0, 1) * (x2 - x1). The factor N(0, 1) of the line is one number
    for the whole genome. Genomes are not clipped. Defaults are those published for neural policies (Nilsson and Cully
    2021; Faldor et al. 2023).
    """

    name: Literal["iso_line"] = "iso_line"
    """Name of the operator: "iso_line"."""
    iso_sigma: NotNegative = 0.005
    """Standard deviation of the isotropic noise."""
    line_sigma: NotNegative = 0.05
    """Standard deviation of the step towards the second parent, as a multiple of the distance to it."""

    @property
    def parents(self) -> int:
        """Return 2."""
        return 2

    def __call__(self, generator: np.random.Generator, *parents: Array) -> Array:
        """Return a child of two parents; see `Variation`."""
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
        """Return 1."""
        return 1

    def __call__(self, generator: np.random.Generator, *parents: Array) -> Array:
        """Return a mutated copy of one parent; see `Variation`."""
        child = normal_like(generator, parents[0])
        child *= self.sigma
        child += parents[0]
        return child
