"""What an experiment may say about EvoTorch's searchers; defaults are published values wherever there are any."""

import math
from typing import Annotated, Literal

from pydantic import Field, model_validator

from qdrl.settings.base import SettingsModel

Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]
NotNegative = Annotated[float, Field(ge=0, allow_inf_nan=False)]
Momentum = Annotated[float, Field(ge=0, lt=1)]
Ranking = Literal["centered", "nes", "normalized"]


class ClipUp(SettingsModel):
    """ClipUp (Toklu et al. 2020): steps of one length, whatever the gradient's, and a limit on the speed."""

    name: Literal["clipup"] = "clipup"
    max_speed: Positive = 0.15
    """The longest step of the mean, a Euclidean length. Toklu et al. have 0.015 for linear policies of Walker2d and
    Humanoid, 0.3 for LunarLander; 0.15 is what their script starts from."""
    step_size: Positive | None = None
    """Length of what a gradient adds to the velocity; half of `max_speed` when left out, as in the paper. The authors'
    later script has 0.75 of it (their section 5.4)."""
    momentum: Momentum = 0.9
    """What stays of the velocity."""


class Adam(SettingsModel):
    """Adam (Kingma and Ba 2015)."""

    name: Literal["adam"] = "adam"
    learning_rate: Positive = 4e-3
    """Toklu et al. have 6e-4 for Humanoid and 4e-3 for Walker2d."""
    beta1: Momentum = 0.9
    """Decay of the first moment."""
    beta2: Momentum = 0.999
    """Decay of the second moment."""
    epsilon: Positive = 1e-8
    """Added to the root of the second moment."""


class _Limits(SettingsModel):
    """Limits on the deviation of each parameter."""

    stdev_min: NotNegative = 0.0
    """Lower bound of each deviation."""
    stdev_max: Positive | None = None
    """Upper bound of each deviation."""
    stdev_max_change: Positive | None = None
    """Largest change of a deviation in a generation, as a share of it."""


class Pgpe(_Limits):
    """PGPE (Sehnke et al. 2010) as Toklu et al. 2020 use it: ranks, symmetric rows, ClipUp."""

    name: Literal["pgpe"] = "pgpe"
    optimizer: Annotated[ClipUp | Adam, Field(discriminator="name")] = ClipUp()
    """What moves the mean along the gradient."""
    initial_radius: Positive | None = None
    """Euclidean length of the first deviations; 15 times ClipUp's `max_speed` when left out."""
    initial_stdev: Positive | None = None
    """The first deviation of each parameter, instead of `initial_radius`."""
    stdev_learning_rate: Positive = 0.1
    """Learning rate of the deviations."""
    stdev_max_change: Positive | None = 0.2
    ranking: Ranking = "centered"
    """What fitness is turned into: "centered" ranks in [-0.5, 0.5], "nes" the utilities of natural evolution
    strategies, "normalized" to mean 0 and deviation 1."""
    symmetric: bool = True
    """Draw rows in pairs on both sides of the mean."""

    @model_validator(mode="after")
    def _one_width(self) -> "Pgpe":
        if self.initial_radius is not None and self.initial_stdev is not None:
            raise ValueError("initial_radius and initial_stdev say the same thing: set one of them")
        if self.initial_radius is None and self.initial_stdev is None and isinstance(self.optimizer, Adam):
            raise ValueError("with adam, set initial_radius or initial_stdev (clipup has 15 max_speed)")
        return self

    def first_stdev(self, parameters: int) -> float:
        """The first deviation of each parameter of a genome of that length."""
        if self.initial_stdev is not None:
            return self.initial_stdev
        default = 15 * self.optimizer.max_speed if isinstance(self.optimizer, ClipUp) else math.nan
        return (self.initial_radius or default) / math.sqrt(parameters)


class Snes(SettingsModel):
    """Separable natural evolution strategies (Schaul et al. 2011): one deviation a parameter."""

    name: Literal["snes"] = "snes"
    initial_stdev: Positive
    """The first deviation of each parameter."""
    mean_learning_rate: Positive = 1.0
    """Learning rate of the mean."""
    stdev_learning_rate: Positive | None = None
    """Learning rate of the deviations; (3 + ln n) / (5 sqrt n) for n parameters when left out."""
    ranking: Ranking = "nes"
    """See `Pgpe`."""


class Xnes(SettingsModel):
    """Exponential natural evolution strategies (Glasmachers et al. 2010): a full covariance matrix."""

    name: Literal["xnes"] = "xnes"
    initial_stdev: Positive
    """The first deviation of each parameter."""
    mean_learning_rate: Positive = 1.0
    """Learning rate of the mean."""
    stdev_learning_rate: Positive | None = None
    """Of the covariance; 0.6 (3 + ln n) / (n sqrt n) for n parameters when left out."""
    ranking: Ranking = "nes"
    """See `Pgpe`."""


class Cem(_Limits):
    """The cross-entropy method: the next generation is drawn around the best rows, with their deviations."""

    name: Literal["cem"] = "cem"
    initial_stdev: Positive
    """The first deviation of each parameter."""
    parenthood_ratio: Annotated[float, Field(gt=0, le=1)] = 0.1
    """Share of the rows that count as best; a tenth as in Szita and Lorincz 2006."""


class Cmaes(SettingsModel):
    """CMA-ES (Hansen 2016, "The CMA Evolution Strategy: A Tutorial"), whose learning rates follow from the sizes."""

    name: Literal["cmaes"] = "cmaes"
    initial_stdev: Positive
    """The first deviation of each parameter."""
    separable: bool = False
    """Learn only the diagonal of the covariance matrix (Ros and Hansen 2008): for long genomes."""
    active: bool = True
    """Let the worse half of the rows shrink the covariance where they lie."""


SearcherSettings = Pgpe | Snes | Xnes | Cem | Cmaes
