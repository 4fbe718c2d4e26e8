"""What the engine, a notebook or a user's script asks of an algorithm."""

from collections.abc import Callable, Mapping
from typing import Any, ClassVar, Protocol

import numpy as np
from pydantic import BaseModel
from torch import Tensor

from qdrl.archives.base import AnyArchive
from qdrl.archives.novelty_archive import NoveltyArchive
from qdrl.errors import UserError
from qdrl.evaluation import Candidates, Evaluation
from qdrl.parallel.exchange import LOCAL, Exchange
from qdrl.streams import Streams
from qdrl.tasks.base import Task


class Algorithm(Protocol):
    """Proposes genomes and learns from their evaluation.

    Attributes:
        Settings: pydantic model of the `[algorithm]` table, its `name` included.
        emitters: names of what proposes; a candidate's `emitter` counts into them.
        batch_size: rows a generation.
        generation: the one that `ask` proposes next.

    An algorithm that trains an actor offers it as `actor`, which then travels in the file, as does a `champion`; see
    `StoredArchive`.
    One with large tables that never change has `share_memory(ranks)`, which all ranks call before the first `ask`.
    One that can continue from elites without the rest of its state has `continue_from_elites(generation)`.
    One whose state lies on several ranks has `collect_state()`, which all ranks call before the first's `state_dict`.
    """

    Settings: ClassVar[type[BaseModel]]
    emitters: tuple[str, ...]
    batch_size: int
    generation: int

    def __init__(self, task: Task, archive: AnyArchive, streams: Streams, settings: Any) -> None: ...

    @property
    def archive(self) -> AnyArchive:
        """The elites so far."""
        ...

    def ask(self, rows: range | None = None) -> Candidates:
        """Candidates for these rows of the next generation; all rows when left out."""
        ...

    def tell(self, evaluation: Evaluation, exchange: Exchange = LOCAL) -> dict[str, float]:
        """Update from all rows of the generation that `ask` proposed; return metrics for the history.

        Args:
            evaluation: all rows, the same columns on every rank.
            exchange: the collectives: genomes of other ranks, sums over ranks, training on the learner group.
        """
        ...

    def state_dict(self) -> dict[str, Any]:
        """What resuming needs besides the archive: a nested dict of arrays, numbers and strings."""
        ...

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Put back what `state_dict` gave."""
        ...


def is_of_lineages(algorithm: Any) -> bool:
    """Whether an algorithm, or its class, holds lineages.

    Such an algorithm says `holds_lineages = True`. Its archive holds one number a genome, `(cells, 1)` int64, that
    `algorithm.lineages(numbers)` makes `StoredLineages` of, and its `state_dict` gives the numbers as `nodes`.
    """
    return bool(getattr(algorithm, "holds_lineages", False))


def lineages_of(algorithm: Any, genomes: Any) -> Any:
    """`StoredLineages` of an archive's genomes, None where they are weights."""
    return algorithm.lineages(genomes) if is_of_lineages(algorithm) else None


def continue_from_elites(algorithm: Any, generation: int, name: str) -> None:
    """Let an algorithm without a checkpoint propose the given generation from an archive's elites.

    One with more state than its generation may offer `continue_from_elites(generation)`, which sets the rest as it is
    at the beginning of a run.

    Args:
        algorithm: as it is before its first generation; its archive is filled by the caller.
        generation: the next one.
        name: the algorithm's name, for messages.

    Raises:
        UserError: the algorithm's state is more than elites and a generation.
    """
    state = algorithm.state_dict()
    if hasattr(algorithm, "continue_from_elites"):
        algorithm.continue_from_elites(generation)
    elif set(state) == {"generation"}:
        algorithm.load_state_dict({"generation": generation})
    else:
        lacking = ", ".join(sorted(set(state) - {"generation"}))
        raise UserError(
            f"algorithm '{name}' cannot continue from an archive: its {lacking} are in checkpoint.h5 only; start a new"
            " run instead"
        )


def champion_of(fitness: np.ndarray, generation: int, **genome: np.ndarray) -> dict[str, np.ndarray]:
    """A champion as `StoredArchive.champion` keeps it.

    Args:
        fitness: `(episodes,)` that chose it.
        generation: the one in which they were played.
        genome: `genome`, or `seeds` and `sigmas` of its lineage.
    """
    return {**genome, "fitness": fitness, "generation": np.array([generation])}


def restored_champion(stored: Mapping[str, Any], parameters: int) -> dict[str, np.ndarray] | None:
    """Return the champion that a checkpoint holds; None where there was none.

    Args:
        stored: what `champion_of` returned, or nothing.
        parameters: length of a genome.

    Raises:
        KeyError: a part is missing.
        ValueError: a part is of another shape, or not finite.
    """
    if not stored:
        return None
    champion = champion_of(
        np.asarray(stored["fitness"], np.float64), 0, genome=np.asarray(stored["genome"], np.float32)
    )
    champion["generation"] = np.asarray(stored["generation"], np.int64)
    shapes = {"fitness": (max(1, champion["fitness"].size),), "generation": (1,), "genome": (parameters,)}
    for name, shape in shapes.items():
        if champion[name].shape != shape or not np.isfinite(champion[name]).all():
            raise ValueError(f"the champion's {name} must be finite and of shape {shape}, has {champion[name].shape}")
    return champion


def check_turn(asked: int, evaluation: Evaluation, batch_size: int) -> None:
    """Guard the order of `ask` and `tell`.

    Raises:
        RuntimeError: the evaluation is of another generation, or of some of its rows only.
    """
    if evaluation.generation != asked:
        raise RuntimeError(
            f"tell got generation {evaluation.generation}, expected {asked}: call ask, evaluate, then tell once"
        )
    if len(evaluation.rows) != batch_size:
        raise RuntimeError(
            f"tell got {len(evaluation.rows)} of {batch_size} rows: share the evaluation over ranks first"
        )


def insert(
    archive: AnyArchive,
    emitters: tuple[str, ...],
    evaluation: Evaluation,
    valid: Tensor,
    genomes: Tensor | Callable[[Tensor], Tensor],
) -> dict[str, float]:
    """Insert the valid rows into the archive; return how many each emitter added and improved.

    Args:
        archive: the archive, changed in place.
        emitters: names by index.
        evaluation: all rows of a generation.
        valid: `(rows,)` bool, the rows that may enter.
        genomes: those of all rows, or a function from `(k,)` accepted rows to their genomes; with
            `exchange.genomes` in it the call is collective.
    """
    insertion = archive.add(
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
    new = insertion.status.cpu()[accepted] == 2
    added = count_by_emitter(emitters, accepted[new], evaluation, "added")
    return added | count_by_emitter(emitters, accepted[~new], evaluation, "improved")


def require_novelty_archive(archive: AnyArchive, algorithm: str) -> NoveltyArchive:
    """The archive, if it is one of novelty.

    Raises:
        UserError: it is of cells.
    """
    if not isinstance(archive, NoveltyArchive):
        raise UserError(f"archive.kind: {algorithm} needs 'novelty', not '{archive.geometry.kind}'")
    return archive


def count_by_emitter(emitters: tuple[str, ...], rows: Any, evaluation: Evaluation, verb: str) -> dict[str, float]:
    """How many of the given rows each emitter proposed, as `<verb>_<emitter>` columns."""
    origin = evaluation.emitter[rows]
    return {f"{verb}_{name}": float((origin == index).sum()) for index, name in enumerate(emitters)}
