"""Check that a task keeps its contract, as Gymnasium's `check_env` does for an environment."""

import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from qdrl.errors import UserError
from qdrl.evaluation import Candidates, unusable_number
from qdrl.tasks.base import Task
from qdrl.tasks.episodes.contract import check_tensor
from qdrl.tasks.episodes.rollout import Rollout
from qdrl.tasks.episodes.staggered import StaggeredWorlds
from qdrl.tasks.episodic import EpisodicTask

_SECONDS = 2.0  # of all evaluations of a check, as far as a few rows and control steps allow
_FIRST_SEED = 1000
_MOST_ROWS, _LEAST_ROWS = 64, 4  # of a task without worlds
_EPISODES = 6  # rows of a task with worlds
_SHARES = (1 / 3, 1.0, 1 / 2, 2 / 3, 1.0, 1.0)  # length of each row's episode; the last two rows are moved meanwhile
_PASSES = 5  # evaluations of each row of a task with worlds
_LEAST_STEPS = 8
_SEED_RULE = "all random numbers of an evaluation must come from its seed, by qdrl.streams.generator_from_seed"
_ROW_RULE = (
    "a row's result must not depend on other rows; sums and matrix products over a batch may differ in their last bits"
)


def check_task(task: Task) -> str:
    """Check that a task keeps its contract, with a few evaluations of random genomes.

    The check takes a second or two; episodes that would take longer are cut. It covers shape and dtype of what the
    task's methods return, finite results, and that a row's result depends only on its genome and seed: evaluated again,
    alone, beside other rows, in another order, and moved to another world during the episode.

    Args:
        task: The task, as `qdrl.make_task` returns it.

    Returns:
        One line that names the checks that passed.

    Raises:
        UserError: The task breaks its contract; the message is one line.
    """
    try:
        _check_initial(task)
        if isinstance(task, EpisodicTask) and isinstance(task.rollout(), Rollout):
            return _check_episodes(task)
        return _check_rows(task)
    except UserError as error:
        raise UserError(f"task '{task.spec.name}': {error}") from error
    finally:
        task.close()


@dataclass(frozen=True)
class _Result:
    """Result of one evaluation."""

    fitness: float
    descriptor: list[float]
    steps: int
    failed: bool

    @property
    def bits(self) -> bytes:
        """All numbers as bytes, so that NaN equals itself."""
        return np.array([self.fitness, *self.descriptor, self.steps, self.failed]).tobytes()

    def difference(self, other: "_Result") -> str:
        """Return the first number that differs from another result's, with both values."""
        pairs = [("fitness", self.fitness, other.fitness), ("steps", self.steps, other.steps)]
        pairs += [
            (f"descriptor[{axis}]", *both)
            for axis, both in enumerate(zip(self.descriptor, other.descriptor, strict=True))
        ]
        pairs.append(("failed", self.failed, other.failed))
        return next(
            f"{name} {a!r} instead of {b!r}"
            for name, a, b in pairs
            if np.float64(a).tobytes() != np.float64(b).tobytes()
        )


_Results = dict[int, _Result]


def _check_initial(task: Task) -> None:
    genome, again = (task.initial(np.random.default_rng(0)) for _ in range(2))
    name, expected = type(task).__name__, f"expected ({task.parameters},) float32"
    if not isinstance(genome, np.ndarray):
        raise UserError(f"{name}.initial returned a value of type {type(genome).__name__}, {expected}")
    if genome.shape != (task.parameters,) or genome.dtype != np.float32:
        raise UserError(f"{name}.initial returned {genome.shape} {genome.dtype}, {expected}")
    if not np.isfinite(genome).all():
        raise UserError(f"{name}.initial returned a genome that is not finite")
    if not np.array_equal(genome, again):
        raise UserError(
            f"{name}.initial gave two genomes for generators in the same state; draw from its argument only"
        )


def _genomes(task: Task, rows: int) -> Tensor:
    return torch.from_numpy(np.stack([task.initial(np.random.default_rng(row)) for row in range(rows)]))


def _compare(results: _Results, expected: _Results, how: str, rule: str, rows: Iterable[int] | None = None) -> None:
    """Compare results with those of the first evaluation.

    Raises:
        UserError: A row's results differ.
    """
    for row in results if rows is None else rows:
        if results[row].bits != expected[row].bits:
            seed = _FIRST_SEED + row
            raise UserError(f"seed {seed} {how} gave {results[row].difference(expected[row])}: {rule}")


# Tasks without worlds, and those on a device: `Task.evaluate`.


def _check_rows(task: Task) -> str:
    begun = time.perf_counter()
    _evaluate(task, _genomes(task, 1), [0])
    seconds = time.perf_counter() - begun
    count = int(min(max(_SECONDS / 4 / seconds, _LEAST_ROWS), _MOST_ROWS))
    genomes, rows = _genomes(task, count), list(range(count))
    expected = _evaluate(task, genomes, rows)
    _compare(_evaluate(task, genomes, rows), expected, "evaluated again", _SEED_RULE)
    alone = {row: _evaluate(task, genomes, [row])[row] for row in rows}
    _compare(alone, expected, "evaluated alone", _ROW_RULE)
    _compare(_evaluate(task, genomes, rows[::-1]), expected, "evaluated in another order", _ROW_RULE)
    return f"{count} random genomes gave the same bits again, alone and in another order"


def _evaluate(task: Task, genomes: Tensor, rows: Sequence[int]) -> _Results:
    """Evaluate some rows, and check the evaluation.

    Raises:
        UserError: A column has another shape or dtype than it must, or a row has failed.
    """
    count, emitter = len(rows), torch.zeros(len(rows), dtype=torch.int64)
    seeds = torch.tensor([_FIRST_SEED + row for row in rows])
    evaluation = task.evaluate(Candidates(0, range(count), genomes[list(rows)], seeds, emitter, emitter - 1))
    what = f"{type(task).__name__}.evaluate returned as"
    check_tensor(f"{what} fitness", evaluation.fitness, (count,), torch.float64)
    check_tensor(f"{what} descriptor", evaluation.descriptor, (count, len(task.spec.axes)), torch.float64)
    check_tensor(f"{what} failed", evaluation.failed, (count,), torch.bool)
    check_tensor(f"{what} steps", evaluation.steps, (count,), torch.int64)
    if evaluation.failed.any():
        reason = task.first_failure or evaluation.first_failure or "no reason is given"
        raise UserError(f"{int(evaluation.failed.sum())} of {count} evaluations failed; the first one: {reason}")
    columns = (evaluation.fitness, evaluation.descriptor, evaluation.steps, evaluation.failed)
    return {row: _Result(*values) for row, *values in zip(rows, *(column.tolist() for column in columns), strict=True)}


# Tasks whose policies act in worlds on the CPU.


class _Episodes:
    """Short episodes of random genomes in worlds of a task.

    Args:
        task: The task.

    Attributes:
        length: Control steps of the longest episode.
    """

    def __init__(self, task: EpisodicTask) -> None:
        self._task = task
        self._genomes = _genomes(task, _EPISODES)
        self._reference = task.reference()
        self.length = min(_LEAST_STEPS, task.spec.episode_length)
        _, worlds = self.run(1, [_SHARES.index(1.0)])
        affordable = int(_SECONDS / _PASSES / _EPISODES / max(worlds.step_seconds, 1e-9))
        self.length = min(max(affordable, _LEAST_STEPS), task.spec.episode_length)

    def run(self, count: int, rows: Sequence[int]) -> tuple[_Results, StaggeredWorlds]:
        """Run one episode per row in `count` new worlds; return the results by row, and the closed worlds."""
        task, seeds = self._task, [_FIRST_SEED + row for row in rows]
        lengths = {seed: max(1, int(self.length * _SHARES[row])) for row, seed in zip(rows, seeds, strict=True)}
        worlds = StaggeredWorlds(task.make_worlds(count), lengths, task.spec.observation_size, len(task.spec.axes))
        normalization = None if task.normalizer is None else (task.normalizer.mean, task.normalizer.var)
        try:
            rollout = Rollout(worlds, task.policy, len(task.spec.axes), task.spec.episode_length)
            rollout.set_reference(self._reference)
            episodes = rollout.run(self._genomes[list(rows)], seeds, normalization)
        finally:
            worlds.close()
        columns = (episodes.fitness, episodes.descriptor, episodes.steps, episodes.failed)
        results = zip(rows, *(column.tolist() for column in columns), strict=True)
        return {row: _Result(*values) for row, *values in results}, worlds


def _check_episodes(task: EpisodicTask) -> str:
    episodes, rows = _Episodes(task), list(range(_EPISODES))
    expected, worlds = episodes.run(1, rows)
    name = worlds.name
    _compare(episodes.run(1, rows)[0], expected, "evaluated again", _SEED_RULE)
    _check_finite(task, name, expected)
    reset_rule = f"{name}.reset must set the whole state of a world"
    _compare(episodes.run(1, rows[::-1])[0], expected, "after other episodes in its world", reset_rule)
    beside, together = episodes.run(_EPISODES, rows)
    moved = [row for row in rows if _FIRST_SEED + row in together.moved_seeds]
    unmoved = [row for row in rows if row not in moved]
    _compare(beside, expected, "beside other worlds", _ROW_RULE, unmoved)
    move_rule = f"{name}.move must copy the whole state of a world, random generators and sums included"
    _compare(beside, expected, "moved to another world during its episode", move_rule, moved)
    refilled, _ = episodes.run(_EPISODES // 2, [3, 0, 5, 1, 4, 2])
    _compare(refilled, expected, "in another order, in worlds that are used again", _ROW_RULE)
    cut = f" of {task.spec.episode_length}" if episodes.length < task.spec.episode_length else ""
    failed = sum(result.failed for result in expected.values())
    return (
        f"{_EPISODES} random genomes in episodes of up to {episodes.length}{cut} steps gave the same bits again, beside"
        f" other worlds, in another order and moved to another world{f'; {failed} failed' if failed else ''}"
    )


def _check_finite(task: EpisodicTask, name: str, results: _Results) -> None:
    """Check that the results of evaluations that the worlds did not report as failed are finite.

    Raises:
        UserError: A number is not finite, or all evaluations failed.
    """
    if all(result.failed for result in results.values()):
        reason = task.first_failure or f"{name}.failed(slot) is True"
        raise UserError(f"all {len(results)} evaluations failed; the first one: {reason}")
    for row, result in results.items():
        numbers = {"fitness": torch.tensor(result.fitness), "descriptor": torch.tensor(result.descriptor)}
        reasons = [text for what, values in numbers.items() if (text := unusable_number(what, values.double()))]
        if reasons and not result.failed:
            raise UserError(
                f"seed {_FIRST_SEED + row}: {reasons[0]} after {result.steps} steps; results must be finite, and"
                f" {name}.failed(slot) must be True for a world that broke"
            )
