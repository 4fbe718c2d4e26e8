"""Measurements of a generation: its row of history, and whether too many evaluations failed."""

from collections.abc import Mapping

import numpy as np

from qdrl.algorithms.base import Algorithm
from qdrl.evaluation import Evaluation
from qdrl.run.build import Parts
from qdrl.run.history import History, checked_counts
from qdrl.tasks.base import Task


def history_row(
    parts: Parts, evaluation: Evaluation, counts: dict[str, float], history: History, seconds: float
) -> dict[str, float]:
    """Return a generation's row of history, identical on every rank except for `seconds`.

    Args:
        parts: the parts of the run, after `tell`.
        evaluation: all rows of the generation.
        counts: metrics that `tell` returned.
        history: the generations before.
        seconds: wall-clock time of the run so far.

    Raises:
        UserError: the algorithm reported a metric that files cannot hold.
    """
    own = _own_metrics(parts, evaluation, history, seconds)
    row = own | checked_counts(counts, own, parts.algorithm_name)
    if "actor_evaluations" in {*row, *history.columns}:  # they train a critic and never enter the archive
        now = row.get("actor_evaluations", 0)
        if not parts.algorithm.counts_actor_evaluations:
            row["evaluations"] -= now
        row["actor_evaluations"] = now + history.latest("actor_evaluations")
    return row


def failure_of(evaluation: Evaluation, counts: Mapping[str, float], limit: float, task: Task) -> str | None:
    """Return why the failed evaluations of a generation end the run, None where they do not; equal on every rank.

    A generation of `actor_evaluations` alone ends no run: none of its rows could enter the archive.

    Args:
        evaluation: all rows of the generation.
        counts: metrics that `tell` returned.
        limit: largest share of failed rows that a run survives, see `run.max_failed_share`.
        task: its `first_failure` is the cause; the evaluation's, if it is None.
    """
    failed, rows = int(evaluation.failed.sum()), len(evaluation.rows)
    if rows <= counts.get("actor_evaluations", 0) or (failed < rows and failed <= limit * rows):
        return None
    what = f"all {rows} evaluations failed" if failed == rows else f"{failed} of {rows} evaluations failed"
    limit_said = "" if failed == rows else f", more than run.max_failed_share = {limit:g}"
    cause = ""
    if task.first_failure is not None:
        cause = f"; the first one: {task.first_failure} (traceback in log.txt)"
    elif evaluation.first_failure is not None:
        cause = f"; the first one: {evaluation.first_failure}"
    return f"generation {evaluation.generation}: {what}{limit_said}{cause}"


def _own_metrics(parts: Parts, evaluation: Evaluation, history: History, seconds: float) -> dict[str, float]:
    """Return the metrics that the run itself records."""
    algorithm: Algorithm = parts.algorithm
    statistics = algorithm.archive.statistics()
    inside = ~evaluation.failed
    descriptor = evaluation.descriptor[inside].cpu().numpy()
    geometry = algorithm.archive.geometry
    frames, steps = parts.task.spec.frames_per_step, int(evaluation.steps.sum())
    outside = ((descriptor < geometry.lower) | (descriptor > geometry.upper)).any(axis=1)
    best = np.fmax.reduce(evaluation.fitness[inside].cpu().numpy(), initial=history.latest("best_evaluated", np.nan))
    return {
        "generation": evaluation.generation,
        "evaluations": history.latest("evaluations") + len(evaluation.rows),
        "env_steps": history.latest("env_steps") + steps,
        **({"frames": history.latest("frames") + frames * steps} if frames > 1 else {}),
        "seconds": seconds,
        "elites": statistics.elites,
        "coverage": statistics.coverage,
        "qd_score": statistics.qd_score,
        "fitness_sum": statistics.fitness_sum,
        "max_fitness": statistics.max_fitness,
        "mean_fitness": statistics.mean_fitness,
        "best_evaluated": float(best),
        "failed": history.latest("failed") + int(evaluation.failed.sum()),
        "clipped": history.latest("clipped") + int(outside.sum()),
    }
