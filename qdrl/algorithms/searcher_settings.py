"""Settings of EvoTorch's searchers; defaults are published values where there are any.

- PGPE: Sehnke et al. 2010, https://doi.org/10.1016/j.neunet.2009.12.004.
- ClipUp: Toklu et al. 2020, https://arxiv.org/abs/2008.02387. Adam: Kingma and Ba 2015,
  https://arxiv.org/abs/1412.6980.
- SNES and XNES: Wierstra et al. 2014, https://jmlr.org/papers/v15/wierstra14a.html.
- CEM: Szita and Lorincz 2006, "Learning Tetris using the noisy cross-entropy method",
  https://doi.org/10.1162/neco.2006.18.12.2936.
- CMA-ES: Hansen 2016, https://arxiv.org/abs/1604.00772.
"""

import math
from typing import Annotated, Literal

from pydantic import Field, model_validator

from qdrl.settings.base import SettingsModel

Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]
NotNegative = Annotated[float, Field(ge=0, allow_inf_nan=False)]
Momentum = Annotated[float, Field(ge=0, lt=1)]
Ranking = Literal["centered", "nes", "normalized"]


class ClipUp(SettingsModel):
    """ClipUp (Toklu et al. 2020): gradient steps of fixed length, with momentum and a maximum speed."""

    name: Literal["clipup"] = "clipup"
    max_speed: Positive = 0.15
    """Maximum Euclidean length of the velocity, a step of the mean. Toklu et al. use 0.015 for linear policies of
    Walker2d and Humanoid, and 0.3 for LunarLander; 0.15 is the default of their script. On Humanoid their outputs are
    controls of at most 0.4, here fractions of it, so that the same length is 0.0375."""
    step_size: Positive | None = None
    """Euclidean length of the normalised gradient that is added to the velocity; half of `max_speed` by default, as in
    the paper. The authors' later script uses 0.75 of `max_speed` (their section 5.4)."""
    momentum: Momentum = 0.9
    """Fraction of the velocity that is kept at each step."""


class Adam(SettingsModel):
    """Adam (Kingma and Ba 2015)."""

    name: Literal["adam"] = "adam"
    learning_rate: Positive = 4e-3
    """Learning rate of the mean. Toklu et al. use 6e-4 for Humanoid and 4e-3 for Walker2d."""
    beta1: Momentum = 0.9
    """Decay rate of the first moment."""
    beta2: Momentum = 0.999
    """Decay rate of the second moment."""
    epsilon: Positive = 1e-8
    """Constant added to the square root of the second moment."""


class _Limits(SettingsModel):
    """Limits on the standard deviation of each parameter."""

    stdev_min: NotNegative = 0.0
    """Lower bound of each standard deviation."""
    stdev_max: Positive | None = None
    """Upper bound of each standard deviation; none by default."""
    stdev_max_change: Positive | None = None
    """Largest relative change of a standard deviation in one generation; unlimited by default."""


class Pgpe(_Limits):
    """PGPE (Sehnke et al. 2010) as in Toklu et al. 2020: centred ranks, symmetric sampling, ClipUp."""

    name: Literal["pgpe"] = "pgpe"
    optimizer: Annotated[ClipUp | Adam, Field(discriminator="name")] = ClipUp()
    """Optimiser of the mean."""
    initial_radius: Positive | None = None
    """Euclidean norm of the initial standard deviations; 15 times ClipUp's `max_speed` by default, as the authors'
    script has it for Walker2d. For Humanoid it has 18 times."""
    initial_stdev: Positive | None = None
    """Initial standard deviation of each parameter, instead of `initial_radius`."""
    stdev_learning_rate: Positive = 0.1
    """Learning rate of the standard deviations."""
    stdev_max_change: Positive | None = 0.2
    """Largest relative change of a standard deviation in one generation."""
    ranking: Ranking = "centered"
    """Transformation of fitness: "centered", ranks in [-0.5, 0.5]; "nes", the utilities of natural evolution
    strategies; "normalized", fitness scaled to mean 0 and standard deviation 1."""
    symmetric: bool = True
    """Draw rows in mirrored pairs around the mean."""

    @model_validator(mode="after")
    def _one_width(self) -> "Pgpe":
        if self.initial_radius is not None and self.initial_stdev is not None:
            raise ValueError("initial_radius and initial_stdev exclude each other: set one of them")
        if self.initial_radius is None and self.initial_stdev is None and isinstance(self.optimizer, Adam):
            raise ValueError("with adam, set initial_radius or initial_stdev: only clipup has a default")
        return self

    def first_stdev(self, parameters: int) -> float:
        """Return the initial standard deviation of each parameter, for genomes of `parameters` numbers."""
        if self.initial_stdev is not None:
            return self.initial_stdev
        default = 15 * self.optimizer.max_speed if isinstance(self.optimizer, ClipUp) else math.nan
        return (self.initial_radius or default) / math.sqrt(parameters)


class Snes(SettingsModel):
    """Separable natural evolution strategies (Schaul et al. 2011): one standard deviation per parameter."""

    name: Literal["snes"] = "snes"
    initial_stdev: Positive
    """Initial standard deviation of each parameter."""
    mean_learning_rate: Positive = 1.0
    """Learning rate of the mean."""
    stdev_learning_rate: Positive | None = None
    """Learning rate of the standard deviations; (3 + ln n) / (5 sqrt n) for n parameters by default."""
    ranking: Ranking = "nes"
    """Transformation of fitness: "nes", "centered" or "normalized"; see the same setting of pgpe."""


class Xnes(SettingsModel):
    """Exponential natural evolution strategies (Glasmachers et al. 2010): a full covariance matrix."""

    name: Literal["xnes"] = "xnes"
    initial_stdev: Positive
    """Initial standard deviation of each parameter."""
    mean_learning_rate: Positive = 1.0
    """Learning rate of the mean."""
    stdev_learning_rate: Positive | None = None
    """Learning rate of the covariance matrix; 0.6 (3 + ln n) / (n sqrt n) for n parameters by default."""
    ranking: Ranking = "nes"
    """Transformation of fitness: "nes", "centered" or "normalized"; see the same setting of pgpe."""


class Cem(_Limits):
    """The cross-entropy method: mean and standard deviations of the next generation are those of the best rows."""

    name: Literal["cem"] = "cem"
    initial_stdev: Positive
    """Initial standard deviation of each parameter."""
    parenthood_ratio: Annotated[float, Field(gt=0, le=1)] = 0.1
    """Fraction of the rows that are parents; 0.1 as in Szita and Lorincz 2006."""


class Cmaes(SettingsModel):
    """CMA-ES (Hansen 2016); learning rates are functions of genome length and population size."""

    name: Literal["cmaes"] = "cmaes"
    initial_stdev: Positive
    """Initial standard deviation of each parameter."""
    separable: bool = False
    """Use a diagonal covariance matrix (Ros and Hansen 2008), for long genomes."""
    active: bool = True
    """Use negative weights for the worse half of the rows in the update of the covariance matrix."""


SearcherSettings = Pgpe | Snes | Xnes | Cem | Cmaes
