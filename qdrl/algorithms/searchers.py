"""EvoTorch's searchers behind one interface: `ask` returns rows, `tell` takes their fitness, the state is tensors.

EvoTorch: Toklu et al. 2023, https://arxiv.org/abs/2302.12600. `qdrl.algorithms.searcher_settings` links the papers of
the searchers. Only this module and `cmaes_searcher` import EvoTorch.

EvoTorch's classes evaluate the population within a step. Here the evaluation is done between `ask` and `tell`: PGPE and
CEM use EvoTorch's functional API, SNES and XNES its distributions, and CMA-ES takes steps on a problem that returns the
fitness given to `tell`. Each `ask` seeds its own random generator, so no generator state is kept between calls and the
same rows can be drawn again.
"""

import math
from collections.abc import Mapping
from typing import Any, Protocol

import torch
from evotorch.algorithms.functional import cem, cem_tell, pgpe, pgpe_tell
from evotorch.distributions import ExpGaussian, ExpSeparableGaussian, SeparableGaussian
from torch import Tensor

from qdrl.algorithms.cmaes_searcher import CmaesSearcher
from qdrl.algorithms.searcher_settings import Adam, Cem, Cmaes, Pgpe, SearcherSettings, Snes, Xnes

State = Mapping[str, Tensor]


class Searcher(Protocol):
    """A search distribution over genomes that is updated to maximise fitness."""

    @property
    def mean(self) -> Tensor:
        """Return the mean of the distribution, `(parameters,)`."""
        ...

    @property
    def stdev(self) -> Tensor:
        """Return the standard deviation of each parameter, `(parameters,)`."""
        ...

    def ask(self, seed: int) -> Tensor:
        """Draw `(batch_size, parameters)` rows; the same state and seed give the same rows."""
        ...

    def tell(self, rows: Tensor, fitness: Tensor) -> None:
        """Update the distribution from the fitness of rows that it drew.

        Args:
            rows: `(rows, parameters)`, the result of the last `ask`, or of several calls, concatenated in order. CMA-ES
                accepts only one call.
            fitness: `(rows,)`; higher is better.

        Raises:
            torch.linalg.LinAlgError: the covariance matrix cannot be decomposed; the searcher must then be restored.
        """
        ...

    def state(self) -> dict[str, Tensor]:
        """Return the state that `tell` changes, as tensors by name."""
        ...

    def restore(self, state: State) -> None:
        """Restore the state that `state` returned; `ask` must precede the next `tell`."""
        ...


def make_searcher(settings: SearcherSettings, mean: Tensor, batch_size: int) -> Searcher:
    """Return the searcher of the settings.

    Args:
        settings: the searcher and its options.
        mean: `(parameters,)` float32, the initial mean.
        batch_size: rows that `ask` draws.
    """
    if isinstance(settings, Pgpe):
        return PgpeSearcher(settings, mean, batch_size)
    if isinstance(settings, Cem):
        return CemSearcher(settings, mean, batch_size)
    if isinstance(settings, Cmaes):
        return CmaesSearcher(settings, mean, batch_size)
    return NaturalSearcher(settings, mean, batch_size)


class PgpeSearcher:
    """PGPE with ClipUp or Adam in float32; see `make_searcher` for the arguments."""

    def __init__(self, settings: Pgpe, mean: Tensor, batch_size: int) -> None:
        optimizer = settings.optimizer
        if isinstance(optimizer, Adam):
            rate, config = optimizer.learning_rate, optimizer.model_dump(include={"beta1", "beta2", "epsilon"})
        else:
            rate = optimizer.step_size or optimizer.max_speed / 2
            config = optimizer.model_dump(include={"max_speed", "momentum"})
        self._batch_size = batch_size
        self._symmetric = settings.symmetric
        self._state = pgpe(
            center_init=mean,
            center_learning_rate=rate,
            optimizer=optimizer.name,
            optimizer_config=config,
            objective_sense="max",
            ranking_method=settings.ranking,
            symmetric=settings.symmetric,
            stdev_init=settings.first_stdev(len(mean)),
            stdev_learning_rate=settings.stdev_learning_rate,
            **settings.model_dump(include={"stdev_min", "stdev_max", "stdev_max_change"}),
        )

    @property
    def mean(self) -> Tensor:
        """Return the mean, `(parameters,)`."""
        return self._state.optimizer_state.center

    @property
    def stdev(self) -> Tensor:
        """Return the standard deviation of each parameter, `(parameters,)`."""
        return self._state.stdev

    def ask(self, seed: int) -> Tensor:
        """Draw rows from the separable Gaussian, in mirrored pairs if `symmetric` is set."""
        if not self._symmetric:
            return _draw(SeparableGaussian({"mu": self.mean, "sigma": self.stdev}), self._batch_size, seed)
        # Mirrored pairs. EvoTorch's own symmetric distribution writes to every second row of an array, which took four
        # times as long.
        around_zero = SeparableGaussian({"mu": torch.zeros_like(self.mean), "sigma": self.stdev})
        noise = _draw(around_zero, self._batch_size // 2, seed)
        return torch.stack([self.mean + noise, self.mean - noise], dim=1).flatten(0, 1)

    def tell(self, rows: Tensor, fitness: Tensor) -> None:
        """Take one step of the optimiser along the gradient, and update the standard deviations."""
        self._state = pgpe_tell(self._state, rows, fitness)

    def state(self) -> dict[str, Tensor]:
        """Return the state of the optimiser, with the mean as `center`, and the standard deviations as `stdev`."""
        return {**self._state.optimizer_state._asdict(), "stdev": self.stdev}

    def restore(self, state: State) -> None:
        """Restore the state that `state` returned."""
        moved = {name: value for name, value in state.items() if name != "stdev"}
        optimizer = self._state.optimizer_state._replace(**moved)
        self._state = self._state._replace(optimizer_state=optimizer, stdev=state["stdev"])


class CemSearcher:
    """The cross-entropy method in float32; see `make_searcher` for the arguments."""

    def __init__(self, settings: Cem, mean: Tensor, batch_size: int) -> None:
        self._batch_size = batch_size
        self._state = cem(
            center_init=mean,
            objective_sense="max",
            parenthood_ratio=settings.parenthood_ratio,
            stdev_init=settings.initial_stdev,
            **settings.model_dump(include={"stdev_min", "stdev_max", "stdev_max_change"}),
        )

    @property
    def mean(self) -> Tensor:
        """Return the mean, `(parameters,)`."""
        return self._state.center

    @property
    def stdev(self) -> Tensor:
        """Return the standard deviation of each parameter, `(parameters,)`."""
        return self._state.stdev

    def ask(self, seed: int) -> Tensor:
        """Draw rows from the separable Gaussian."""
        return _draw(SeparableGaussian({"mu": self.mean, "sigma": self.stdev}), self._batch_size, seed)

    def tell(self, rows: Tensor, fitness: Tensor) -> None:
        """Set mean and standard deviations to those of the best rows."""
        self._state = cem_tell(self._state, rows, fitness)

    def state(self) -> dict[str, Tensor]:
        """Return the mean as `center` and the standard deviations as `stdev`."""
        return {"center": self.mean, "stdev": self.stdev}

    def restore(self, state: State) -> None:
        """Restore the state that `state` returned."""
        self._state = self._state._replace(**state)


class NaturalSearcher:
    """SNES in float32 and XNES in float64; see `make_searcher` for the arguments.

    XNES updates its matrix and the inverse of that matrix separately. In float32 their product drifts from the
    identity.
    """

    def __init__(self, settings: Snes | Xnes, mean: Tensor, batch_size: int) -> None:
        count = len(mean)
        if isinstance(settings, Snes):
            kind, rate = ExpSeparableGaussian, 0.2 * (3 + math.log(count)) / math.sqrt(count)
        else:
            kind, rate = ExpGaussian, 0.6 * (3 + math.log(count)) / (count * math.sqrt(count))
            mean = mean.double()
        self._batch_size = batch_size
        self._ranking = settings.ranking
        self._rates = {"mu": settings.mean_learning_rate, "sigma": settings.stdev_learning_rate or rate}
        self._distribution = kind({"mu": mean, "sigma": torch.full_like(mean, settings.initial_stdev)})

    @property
    def mean(self) -> Tensor:
        """Return the mean, `(parameters,)`."""
        return self._distribution.mu

    @property
    def stdev(self) -> Tensor:
        """Return the standard deviation of each parameter, `(parameters,)`."""
        sigma = self._distribution.sigma
        return sigma if sigma.ndim == 1 else sigma.norm(dim=1)

    def ask(self, seed: int) -> Tensor:
        """Draw rows from the Gaussian, separable for SNES and full for XNES."""
        return _draw(self._distribution, self._batch_size, seed)

    def tell(self, rows: Tensor, fitness: Tensor) -> None:
        """Take one step along the natural gradient of the ranked fitness."""
        gradients = self._distribution.compute_gradients(
            rows, fitness, objective_sense="max", ranking_method=self._ranking
        )
        self._distribution = self._distribution.update_parameters(gradients, learning_rates=dict(self._rates))

    def state(self) -> dict[str, Tensor]:
        """Return the parameters of the distribution by EvoTorch's names."""
        return dict(self._distribution.parameters)

    def restore(self, state: State) -> None:
        """Restore the state that `state` returned."""
        self._distribution = self._distribution.modified_copy(**state)


def _draw(distribution: Any, count: int, seed: int) -> Tensor:
    """Return `(count, parameters)` samples of a distribution of EvoTorch."""
    return distribution.sample(count, generator=torch.Generator().manual_seed(seed))
