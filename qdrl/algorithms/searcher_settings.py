"""What an experiment may say about EvoTorch's searchers; defaults are published values wherever there are any."""

import math
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]
NotNegative = Annotated[float, Field(ge=0, allow_inf_nan=False)]
Momentum = Annotated[float, Field(ge=0, lt=1)]
Ranking = Literal["centered", "nes", "normalized"]


class _Settings(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class ClipUp(_Settings):
    """ClipUp (Toklu et al. 2020): steps of one length, whatever the gradient's, and a limit on the speed.

    Attributes:
        max_speed: the longest step of the mean, a Euclidean length. Toklu et al. have 0.015 for linear policies of
            Walker2d and Humanoid, 0.3 for LunarLander; 0.15 is what their script starts from.
        step_size: length of what a gradient adds to the velocity; half of `max_speed` when left out, as in the paper.
            The authors' later script has 0.75 of it (their section 5.4).
        momentum: what stays of the velocity.
    """

    name: Literal["clipup"] = "clipup"
    max_speed: Positive = 0.15
    step_size: Positive | None = None
    momentum: Momentum = 0.9


class Adam(_Settings):
    """Adam (Kingma and Ba 2015).

    Attributes:
        learning_rate: Toklu et al. have 6e-4 for Humanoid and 4e-3 for Walker2d.
        beta1: decay of the first moment.
        beta2: decay of the second moment.
        epsilon: added to the root of the second moment.
    """

    name: Literal["adam"] = "adam"
    learning_rate: Positive = 4e-3
    beta1: Momentum = 0.9
    beta2: Momentum = 0.999
    epsilon: Positive = 1e-8


class _Limits(_Settings):
    """Limits on the deviation of each parameter.

    Attributes:
        stdev_min: never below.
        stdev_max: never above.
        stdev_max_change: most it changes in a generation, as a share of itself.
    """

    stdev_min: NotNegative = 0.0
    stdev_max: Positive | None = None
    stdev_max_change: Positive | None = None


class Pgpe(_Limits):
    """PGPE (Sehnke et al. 2010) as Toklu et al. 2020 use it: ranks, symmetric rows, ClipUp.

    Attributes:
        optimizer: what moves the mean along the gradient.
        initial_radius: Euclidean length of the first deviations; 15 times ClipUp's `max_speed` when left out.
        initial_stdev: the first deviation of each parameter, instead of `initial_radius`.
        stdev_learning_rate: of the deviations.
        ranking: what fitness is turned into: "centered" ranks in [-0.5, 0.5], "nes" the utilities of natural evolution
            strategies, "normalized" to mean 0 and deviation 1.
        symmetric: draw rows in pairs on both sides of the mean.
    """

    name: Literal["pgpe"] = "pgpe"
    optimizer: Annotated[ClipUp | Adam, Field(discriminator="name")] = ClipUp()
    initial_radius: Positive | None = None
    initial_stdev: Positive | None = None
    stdev_learning_rate: Positive = 0.1
    stdev_max_change: Positive | None = 0.2
    ranking: Ranking = "centered"
    symmetric: bool = True

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


class Snes(_Settings):
    """Separable natural evolution strategies (Schaul et al. 2011): one deviation a parameter.

    Attributes:
        initial_stdev: the first deviation of each parameter.
        mean_learning_rate: of the mean.
        stdev_learning_rate: of the deviations; (3 + ln n) / (5 sqrt n) for n parameters when left out.
        ranking: see `Pgpe`.
    """

    name: Literal["snes"] = "snes"
    initial_stdev: Positive
    mean_learning_rate: Positive = 1.0
    stdev_learning_rate: Positive | None = None
    ranking: Ranking = "nes"


class Xnes(_Settings):
    """Exponential natural evolution strategies (Glasmachers et al. 2010): a full covariance matrix.

    Attributes:
        initial_stdev: the first deviation of each parameter.
        mean_learning_rate: of the mean.
        stdev_learning_rate: of the covariance; 0.6 (3 + ln n) / (n sqrt n) for n parameters when left out.
        ranking: see `Pgpe`.
    """

    name: Literal["xnes"] = "xnes"
    initial_stdev: Positive
    mean_learning_rate: Positive = 1.0
    stdev_learning_rate: Positive | None = None
    ranking: Ranking = "nes"


class Cem(_Limits):
    """The cross-entropy method: the next generation is drawn around the best rows, with their deviations.

    Attributes:
        initial_stdev: the first deviation of each parameter.
        parenthood_ratio: share of the rows that count as best; a tenth as in Szita and Lorincz 2006.
    """

    name: Literal["cem"] = "cem"
    initial_stdev: Positive
    parenthood_ratio: Annotated[float, Field(gt=0, le=1)] = 0.1


class Cmaes(_Settings):
    """CMA-ES (Hansen 2016, "The CMA Evolution Strategy: A Tutorial"), whose learning rates follow from the sizes.

    Attributes:
        initial_stdev: the first deviation of each parameter.
        separable: learn only the diagonal of the covariance matrix (Ros and Hansen 2008): for long genomes.
        active: let the worse half of the rows shrink the covariance where they lie.
    """

    name: Literal["cmaes"] = "cmaes"
    initial_stdev: Positive
    separable: bool = False
    active: bool = True


SearcherSettings = Pgpe | Snes | Xnes | Cem | Cmaes
