"""EvoTorch's searchers (PGPE with ClipUp or Adam, SNES, XNES, CEM, CMA-ES) on any task and any number of ranks.

EvoTorch: Toklu et al. 2023, https://arxiv.org/abs/2302.12600. `qdrl.algorithms.searcher_settings` links the papers of
the searchers.

With `steps_per_update` one update of a searcher uses the rows of as many generations as it takes to reach that number
of control steps (Toklu et al. 2020, https://arxiv.org/abs/2008.02387: the population grows while episodes are short).

Every rank holds the same searcher, draws all rows and evaluates its own. Ranks exchange fitness, descriptors and the
genomes that enter the archive. Every row that did not fail competes for its cell of the archive. The searcher does not
use the archive.
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

from qdrl.algorithms.base import Algorithm, Workload
from qdrl.algorithms.champions import make_champion, restored_champion
from qdrl.algorithms.searcher_settings import Cem, Cmaes, Pgpe, SearcherSettings, Xnes
from qdrl.algorithms.waiting_rows import WaitingRows
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
    """Settings of `EvoTorch`."""

    name: str = "evotorch"
    """Name of the algorithm: "evotorch", or the `package.module:Class` of a subclass."""
    batch_size: Annotated[int, Field(ge=2, le=1_000_000)] = 256
    """Population size: rows per generation that the searcher draws."""
    steps_per_update: Annotated[int, Field(ge=0)] = 0
    """Minimum number of control steps per update. Until it is reached, each generation draws `batch_size` further rows
    from the same distribution. 0 for an update after every generation. Toklu et al. 2020 use 150,000 on Humanoid and
    75,000 on Walker2d."""
    max_rows: Annotated[int, Field(ge=2)] | None = None
    """Rows after which an update takes place even if `steps_per_update` is not reached; unlimited by default. Toklu et
    al. 2020 use 3,200 on Humanoid and 800 on Walker2d. Only with `steps_per_update`."""
    mean_rows: Annotated[int, Field(ge=0, le=10_000)] = 1
    """Evaluations of the searcher's mean per update, in addition to `batch_size`. They count in every budget, but not
    for `steps_per_update`."""
    initial: Literal["random", "zeros"] = "random"
    """Initial mean: "random", an initial genome of the task, or "zeros", as in Toklu et al. 2020 for linear
    policies."""
    searcher: Annotated[SearcherSettings, Field(discriminator="name")] = Pgpe()
    """The searcher and its options. Genomes have no bounds."""

    @model_validator(mode="after")
    def _fits(self) -> "EvoTorchSettings":
        searcher, rows = self.searcher, self.batch_size
        if isinstance(searcher, Pgpe) and searcher.symmetric and rows % 2:
            raise ValueError(f"batch_size ({rows}) must be even: symmetric pgpe draws rows in pairs")
        if self.steps_per_update and isinstance(searcher, Cmaes):
            raise ValueError("steps_per_update must be 0 with cmaes, whose update needs one generation")
        if self.max_rows is not None and not self.steps_per_update:
            raise ValueError("max_rows needs steps_per_update: without it, an update uses batch_size rows")
        if isinstance(searcher, Cem) and int(rows * searcher.parenthood_ratio) < 2:
            raise ValueError(
                f"batch_size ({rows}) times parenthood_ratio ({searcher.parenthood_ratio}) must leave 2 parents or more"
            )
        return self


class EvoTorch(Algorithm):
    """A searcher of EvoTorch whose rows also compete for the cells of an archive.

    Args:
        task: draws the initial mean.
        archive: the archive that `tell` inserts into.
        streams: the run's random numbers.
        settings: settings of the algorithm.

    Raises:
        UserError: EvoTorch cannot be imported, or the searcher's matrices exceed this machine's memory.
    """

    Settings = EvoTorchSettings
    settings: EvoTorchSettings
    emitters = ("sample", "mean")

    def __init__(self, task: Task, archive: AnyArchive, streams: Streams, settings: EvoTorchSettings) -> None:
        super().__init__(task, archive, streams, settings)
        self._population = settings.batch_size
        _check_memory(settings, task.parameters)
        first = np.zeros(task.parameters, np.float32)
        if settings.initial == "random":
            first = task.initial(streams.generator(Purpose.INITIAL))
        self._searcher = _make_searcher(settings, torch.from_numpy(first))
        self._drawn: Tensor | None = None  # the rows of this generation, once drawn
        self._waiting = WaitingRows(settings.batch_size)

    @property
    def batch_size(self) -> int:
        """Return the number of rows in the next generation: the searcher's, and those of a new mean."""
        return self._population + (0 if len(self._waiting) else self.settings.mean_rows)

    @property
    def mean(self) -> np.ndarray:
        """Return the mean of the search distribution, `(parameters,)` float32."""
        return self._searcher.mean.float().numpy().copy()

    @classmethod
    def workload(cls, settings: EvoTorchSettings) -> Workload:
        """Return the work that settings state."""
        return Workload(rows=settings.batch_size + settings.mean_rows)

    def ask(self, rows: range | None = None) -> Candidates:
        """Return samples of the search distribution, followed by `mean_rows` copies of its mean."""
        rows = range(self.batch_size) if rows is None else rows
        genomes = self._rows()[rows.start : rows.stop].float().to(self.archive.device)
        return self.make_candidates(rows, genomes, np.array([int(row >= self._population) for row in rows], np.int64))

    def tell(self, evaluation: Evaluation, exchange: Exchange = LOCAL) -> dict[str, float]:
        """Insert the rows that did not fail into the archive and update the searcher if it has enough rows. Collective.

        A failed row counts as the worst row that did not fail. The searcher stays unchanged if all rows failed or have
        equal fitness, or if its state would not be finite after the update; `skipped_updates` is then 1.

        Returns:
            The counts of `insert`; `champion_fitness`, the mean fitness of the rows of the mean; `stdev`, the mean
            standard deviation; `skipped_updates`; with `steps_per_update` also `waiting_rows`, rows not used yet.
        """
        self.check_turn(evaluation)
        # Insertion is collective and comes first: if a rank is lost, the generation is repeated with the same searcher.
        genomes = partial(exchange.genomes, evaluation)
        counts = self.insert(evaluation, ~evaluation.failed, genomes)
        fitness, failed = evaluation.fitness.cpu(), evaluation.failed.cpu()
        own = fitness[self._population :][~failed[self._population :]].numpy()
        if len(own):
            self.champion = make_champion(own, evaluation.generation, genome=self.mean)
        champion_fitness = self._fitness_of_mean()
        self._waiting.add(evaluation)
        is_due = self._is_due()
        learned = is_due and self._learn()
        self.generation += 1
        self._drawn = None
        if is_due:
            self._waiting.clear()
        return {
            **counts,
            "champion_fitness": champion_fitness,
            "stdev": float(self._searcher.stdev.mean()),
            "skipped_updates": float(is_due and not learned),
            **({"waiting_rows": float(len(self._waiting))} if self.settings.steps_per_update else {}),
        }

    def state_dict(self) -> dict[str, Any]:
        """Return the generation, the searcher's state, the champion and, with `steps_per_update`, the waiting rows."""
        searcher = {name: value.numpy().copy() for name, value in self._searcher.state().items()}
        state = {"generation": self.generation, "searcher": searcher, "champion": self.champion or {}}
        return state | ({"waiting": self._waiting.state_dict()} if self.settings.steps_per_update else {})

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore the state that `state_dict` returned.

        Raises:
            KeyError: an array of the searcher, the champion or the waiting rows is missing.
            ValueError: an array has another shape, or the champion is not finite.
        """
        now, stored = self._searcher.state(), state["searcher"]
        arrays = {name: np.asarray(stored[name]) for name in now}
        for name, array in arrays.items():
            if array.shape != tuple(now[name].shape):
                raise ValueError(f"the searcher's {name} is stored as {array.shape}, expected {tuple(now[name].shape)}")
        if self.settings.steps_per_update:
            self._waiting.load_state_dict(state["waiting"])
        self._searcher.restore({name: torch.tensor(array).to(now[name]) for name, array in arrays.items()})
        self.generation = int(state["generation"])
        self.champion = restored_champion(state["champion"], len(self.mean))
        self._drawn = None

    def _rows(self) -> Tensor:
        """Return all rows of this generation, `(batch_size, parameters)`, those of the mean last."""
        if self._drawn is None:
            drawn = self._draw(self.generation)
            self._drawn = torch.cat([drawn, self._searcher.mean.expand(self.batch_size - self._population, -1)])
        return self._drawn

    def _draw(self, generation: int) -> Tensor:
        """Return the searcher's rows of a generation, `(batch_size, parameters)`; the same in every call."""
        # The last bits of a matrix product depend on the memory layout: use the layout of a restored checkpoint.
        state = self._searcher.state()
        self._searcher.restore(
            {name: value.clone(memory_format=torch.contiguous_format) for name, value in state.items()}
        )
        (seed,) = self.streams.seeds(Purpose.SEARCHER, generation, [0])
        return self._searcher.ask(int(seed))

    def _fitness_of_mean(self) -> float:
        """Return the mean fitness of the rows of the current mean; NaN without any."""
        first = self.generation - self._waiting.generations  # the first one since the last update
        champion = self.champion or {"generation": np.array([-1])}
        return float(champion["fitness"].mean()) if int(champion["generation"][0]) == first else np.nan

    def _is_due(self) -> bool:
        """Return whether the waiting rows suffice for an update."""
        most = self.settings.max_rows
        enough_steps = int(self._waiting.steps.sum()) >= self.settings.steps_per_update
        return enough_steps or (most is not None and len(self._waiting) >= most)

    def _learn(self) -> bool:
        """Update the searcher and return True; return False if it stays as it was."""
        fitness = _to_unit_range(torch.from_numpy(self._waiting.fitness), torch.from_numpy(self._waiting.failed))
        if fitness is None:
            return False
        first = self.generation + 1 - self._waiting.generations
        rows = [self._draw(generation) for generation in range(first, self.generation)]
        rows.append(self._rows()[: self._population])
        before = self._searcher.state()
        try:
            self._searcher.tell(torch.cat(rows), fitness)
            finite = all(bool(torch.isfinite(value).all()) for value in self._searcher.state().values())
        except torch.linalg.LinAlgError:  # pyright: ignore[reportPrivateImportUsage]
            finite = False
        if not finite:
            self._searcher.restore(before)
        return finite


def _to_unit_range(fitness: Tensor, failed: Tensor) -> Tensor | None:
    """Return fitness scaled to [0, 1], `(rows,)` float64, failed rows at 0; None if all rows are equal or failed.

    Searchers use ranks or standardised fitness, which this scaling does not change. It is needed because EvoTorch ranks
    fitness in the genome's float32, in which close values far from zero become equal.
    """
    valid = fitness[~failed]
    if len(valid) == 0 or valid.min() == valid.max():
        return None
    return ((fitness - valid.min()) / (valid.max() - valid.min())).masked_fill(failed, 0.0)


def _check_memory(settings: EvoTorchSettings, parameters: int) -> None:
    """Check that the update of a full covariance matrix fits into memory: EvoTorch allocates three matrices per row.

    Raises:
        UserError: it does not fit into this machine's physical memory.
    """
    searcher = settings.searcher
    full = isinstance(searcher, Xnes) or (isinstance(searcher, Cmaes) and not searcher.separable)
    rows = settings.max_rows or settings.batch_size
    needed = 3 * 8 * rows * parameters**2
    available = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    if full and needed > available:
        raise UserError(
            f"algorithm.searcher: {searcher.name} with {parameters} parameters and {rows} rows needs"
            f" {needed / 2**30:.1f} GiB a rank, this machine has {available / 2**30:.1f} GiB; use pgpe, snes or cmaes"
            " with separable = true"
        )


def _make_searcher(settings: EvoTorchSettings, mean: Tensor) -> "Searcher":
    """Return the searcher; EvoTorch is imported here, because it is an optional package that takes seconds to load."""
    try:
        with _isolated_import():
            from qdrl.algorithms.searchers import make_searcher
    except ImportError as error:
        reason = str(error).partition("\n")[0]
        raise UserError(f"algorithm.name: {settings.name} needs EvoTorch: {reason}; pip install evotorch") from error
    return make_searcher(settings.searcher, mean, settings.batch_size)


@contextmanager
def _isolated_import() -> Iterator[None]:
    """Keep an import of EvoTorch and Ray in this context from changing the whole process.

    They set an exception hook, put a folder in front of `sys.path`, filter warnings, and add a handler that logs to
    stdout. They also import numba, whose colours would print escape codes when the process ends.
    """
    import qdrl.compute.arithmetic.compiling  # noqa: F401 - imports numba without colours

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
