"""The base class of algorithms: every member that the engine uses, with defaults where possible."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass
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
from qdrl.naming import suggest
from qdrl.parallel.exchange import LOCAL, Exchange
from qdrl.parallel.ranks import Ranks
from qdrl.streams import Purpose, Streams
from qdrl.tasks.base import Task

_NEW = 2  # `status` of a row that filled an empty cell, in the result of `archive.add`


@dataclass(frozen=True)
class Workload:
    """The work of a run as far as settings state it.

    Attributes:
        rows: rows of the largest generation; 0 if settings do not state it.
        further_rows: rows of the other generations that do this work.
        gradient_rows: rows by policy-gradient variation.
        probe_rows: rows that do not count in `run.evaluations`.
        generations: number of generations of the run that do this work together.
        noise_table: numbers in a table of noise.
    """

    rows: int = 0
    further_rows: int = 0
    gradient_rows: int = 0
    probe_rows: int = 0
    generations: int = 1
    noise_table: int = 0

    @property
    def total_rows(self) -> int:
        """Return the rows of all generations that do this work together."""
        return self.rows + self.further_rows


class Algorithm(ABC):
    """Base class of algorithms: proposes genomes and updates from their evaluation.

    Subclasses define `Settings`, `emitters`, `batch_size` and the abstract methods. Every other method is a hook with a
    default body. The engine uses only the members of this class.

    Args:
        task: draws initial genomes.
        archive: the archive that `tell` inserts into.
        streams: the run's random numbers.
        settings: an instance of `Settings`.

    Attributes:
        Settings: pydantic model of the `[algorithm]` table, its `name` included.
        emitters: emitter names; `Candidates.emitter` indexes this tuple.
        holds_lineages: whether genomes are lineages. The archive then holds one number per genome, `(cells, 1)` int64,
            `lineages` is defined, and `state_dict` has these numbers as `nodes`.
        batch_size: number of rows in the next generation.
        generation: index of the next generation, from 0.
        champion: the best single genome so far, in the format of `StoredArchive.champion`; None if there is none.
        actor: a trained actor network, in the format of `StoredArchive.actor`; None if there is none.
        counts_actor_evaluations: whether the metric `actor_evaluations`, if `tell` reports it, is part of the run's
            `evaluations`.
    """

    Settings: ClassVar[type[BaseModel]]
    holds_lineages: ClassVar[bool] = False
    emitters: tuple[str, ...]
    batch_size: int
    champion: dict[str, np.ndarray] | None = None
    actor: dict[str, np.ndarray] | None = None
    counts_actor_evaluations: bool = False

    def __init__(self, task: Task, archive: AnyArchive, streams: Streams, settings: Any) -> None:
        self.task, self.archive, self.streams, self.settings = task, archive, streams, settings
        self.generation = 0

    @classmethod
    def workload(cls, settings: Any) -> Workload:
        """Return the work that settings state, for estimates of memory and time before the algorithm is made.

        By default the rows are the setting `batch_size`, where there is one.

        Args:
            settings: an instance of `Settings`.
        """
        return Workload(rows=getattr(settings, "batch_size", 0))

    @abstractmethod
    def ask(self, rows: range | None = None) -> Candidates:
        """Return candidates for the next generation.

        Args:
            rows: rows of the generation; all rows by default.
        """

    @abstractmethod
    def tell(self, evaluation: Evaluation, exchange: Exchange = LOCAL) -> dict[str, float]:
        """Update from the evaluation of all rows of a generation. Collective.

        Args:
            evaluation: all rows; the columns are identical on every rank.
            exchange: the collectives: genomes of other ranks, sums over ranks, training on the learner group.

        Returns:
            Metrics for the history, by name.
        """

    @abstractmethod
    def state_dict(self) -> dict[str, Any]:
        """Return the state to resume from, the archive excluded: a nested dict of arrays, numbers and strings."""

    @abstractmethod
    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore the state that `state_dict` returned.

        Raises:
            ValueError: a shape does not match the settings, or a value is out of range.
        """

    def share_memory(self, ranks: Ranks) -> None:  # noqa: B027 - does nothing by default
        """Create large constant tables once per node; called before the first `ask`. Collective."""

    def collect_state(self) -> None:  # noqa: B027 - does nothing by default
        """Collect the state of other ranks on the first one; called before its `state_dict`. Collective."""

    def lineages(self, genomes: np.ndarray) -> StoredLineages | None:  # noqa: ARG002
        """Return the lineages of genomes; None if genomes are weights.

        Args:
            genomes: `(n, 1)` int64, genomes of the archive.
        """
        return None

    def champion_genome(self) -> np.ndarray:
        """Return the champion's weights, `(parameters,)` float32; called only if there is a champion.

        The default returns those in `champion`. An algorithm whose champion is a lineage overrides it.

        Raises:
            UserError: the champion has no weights.
        """
        if (genome := (self.champion or {}).get("genome")) is None:
            raise UserError(f"algorithm '{self.settings.name}' must define champion_genome: its champion has no genome")
        return genome

    def continue_from_elites(self, generation: int) -> None:
        """Continue at a generation from an archive without its checkpoint.

        Called before the first `ask`. The default restores the generation only.

        Args:
            generation: index of the next generation.

        Raises:
            UserError: `state_dict` holds more than the generation.
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
        """Return candidates with the generation and the evaluation seeds filled in.

        Args:
            rows: rows of the generation.
            genomes: `(rows, parameters)` float32, or an object that makes them row by row.
            emitter: the emitter name of all rows, or `(rows,)` int64 indices into `emitters`.
            parent_cell: `(rows,)` int64, cell of each row's first parent, -1 for none; -1 for all rows by default.
            wants_transitions: whether the evaluation returns every control step.

        Raises:
            UserError: genomes have another shape or dtype, or an emitter is unknown.
        """
        self._check_proposal(rows, genomes, emitter)
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

    def _check_proposal(self, rows: range, genomes: Tensor | Genomes, emitter: str | np.ndarray) -> None:
        name, expected = self.settings.name, (len(rows), self.task.parameters)
        if isinstance(genomes, Tensor):
            shape, dtype = tuple(genomes.shape), genomes.dtype
            if shape != expected or dtype != torch.float32:
                raise UserError(f"algorithm '{name}': ask proposed genomes {shape} {dtype}, not {expected} float32")
        elif isinstance(genomes, np.ndarray) or not hasattr(genomes, "__getitem__"):
            given = type(genomes).__name__
            raise UserError(f"algorithm '{name}': ask proposed genomes as {given}, expected a torch tensor")
        known = self.emitters
        if isinstance(emitter, str):
            if emitter not in known:
                raise UserError(f"algorithm '{name}': no emitter '{emitter}'{suggest(emitter, known)}; known: {known}")
        elif len(emitter) and not 0 <= emitter.min() <= emitter.max() < len(known):
            raise UserError(
                f"algorithm '{name}': emitters of rows must be indices below {len(known)}, got {emitter.max()}"
            )

    def check_turn(self, evaluation: Evaluation) -> None:
        """Check that an evaluation is that of the generation that `ask` proposed.

        Raises:
            RuntimeError: the evaluation is of another generation, or rows are missing.
        """
        if evaluation.generation != self.generation:
            raise RuntimeError(
                f"tell got generation {evaluation.generation}, expected {self.generation}: call ask, evaluate and"
                " tell once each, in this order"
            )
        if len(evaluation.rows) != self.batch_size:
            raise RuntimeError(
                f"tell got {len(evaluation.rows)} of {self.batch_size} rows: share the evaluation with all ranks first"
            )

    def insert(
        self, evaluation: Evaluation, valid: Tensor, genomes: Tensor | Callable[[Tensor], Tensor], **fields: Tensor
    ) -> dict[str, float]:
        """Insert the valid rows into the archive.

        Args:
            evaluation: all rows of a generation.
            valid: `(rows,)` bool, the rows that may enter.
            genomes: `(rows, parameters)` of all rows, or a function from `(k,)` accepted rows to their genomes,
                `(k, parameters)`. If that function calls `exchange.genomes`, `insert` is collective.
            fields: further columns of the archive, such as `n_evaluations`, `(rows,)`.

        Returns:
            `added_<emitter>` and `improved_<emitter>`: empty cells filled and elites replaced, for each emitter.
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
            steps=evaluation.steps,
            **fields,
        )
        accepted = insertion.accepted.cpu()
        status, origin = insertion.status.cpu()[accepted], evaluation.emitter[accepted]
        return {
            f"{verb}_{name}": float(((origin == index) & chosen).sum())
            for verb, chosen in (("added", status == _NEW), ("improved", status != _NEW))
            for index, name in enumerate(self.emitters)
        }


def require_novelty_archive(archive: AnyArchive, algorithm: str) -> NoveltyArchive:
    """Return the archive if it is a novelty archive.

    Args:
        archive: the archive of the experiment.
        algorithm: name of the algorithm or option that needs it, for the message.

    Raises:
        UserError: the archive has cells.
    """
    if not isinstance(archive, NoveltyArchive):
        raise UserError(f"archive.kind: {algorithm} needs 'novelty', not '{archive.geometry.kind}'")
    return archive
