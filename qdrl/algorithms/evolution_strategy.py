"""What evolution strategies on one Gaussian have in common: perturbed copies of a mean, and a step of that mean.

Perturbations are mirrored (Brockhoff et al. 2010): rows 2i and 2i + 1 are the mean plus and minus the same noise, which
a number stands for, so that every rank makes the rows it evaluates and the parts of the gradient it adds. What crosses
ranks is fitness, descriptors and the parts' sum: one vector of parameters where there are as many ranks as parts.
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
    """Settings that evolution strategies share; defaults are those of Salimans et al. 2017 on Humanoid."""

    batch_size: Annotated[int, Field(ge=2, le=1_000_000)] = 1000
    """Perturbed copies a generation, an even number."""
    sigma: Positive = 0.02
    """Deviation of perturbations."""
    learning_rate: Positive = 0.01
    """Learning rate of the optimizer."""
    optimizer: Literal["adam", "momentum"] = "adam"
    """Optimizer: "adam", or "momentum" of 0.9."""
    weight_decay: Annotated[float, Field(ge=0, allow_inf_nan=False)] = 0.005
    """Factor of the mean that is added to the gradient."""
    mean_rows: Annotated[int, Field(ge=0, le=10_000)] = 1
    """Episodes of the mean itself, besides `batch_size`. They say what the run has found, and count."""
    initial: Literal["random", "zeros"] = "random"
    """The first mean: a "random" genome of the task, or "zeros", enough where policies are linear."""
    noise: Noise = KeyedNoise()
    """Source of the noise."""
    gradient_parts: Annotated[int, Field(ge=1, le=1024)] = 16
    """Parts that a gradient is added up in. Ranks share them; results depend on it, in the last bits, and not on the
    number of ranks."""

    @model_validator(mode="after")
    def _is_even(self) -> "EvolutionStrategySettings":
        if self.batch_size % 2:
            raise ValueError(f"batch_size ({self.batch_size}) must be even: perturbations come in pairs")
        return self


class Mean:
    """A mean and its optimiser.

    Attributes:
        genome: `(parameters,)` float32.

    Args:
        genome: the first one.
        settings: step size, decay and the rest.
        streams: the run's random numbers.
        noise: what perturbations are made of.
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
        """Copies of the mean as these rows of a generation see it; rows beyond the batch are the mean itself."""
        pairs = [row // 2 if row < self._settings.batch_size else None for row in rows]
        numbers = [0 if pair is None else self._number(generation, pair) for pair in pairs]
        signs = [0.0 if pair is None else 1.0 - 2.0 * (row % 2) for row, pair in zip(rows, pairs, strict=True)]
        return Perturbed(self.genome.numpy(), self._noise, numbers, [sign * self._settings.sigma for sign in signs])

    def improve(self, generation: int, weights: np.ndarray, exchange: Exchange) -> None:
        """Collective. Take one step up the gradient: sum_i (w_2i - w_2i+1) noise_i / rows, less the weight decay.

        Args:
            generation: the one whose perturbations the weights are of.
            weights: `(batch_size,)` of the perturbed rows.
            exchange: adds the parts of the gradient.
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
        """The mean and its optimiser."""
        return {"genome": self.genome.numpy().copy(), "optimizer": self._optimizer.state_dict()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore what `state_dict` returned.

        Raises:
            ValueError: it is of another shape.
        """
        load_array(self.genome, state["genome"], "the mean")
        self._optimizer.load_state_dict(state["optimizer"])

    def _number(self, generation: int, pair: int) -> int:
        return self._noise.draw(self._streams.generator(Purpose.PERTURBATION, generation, pair), len(self.genome))


class Perturbed:
    """Rows of a mean plus noise, made when they are asked for; see `qdrl.evaluation.Genomes`.

    Args:
        mean: `(parameters,)` float32.
        noise: what the numbers stand for.
        numbers: one a row.
        sigmas: one a row, 0 for the mean itself.
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
    """Ranks in [-0.5, 0.5] (Salimans et al. 2017, section 2.1): the best is 0.5.

    Equal values share the mean of their ranks, so that a plateau has no gradient; the authors' code breaks ties by
    order. Values that are NaN count as the worst.
    """
    if len(values) < 2:
        return np.zeros(len(values))
    known = np.where(np.isnan(values), -np.inf, values)
    return (rankdata(known) - 1) / (len(values) - 1) - 0.5
