"""EvoTorch's searchers (PGPE with ClipUp or Adam, SNES, XNES, CEM, CMA-ES) on any task and any number of ranks.

Every rank holds the same searcher, draws the same rows and evaluates its own; only fitness and descriptors cross, and
the genomes that enter the archive. The archive is passive: every valid row competes for its cell, and the searcher
never looks at it. See Toklu et al. 2023, "EvoTorch: Scalable Evolutionary Computation in Python".
"""

import os
import sys
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from typing import TYPE_CHECKING, Annotated, Any, Literal

import numpy as np
import torch
from pydantic import Field, model_validator
from torch import Tensor

from qdrl.algorithms.base import Algorithm, make_champion, restored_champion
from qdrl.algorithms.searcher_settings import Cem, Cmaes, Pgpe, SearcherSettings, Xnes
from qdrl.archives.base import AnyArchive
from qdrl.errors import UserError
from qdrl.evaluation import Candidates, Evaluation
from qdrl.parallel.exchange import LOCAL, Exchange
from qdrl.settings.base import SettingsModel
from qdrl.streams import Purpose, Streams
from qdrl.tasks.base import Task

if TYPE_CHECKING:
    from qdrl.algorithms.searchers import Searcher

_VERBOSITY = "EVOTORCH_VERBOSE_LEVEL"


class EvoTorchSettings(SettingsModel):
    """Settings of EvoTorch's searchers."""

    name: str = "evotorch"
    """Name of the algorithm: "evotorch", or the `package.module:Class` of a subclass."""
    batch_size: Annotated[int, Field(ge=2, le=1_000_000)] = 256
    """Rows a generation that the searcher draws: the population."""
    mean_rows: Annotated[int, Field(ge=0, le=10_000)] = 1
    """Episodes of the searcher's mean, besides `batch_size`. They say what the run has found, and count."""
    initial: Literal["random", "zeros"] = "random"
    """The first mean: a "random" genome of the task, or "zeros", as Toklu et al. 2020 have it for linear policies."""
    searcher: Annotated[SearcherSettings, Field(discriminator="name")] = Pgpe()
    """Which one, and its options. There are no bounds: rows may lie anywhere."""

    @model_validator(mode="after")
    def _fits(self) -> "EvoTorchSettings":
        searcher, rows = self.searcher, self.batch_size
        if isinstance(searcher, Pgpe) and searcher.symmetric and rows % 2:
            raise ValueError(f"batch_size ({rows}) must be even: symmetric pgpe draws rows in pairs")
        if isinstance(searcher, Cem) and int(rows * searcher.parenthood_ratio) < 2:
            raise ValueError(
                f"batch_size ({rows}) times parenthood_ratio ({searcher.parenthood_ratio}) must leave 2 parents or more"
            )
        return self


class EvoTorch(Algorithm):
    """See `qdrl.algorithms.base.Algorithm`.

    Args:
        task: gives the first mean.
        archive: filled by `tell`.
        streams: the run's random numbers.
        settings: batch size, searcher.

    Raises:
        UserError: EvoTorch cannot be imported, or the searcher's matrices cannot fit this machine's memory.
    """

    Settings = EvoTorchSettings
    settings: EvoTorchSettings
    emitters = ("sample", "mean")

    def __init__(self, task: Task, archive: AnyArchive, streams: Streams, settings: EvoTorchSettings) -> None:
        super().__init__(task, archive, streams, settings)
        self.batch_size = settings.batch_size + settings.mean_rows
        self._population = settings.batch_size
        _refuse_too_large(settings, task.parameters)
        first = np.zeros(task.parameters, np.float32)
        if settings.initial == "random":
            first = task.initial(streams.generator(Purpose.INITIAL))
        self._searcher = _make_searcher(settings, torch.from_numpy(first))
        self._drawn: Tensor | None = None  # the rows of this generation, once somebody asked

    @property
    def mean(self) -> np.ndarray:
        """The middle of what the searcher draws, `(parameters,)` float32: its guess at one good genome."""
        return self._searcher.mean.float().numpy().copy()

    def ask(self, rows: range | None = None) -> Candidates:
        rows = range(self.batch_size) if rows is None else rows
        genomes = self._rows()[rows.start : rows.stop].float().to(self.archive.device)
        return self.make_candidates(rows, genomes, np.array([int(row >= self._population) for row in rows], np.int64))

    def tell(self, evaluation: Evaluation, exchange: Exchange = LOCAL) -> dict[str, float]:
        """Learn from a whole generation.

        Failed rows count as the worst that did not fail. A generation that tells no row from another, because all
        failed or all were equal, leaves the searcher as it was; so does one after which it would not be finite.
        Either is counted in `skipped_updates`.
        """
        self.check_turn(evaluation)
        # First, for it is collective: should a rank be lost, nothing was learned and the generation is done again.
        genomes = partial(exchange.genomes, evaluation)
        counts = self.insert(evaluation, ~evaluation.failed, genomes)
        fitness, failed = evaluation.fitness.cpu(), evaluation.failed.cpu()
        own = fitness[self._population :][~failed[self._population :]].numpy()
        if len(own):
            self.champion = make_champion(own, evaluation.generation, genome=self.mean)
        ranked = _to_unit_range(fitness[: self._population], failed[: self._population])
        learned = ranked is not None and self._learn(ranked)
        self.generation += 1
        self._drawn = None
        return {
            **counts,
            "champion_fitness": float(own.mean()) if len(own) else np.nan,
            "stdev": float(self._searcher.stdev.mean()),
            "skipped_updates": float(not learned),
        }

    def state_dict(self) -> dict[str, Any]:
        searcher = {name: value.numpy().copy() for name, value in self._searcher.state().items()}
        return {"generation": self.generation, "searcher": searcher, "champion": self.champion or {}}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        now, stored = self._searcher.state(), state["searcher"]
        arrays = {name: np.asarray(stored[name]) for name in now}
        for name, array in arrays.items():
            if array.shape != tuple(now[name].shape):
                raise ValueError(f"the searcher's {name} is stored as {array.shape}, expected {tuple(now[name].shape)}")
        self._searcher.restore({name: torch.tensor(array).to(now[name]) for name, array in arrays.items()})
        self.generation = int(state["generation"])
        self.champion = restored_champion(state["champion"], len(self.mean))
        self._drawn = None

    def _rows(self) -> Tensor:
        """All rows of this generation, those of the mean last."""
        if self._drawn is None:
            # The last bits of a product depend on how its matrices lie in memory: always as a checkpoint gives them.
            state = self._searcher.state()
            self._searcher.restore(
                {name: value.clone(memory_format=torch.contiguous_format) for name, value in state.items()}
            )
            (seed,) = self.streams.seeds(Purpose.SEARCHER, self.generation, [0])
            drawn, mean = self._searcher.ask(int(seed)), self._searcher.mean
            self._drawn = torch.cat([drawn, mean.expand(self.batch_size - self._population, -1)])
        return self._drawn

    def _learn(self, fitness: Tensor) -> bool:
        """Move the searcher; whether it is finite after that, otherwise it is as it was."""
        self._rows()
        before = self._searcher.state()
        try:
            self._searcher.tell(fitness)
            finite = all(bool(torch.isfinite(value).all()) for value in self._searcher.state().values())
        except torch.linalg.LinAlgError:  # pyright: ignore[reportPrivateImportUsage]
            finite = False
        if not finite:
            self._searcher.restore(before)
        return finite


def _to_unit_range(fitness: Tensor, failed: Tensor) -> Tensor | None:
    """Fitness from the worst row at 0 to the best at 1, `(rows,)` float64, failed rows at 0; None if all are equal.

    Searchers only look at ranks or at fitness less its mean over its deviation, which do not change; but EvoTorch
    ranks in the genome's float32, where close values far from zero are one.
    """
    valid = fitness[~failed]
    if len(valid) == 0 or valid.min() == valid.max():
        return None
    return ((fitness - valid.min()) / (valid.max() - valid.min())).masked_fill(failed, 0.0)


def _refuse_too_large(settings: EvoTorchSettings, parameters: int) -> None:
    """Refuse a covariance matrix whose update cannot fit this machine: EvoTorch holds three matrices a row."""
    searcher = settings.searcher
    full = isinstance(searcher, Xnes) or (isinstance(searcher, Cmaes) and not searcher.separable)
    needed = 3 * 8 * settings.batch_size * parameters**2
    there = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    if full and needed > there:
        raise UserError(
            f"algorithm.searcher: {searcher.name} with {parameters} parameters and {settings.batch_size} rows needs"
            f" {needed / 2**30:.1f} GiB a rank, this machine has {there / 2**30:.1f} GiB; take pgpe, snes or cmaes with"
            " separable = true"
        )


def _make_searcher(settings: EvoTorchSettings, mean: Tensor) -> "Searcher":
    try:
        with _undisturbed():
            from qdrl.algorithms.searchers import make_searcher
    except ImportError as error:
        reason = str(error).partition("\n")[0]
        raise UserError(f"algorithm.name: {settings.name} needs EvoTorch: {reason}; pip install evotorch") from error
    return make_searcher(settings.searcher, mean, settings.batch_size)


@contextmanager
def _undisturbed() -> Iterator[None]:
    """Import EvoTorch without what it and Ray change for the whole process.

    That is an exception hook, a folder put in front of all others to import from, filters for warnings, and a handler
    that logs to stdout.
    """
    hook, path, verbosity = sys.excepthook, sys.path.copy(), os.environ.get(_VERBOSITY)
    os.environ.setdefault(_VERBOSITY, "-1")
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="`torch.jit.script` is deprecated", category=DeprecationWarning)
        try:
            yield
        finally:
            sys.excepthook, sys.path[:] = hook, path
            if verbosity is None:
                del os.environ[_VERBOSITY]
