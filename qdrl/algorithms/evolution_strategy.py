"""The common base of OpenAI-ES and the NS-ES family: mirrored perturbations of a mean, and gradient steps of the mean.

OpenAI-ES: https://arxiv.org/abs/1703.03864. NS-ES family: https://arxiv.org/abs/1712.06560.

Perturbations are mirrored (Brockhoff et al. 2010): rows 2i and 2i + 1 are the mean plus and minus the same noise. The
noise is identified by one number, so every rank computes the rows that it evaluates and the parts of the gradient that
it sums. Ranks exchange fitness, descriptors and the sums of parts: one vector of parameters per rank if there are as
many ranks as parts.
"""

from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Literal

import numpy as np
import torch
from pydantic import Field, model_validator
from scipy.stats import rankdata
from torch import Tensor

from qdrl.compute.arrays import load_array
from qdrl.compute.optimizers import Adam, Momentum
from qdrl.genomes.noise import KeyedNoise, Noise, NoiseSource
from qdrl.parallel.exchange import Exchange
from qdrl.settings.base import SettingsModel
from qdrl.streams import Purpose, Streams

Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]


class EvolutionStrategySettings(SettingsModel):
    """Settings that evolution strategies share.

    Defaults are those of configurations/humanoid.json of https://github.com/uber-research/deep-neuroevolution, the code
    of Such et al. 2017 and Conti et al. 2018.
    """

    batch_size: Annotated[int, Field(ge=2, le=1_000_000)] = 1000
    """Perturbations per generation, an even number. Salimans et al. 2017 use 10,000 on Humanoid."""
    sigma: Positive = 0.02
    """Standard deviation of perturbations."""
    learning_rate: Positive = 0.01
    """Learning rate of the optimiser."""
    optimizer: Literal["adam", "momentum"] = "adam"
    """Optimiser of the mean: "adam", or "momentum" with coefficient 0.9."""
    weight_decay: Annotated[float, Field(ge=0, allow_inf_nan=False)] = 0.005
    """Coefficient of weight decay: the gradient of the loss includes this times the mean."""
    mean_rows: Annotated[int, Field(ge=0, le=10_000)] = 1
    """Evaluations of the mean per generation, in addition to `batch_size`. They count in every budget."""
    initial: Literal["random", "zeros"] = "random"
    """Initial mean: "random", an initial genome of the task, or "zeros", which suits linear policies."""
    noise: Noise = KeyedNoise()
    """Source of the noise of perturbations."""
    gradient_parts: Annotated[int, Field(ge=1, le=1024)] = 16
    """Number of parts of the gradient's sum, which ranks divide among themselves. The last bits of results depend on
    it; they do not depend on the number of ranks."""

    @model_validator(mode="after")
    def _is_even(self) -> "EvolutionStrategySettings":
        if self.batch_size % 2:
            raise ValueError(f"batch_size ({self.batch_size}) must be even: perturbations come in pairs")
        return self


class Mean:
    """The mean of an evolution strategy, and its optimiser.

    Attributes:
        genome: the mean, `(parameters,)` float32.

    Args:
        genome: the initial mean, `(parameters,)`.
        settings: settings of the evolution strategy.
        streams: the run's random numbers.
        noise: source of the noise of perturbations.
    """

    def __init__(
        self, genome: np.ndarray, settings: EvolutionStrategySettings, streams: Streams, noise: NoiseSource
    ) -> None:
        self.genome = torch.tensor(genome)
        self._settings, self._streams, self._noise = settings, streams, noise
        self._gradient = torch.zeros_like(self.genome)
        kind = {"adam": Adam, "momentum": Momentum}[settings.optimizer]
        self._optimizer = kind(self.genome, self._gradient, settings.learning_rate)

    def perturbed(self, generation: int, rows: Sequence[int]) -> "Perturbed":
        """Return the perturbations of these rows; rows from `batch_size` on are the mean itself.

        Args:
            generation: index of the generation; the noise depends on it.
            rows: rows of the generation.
        """
        pairs = [row // 2 if row < self._settings.batch_size else None for row in rows]
        numbers = [0 if pair is None else self._number(generation, pair) for pair in pairs]
        signs = [0.0 if pair is None else 1.0 - 2.0 * (row % 2) for row, pair in zip(rows, pairs, strict=True)]
        return Perturbed(self.genome.numpy(), self._noise, numbers, [sign * self._settings.sigma for sign in signs])

    def improve(self, generation: int, weights: np.ndarray, exchange: Exchange) -> None:
        """Take one step of gradient ascent with weight decay. Collective.

        The gradient is sum_i (w_2i - w_2i+1) noise_i / batch_size.

        Args:
            generation: the generation of the perturbations.
            weights: `(batch_size,)` weights w of the perturbations, such as centred ranks.
            exchange: sums the parts of the gradient over ranks.
        """
        differences = (weights[::2] - weights[1::2]) / self._settings.batch_size

        def part(index: int) -> Tensor:
            total = np.zeros(len(self.genome), np.float32)
            pairs = np.array_split(np.arange(len(differences)), self._settings.gradient_parts)[index]
            for pair in pairs[differences[pairs] != 0].tolist():
                self._noise.add(total, self._number(generation, pair), float(differences[pair]))
            return torch.from_numpy(total)

        uphill = exchange.sum_blocks(part, self._settings.gradient_parts)
        torch.sub(self._settings.weight_decay * self.genome, uphill, out=self._gradient)
        self._optimizer.step()

    def state_dict(self) -> dict[str, Any]:
        """Return the mean and the optimiser's state."""
        return {"genome": self.genome.numpy().copy(), "optimizer": self._optimizer.state_dict()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore the state that `state_dict` returned.

        Raises:
            ValueError: an array has another shape.
        """
        load_array(self.genome, state["genome"], "the mean")
        self._optimizer.load_state_dict(state["optimizer"])

    def _number(self, generation: int, pair: int) -> int:
        """Return the number that identifies the noise of a pair of rows."""
        return self._noise.draw(self._streams.generator(Purpose.PERTURBATION, generation, pair), len(self.genome))


class Perturbed:
    """Perturbed copies of a mean, computed on access; implements `qdrl.evaluation.Genomes`.

    Args:
        mean: `(parameters,)` float32.
        noise: source of the noise.
        numbers: `(rows,)`, the number of each row's noise.
        sigmas: `(rows,)`, the factor of each row's noise, negative for the second of a pair; 0 for the mean itself.
    """

    def __init__(self, mean: np.ndarray, noise: NoiseSource, numbers: Sequence[int], sigmas: Sequence[float]) -> None:
        self._mean, self._noise, self._rows = mean.copy(), noise, list(zip(numbers, sigmas, strict=True))

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, rows: slice) -> Tensor:
        some = self._rows[rows]
        genomes = np.repeat(self._mean[None], len(some), axis=0)
        for genome, (number, sigma) in zip(genomes, some, strict=True):
            if sigma:
                self._noise.add(genome, number, sigma)
        return torch.from_numpy(genomes)


def centred_ranks(values: np.ndarray) -> np.ndarray:
    """Return ranks scaled to [-0.5, 0.5] (Salimans et al. 2017, section 2.1); the highest value has 0.5.

    Equal values have the mean of their ranks, so that the gradient of a plateau is zero. The authors' code breaks ties
    by order. NaN ranks lowest.

    Args:
        values: `(rows,)`.

    Returns:
        `(rows,)` float64.
    """
    if len(values) < 2:
        return np.zeros(len(values))
    known = np.where(np.isnan(values), -np.inf, values)
    return (rankdata(known) - 1) / (len(values) - 1) - 0.5
