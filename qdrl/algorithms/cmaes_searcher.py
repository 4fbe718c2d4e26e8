"""EvoTorch's CMA-ES as a searcher: its step is split into drawing rows and updating from their fitness.

CMA-ES: Hansen 2016, https://arxiv.org/abs/1604.00772. EvoTorch: Toklu et al. 2023, https://arxiv.org/abs/2302.12600.

EvoTorch's step evaluates the population itself. Here it runs on a problem that returns the fitness given to `tell`.
"""

import warnings
from collections.abc import Mapping

import torch
from evotorch import Problem, SolutionBatch
from evotorch.algorithms import CMAES
from torch import Tensor

from qdrl.algorithms.searcher_settings import Cmaes


class CmaesSearcher:
    """CMA-ES in float64.

    Args:
        settings: options of CMA-ES.
        mean: `(parameters,)` float32, the initial mean.
        batch_size: rows per generation.
    """

    def __init__(self, settings: Cmaes, mean: Tensor, batch_size: int) -> None:
        self._problem = _FixedFitness(len(mean))
        with warnings.catch_warnings():
            # EvoTorch subtracts a tensor from a numpy array in its constructor, and makes a tensor from a tensor.
            warnings.filterwarnings("ignore", message="__array_wrap__ must accept", category=DeprecationWarning)
            warnings.filterwarnings("ignore", message="To copy construct from a tensor", category=UserWarning)
            self._search = _TwoPhaseCmaes(
                self._problem,
                stdev_init=settings.initial_stdev,
                popsize=batch_size,
                center_init=mean.double().numpy(),
                separable=settings.separable,
                active=settings.active,
            )
        # EvoTorch's initial value is the number 0; the state must be tensors.
        self._search.p_sigma = self._search.p_c = torch.zeros_like(self._search.m)

    @property
    def mean(self) -> Tensor:
        """Return the mean, `(parameters,)`."""
        return self._search.m

    @property
    def stdev(self) -> Tensor:
        """Return the standard deviation of each parameter, `(parameters,)`."""
        variance = self._search.C if self._search.separable else self._search.C.diagonal()
        return self._search.sigma * variance.sqrt()

    def ask(self, seed: int) -> Tensor:
        """Draw the rows of the next step of CMA-ES."""
        self._problem.manual_seed(seed)
        return self._search.draw()

    def tell(self, rows: Tensor, fitness: Tensor) -> None:  # noqa: ARG002 - EvoTorch keeps the rows itself
        """Take one step of CMA-ES with the rows of the last `ask`."""
        self._problem.fitness = fitness
        self._search.step()

    def state(self) -> dict[str, Tensor]:
        """Return mean, step size, covariance, its factor, evolution paths and the number of steps."""
        moving = {name: getattr(self._search, name) for name in ("m", "sigma", "C", "A", "p_sigma", "p_c")}
        return {**moving, "steps": torch.tensor(self._search.step_count)}

    def restore(self, state: Mapping[str, Tensor]) -> None:
        """Restore the state that `state` returned."""
        for name, value in state.items():
            if name != "steps":
                setattr(self._search, name, value)
        self._search._steps_count = int(state["steps"])  # EvoTorch has no public way to set it


class _TwoPhaseCmaes(CMAES):
    """CMA-ES whose step uses the rows of the last `draw`."""

    def draw(self) -> Tensor:
        """Draw the rows of the next step, `(batch_size, parameters)`."""
        self._drawn = super().sample_distribution()
        return self._drawn[2]

    def sample_distribution(self, num_samples: int | None = None) -> tuple[Tensor, Tensor, Tensor]:  # noqa: ARG002
        """Return the last draw to EvoTorch's step: local, shaped and final coordinates of every row."""
        return self._drawn


class _FixedFitness(Problem):
    """A problem that gives any batch of solutions the values `fitness`, `(batch_size,)`."""

    def __init__(self, length: int) -> None:
        super().__init__(
            "max",
            solution_length=length,
            initial_bounds=(-1.0, 1.0),  # required by EvoTorch, never used
            dtype=torch.float64,
            seed=0,
            store_solution_stats=False,
        )
        self.fitness = torch.empty(0)

    def _evaluate_batch(self, batch: SolutionBatch) -> None:
        batch.set_evals(self.fitness)
