"""The base class of algorithms: everything that the engine calls, with default bodies where there is a default."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from typing import Any, ClassVar

import numpy as np
import torch
from pydantic import BaseModel
from torch import Tensor

from qdrl.archives.base import AnyArchive
from qdrl.archives.lineages import StoredLineages
from qdrl.archives.novelty_archive import NoveltyArchive
from qdrl.errors import UserError
from qdrl.evaluation import Candidates, Evaluation, Genomes
from qdrl.parallel.exchange import LOCAL, Exchange
from qdrl.parallel.ranks import Ranks
from qdrl.streams import Purpose, Streams
from qdrl.tasks.base import Task

_NEW = 2  # `status` of a row whose cell was empty, in the result of `archive.add`


class Algorithm(ABC):
    """Proposes genomes, and updates from their evaluation.

    Subclasses define `Settings`, `emitters`, `batch_size` and the abstract methods. Every other method is a hook with a
    default body. The engine calls nothing that is not named here.

    Args:
        task: makes first genomes.
        archive: the elites; `tell` changes it.
        streams: the run's random numbers.
        settings: an instance of `Settings`.

    Attributes:
        Settings: pydantic model of the `[algorithm]` table, its `name` included.
        emitters: names of the ways in which genomes are proposed; `Candidates.emitter` indexes this tuple.
        holds_lineages: whether genomes are lineages. The archive then holds one number per genome, `(cells, 1)` int64,
            `lineages` is defined, and `state_dict` has these numbers as `nodes`.
        batch_size: rows of the generation that `ask` proposes next.
        generation: the one that `ask` proposes next.
        champion: the best single genome so far, as `StoredArchive.champion` keeps it; None for none.
        actor: a trained conditioned policy, as `StoredArchive.actor` keeps it; None for none.
    """

    Settings: ClassVar[type[BaseModel]]
    holds_lineages: ClassVar[bool] = False
    emitters: tuple[str, ...]
    batch_size: int
    champion: dict[str, np.ndarray] | None = None
    actor: dict[str, np.ndarray] | None = None

    def __init__(self, task: Task, archive: AnyArchive, streams: Streams, settings: Any) -> None:
        self.task, self.archive, self.streams, self.settings = task, archive, streams, settings
        self.generation = 0

    @abstractmethod
    def ask(self, rows: range | None = None) -> Candidates:
        """Return the candidates of these rows of the next generation; of all rows by default."""

    @abstractmethod
    def tell(self, evaluation: Evaluation, exchange: Exchange = LOCAL) -> dict[str, float]:
        """Collective. Update from all rows of the generation that `ask` proposed; return metrics for the history.

        Args:
            evaluation: all rows, the same columns on every rank.
            exchange: the collectives: genomes of other ranks, sums over ranks, training on the learner group.
        """

    @abstractmethod
    def state_dict(self) -> dict[str, Any]:
        """Return what resuming needs besides the archive: a nested dict of arrays, numbers and strings."""

    @abstractmethod
    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore what `state_dict` returned.

        Raises:
            ValueError: a shape is that of other settings, or a value is out of range.
        """

    def share_memory(self, ranks: Ranks) -> None:  # noqa: B027 - does nothing by default
        """Collective. Make large constant tables once per node; called before the first `ask`."""

    def collect_state(self) -> None:  # noqa: B027 - does nothing by default
        """Collective. Bring state of other ranks to the first one; called before its `state_dict`."""

    def lineages(self, genomes: np.ndarray) -> StoredLineages | None:  # noqa: ARG002
        """Return the lineages of the archive's genomes, `(n, 1)` int64; None where genomes are weights."""
        return None

    def continue_from_elites(self, generation: int) -> None:
        """Propose the given generation next, from the elites of an archive whose checkpoint is lost.

        Called before the first `ask`. The default restores the generation, which is enough where it is all of the
        state.

        Raises:
            UserError: the state is more than the generation.
        """
        if lacking := sorted(self.state_dict().keys() - {"generation"}):
            raise UserError(
                f"algorithm '{self.settings.name}' cannot continue from an archive: its {', '.join(lacking)} are in"
                " checkpoint.h5 only; start a new run instead"
            )
        self.load_state_dict({"generation": generation})

    def make_candidates(
        self,
        rows: range,
        genomes: Tensor | Genomes,
        emitter: str | np.ndarray,
        parent_cell: np.ndarray | None = None,
        *,
        wants_transitions: bool = False,
    ) -> Candidates:
        """Return these rows of the next generation, with the seeds of their evaluations.

        Args:
            rows: rows of the generation.
            genomes: `(rows, parameters)` float32, or an object that makes them row by row.
            emitter: the emitter of all rows, or `(rows,)` int64 indices into `emitters`.
            parent_cell: `(rows,)` int64, cell of each row's first parent, -1 for none; none has one by default.
            wants_transitions: whether the evaluation keeps every control step.
        """
        if isinstance(emitter, str):
            emitter = np.full(len(rows), self.emitters.index(emitter), np.int64)
        if parent_cell is None:
            parent_cell = np.full(len(rows), -1, np.int64)
        return Candidates(
            generation=self.generation,
            rows=rows,
            genomes=genomes,
            seeds=torch.from_numpy(self.streams.seeds(Purpose.EVALUATION, self.generation, rows)),
            emitter=torch.from_numpy(emitter),
            parent_cell=torch.from_numpy(parent_cell),
            wants_transitions=wants_transitions,
        )

    def check_turn(self, evaluation: Evaluation) -> None:
        """Guard the order of `ask` and `tell`.

        Raises:
            RuntimeError: the evaluation is of another generation, or of some of its rows only.
        """
        if evaluation.generation != self.generation:
            raise RuntimeError(
                f"tell got generation {evaluation.generation}, expected {self.generation}: call ask, evaluate, then"
                " tell once"
            )
        if len(evaluation.rows) != self.batch_size:
            raise RuntimeError(
                f"tell got {len(evaluation.rows)} of {self.batch_size} rows: share the evaluation over ranks first"
            )

    def insert(
        self, evaluation: Evaluation, valid: Tensor, genomes: Tensor | Callable[[Tensor], Tensor]
    ) -> dict[str, float]:
        """Insert the valid rows into the archive; return how many each emitter added and improved.

        Args:
            evaluation: all rows of a generation.
            valid: `(rows,)` bool, the rows that may enter.
            genomes: those of all rows, or a function from `(k,)` accepted rows to their genomes. With
                `exchange.genomes` in it the call is collective.
        """
        insertion = self.archive.add(
            genomes,
            evaluation.fitness,
            evaluation.descriptor,
            valid=valid,
            evaluation_seed=evaluation.seeds,
            generation=evaluation.generation,
            emitter=evaluation.emitter,
            parent_cell=evaluation.parent_cell,
        )
        accepted = insertion.accepted.cpu()
        status, origin = insertion.status.cpu()[accepted], evaluation.emitter[accepted]
        return {
            f"{verb}_{name}": float(((origin == index) & chosen).sum())
            for verb, chosen in (("added", status == _NEW), ("improved", status != _NEW))
            for index, name in enumerate(self.emitters)
        }


def make_champion(fitness: np.ndarray, generation: int, **genome: np.ndarray) -> dict[str, np.ndarray]:
    """Return a champion as `StoredArchive.champion` keeps it.

    Args:
        fitness: `(episodes,)` fitness values for which it was chosen.
        generation: the generation of these episodes.
        genome: `genome`, or `seeds` and `sigmas` of its lineage.
    """
    return {**genome, "fitness": fitness, "generation": np.array([generation])}


def restored_champion(stored: Mapping[str, Any], parameters: int) -> dict[str, np.ndarray] | None:
    """Return the champion of a checkpoint; None where there was none.

    Args:
        stored: what `make_champion` returned, or nothing.
        parameters: length of a genome.

    Raises:
        KeyError: a part is missing.
        ValueError: a part is of another shape, or not finite.
    """
    if not stored:
        return None
    champion = make_champion(
        np.asarray(stored["fitness"], np.float64), 0, genome=np.asarray(stored["genome"], np.float32)
    )
    champion["generation"] = np.asarray(stored["generation"], np.int64)
    shapes = {"fitness": (max(1, champion["fitness"].size),), "generation": (1,), "genome": (parameters,)}
    for name, shape in shapes.items():
        if champion[name].shape != shape or not np.isfinite(champion[name]).all():
            raise ValueError(f"the champion's {name} must be finite and of shape {shape}, has {champion[name].shape}")
    return champion


def require_novelty_archive(archive: AnyArchive, algorithm: str) -> NoveltyArchive:
    """Return the archive if it is a novelty archive.

    Raises:
        UserError: it has cells.
    """
    if not isinstance(archive, NoveltyArchive):
        raise UserError(f"archive.kind: {algorithm} needs 'novelty', not '{archive.geometry.kind}'")
    return archive
