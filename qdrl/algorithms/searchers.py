"""EvoTorch's searchers behind one small interface: rows out, fitness in, and a state that is nothing but tensors.

This is the only file that imports EvoTorch. Each searcher is cut in two at its evaluation, by public means: PGPE and
CEM are EvoTorch's functional ones, SNES and XNES its distributions, and CMA-ES is stepped on a problem that answers
with the fitness it was told. All draw from a generator that a seed sets for each generation, so that no generator
lives between calls and rows can be drawn again at any time.
"""

import math
import warnings
from collections.abc import Mapping
from typing import Any, Protocol

import torch
from evotorch import Problem, SolutionBatch
from evotorch.algorithms import CMAES
from evotorch.algorithms.functional import cem, cem_tell, pgpe, pgpe_tell
from evotorch.distributions import ExpGaussian, ExpSeparableGaussian, SeparableGaussian
from torch import Tensor

from qdrl.algorithms.searcher_settings import Adam, Cem, Cmaes, Pgpe, SearcherSettings, Snes, Xnes

State = Mapping[str, Tensor]


class Searcher(Protocol):
    """A distribution over genomes that moves towards fitness."""

    @property
    def mean(self) -> Tensor:
        """`(parameters,)`, where its middle is."""
        ...

    @property
    def stdev(self) -> Tensor:
        """`(parameters,)`, the deviation of each parameter."""
        ...

    def ask(self, seed: int) -> Tensor:
        """Draw the rows that a seed stands for, `(batch_size, parameters)`."""
        ...

    def tell(self, fitness: Tensor) -> None:
        """Move, given the fitness `(batch_size,)` of the rows last asked for; higher is better.

        Raises:
            torch.linalg.LinAlgError: the covariance has lost its rank; the searcher is then in no state to go on.
        """
        ...

    def state(self) -> dict[str, Tensor]:
        """What changes from generation to generation."""
        ...

    def restore(self, state: State) -> None:
        """Put back what `state` gave; rows have to be asked for again."""
        ...


def make_searcher(settings: SearcherSettings, mean: Tensor, batch_size: int) -> Searcher:
    """The searcher that the settings describe.

    Args:
        settings: which one, and its options.
        mean: `(parameters,)` float32, the first one.
        batch_size: rows a generation.
    """
    if isinstance(settings, Pgpe):
        return PgpeSearcher(settings, mean, batch_size)
    if isinstance(settings, Cem):
        return CemSearcher(settings, mean, batch_size)
    if isinstance(settings, Cmaes):
        return CmaesSearcher(settings, mean, batch_size)
    return NaturalSearcher(settings, mean, batch_size)


class PgpeSearcher:
    """PGPE with ClipUp or Adam, see `Searcher`."""

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
        return self._state.optimizer_state.center

    @property
    def stdev(self) -> Tensor:
        return self._state.stdev

    def ask(self, seed: int) -> Tensor:
        if not self._symmetric:
            self._rows = _draw(SeparableGaussian({"mu": self.mean, "sigma": self.stdev}), self._batch_size, seed)
            return self._rows
        # In pairs on both sides of the mean. EvoTorch's own symmetric draw fills every second row of an array, which
        # was measured to take four times as long.
        around_zero = SeparableGaussian({"mu": torch.zeros_like(self.mean), "sigma": self.stdev})
        noise = _draw(around_zero, self._batch_size // 2, seed)
        self._rows = torch.stack([self.mean + noise, self.mean - noise], dim=1).flatten(0, 1)
        return self._rows

    def tell(self, fitness: Tensor) -> None:
        self._state = pgpe_tell(self._state, self._rows, fitness)

    def state(self) -> dict[str, Tensor]:
        return {**self._state.optimizer_state._asdict(), "stdev": self.stdev}

    def restore(self, state: State) -> None:
        moved = {name: value for name, value in state.items() if name != "stdev"}
        optimizer = self._state.optimizer_state._replace(**moved)
        self._state = self._state._replace(optimizer_state=optimizer, stdev=state["stdev"])


class CemSearcher:
    """The cross-entropy method, see `Searcher`."""

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
        return self._state.center

    @property
    def stdev(self) -> Tensor:
        return self._state.stdev

    def ask(self, seed: int) -> Tensor:
        self._rows = _draw(SeparableGaussian({"mu": self.mean, "sigma": self.stdev}), self._batch_size, seed)
        return self._rows

    def tell(self, fitness: Tensor) -> None:
        self._state = cem_tell(self._state, self._rows, fitness)

    def state(self) -> dict[str, Tensor]:
        return {"center": self.mean, "stdev": self.stdev}

    def restore(self, state: State) -> None:
        self._state = self._state._replace(**state)


class NaturalSearcher:
    """SNES and XNES, see `Searcher`.

    XNES moves its matrix and that matrix's inverse apart from each other, and in float32 they drift; it has float64.
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
        return self._distribution.mu

    @property
    def stdev(self) -> Tensor:
        sigma = self._distribution.sigma
        return sigma if sigma.ndim == 1 else sigma.norm(dim=1)

    def ask(self, seed: int) -> Tensor:
        self._rows = _draw(self._distribution, self._batch_size, seed)
        return self._rows

    def tell(self, fitness: Tensor) -> None:
        gradients = self._distribution.compute_gradients(
            self._rows, fitness, objective_sense="max", ranking_method=self._ranking
        )
        self._distribution = self._distribution.update_parameters(gradients, learning_rates=dict(self._rates))

    def state(self) -> dict[str, Tensor]:
        return dict(self._distribution.parameters)

    def restore(self, state: State) -> None:
        self._distribution = self._distribution.modified_copy(**state)


class CmaesSearcher:
    """CMA-ES in float64, see `Searcher`."""

    def __init__(self, settings: Cmaes, mean: Tensor, batch_size: int) -> None:
        self._problem = _Told(len(mean))
        with warnings.catch_warnings():
            # numpy minus tensor in the constructor, and a tensor made of a tensor
            warnings.filterwarnings("ignore", message="__array_wrap__ must accept", category=DeprecationWarning)
            warnings.filterwarnings("ignore", message="To copy construct from a tensor", category=UserWarning)
            self._search = _HeldCmaes(
                self._problem,
                stdev_init=settings.initial_stdev,
                popsize=batch_size,
                center_init=mean.double().numpy(),
                separable=settings.separable,
                active=settings.active,
            )
        self._search.p_sigma = self._search.p_c = torch.zeros_like(self._search.m)  # EvoTorch begins with the number 0

    @property
    def mean(self) -> Tensor:
        return self._search.m

    @property
    def stdev(self) -> Tensor:
        variance = self._search.C if self._search.separable else self._search.C.diagonal()
        return self._search.sigma * variance.sqrt()

    def ask(self, seed: int) -> Tensor:
        self._problem.manual_seed(seed)
        return self._search.draw()

    def tell(self, fitness: Tensor) -> None:
        self._problem.fitness = fitness
        self._search.step()

    def state(self) -> dict[str, Tensor]:
        moving = {name: getattr(self._search, name) for name in ("m", "sigma", "C", "A", "p_sigma", "p_c")}
        return {**moving, "steps": torch.tensor(self._search.step_count)}

    def restore(self, state: State) -> None:
        for name, value in state.items():
            if name != "steps":
                setattr(self._search, name, value)
        self._search._steps_count = int(state["steps"])  # EvoTorch has no public way to set it


class _HeldCmaes(CMAES):
    """CMA-ES whose steps go on from rows that were drawn before."""

    def draw(self) -> Tensor:
        self._drawn = super().sample_distribution()
        return self._drawn[2]

    def sample_distribution(self, num_samples: int | None = None) -> tuple[Tensor, Tensor, Tensor]:  # noqa: ARG002
        """What a step asks for: local, shaped and final coordinates of every row."""
        return self._drawn


class _Told(Problem):
    """A problem whose solutions have the fitness that was told."""

    def __init__(self, length: int) -> None:
        super().__init__(
            "max",
            solution_length=length,
            initial_bounds=(-1.0, 1.0),  # asked for, never used
            dtype=torch.float64,
            seed=0,
            store_solution_stats=False,
        )
        self.fitness = torch.empty(0)

    def _evaluate_batch(self, batch: SolutionBatch) -> None:
        batch.set_evals(self.fitness)


def _draw(distribution: Any, count: int, seed: int) -> Tensor:
    return distribution.sample(count, generator=torch.Generator().manual_seed(seed))
