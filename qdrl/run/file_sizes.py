"""Estimated size of archive.h5: an upper bound, with all cells full."""

from math import ceil, inf

import numpy as np

from qdrl.algorithms.registry import algorithm_class
from qdrl.archives.layout import COLUMNS
from qdrl.config import Experiment
from qdrl.critics.settings import LearningSettings
from qdrl.tasks.base import Task

_FLOAT = 4  # bytes
_INDEX = 124  # bytes of an elite in HDF5's index (measured)
_FILE = 42_000  # bytes of a file without elites and history (measured)
_METRIC = 2_600  # bytes of a metric in a file besides its values (measured)
_METRICS_OF_RUN, _METRICS_OF_ALGORITHM = 13, 4  # most that an algorithm reports besides counts of its emitters
_METRICS_OF_LEARNING = 6


def archive_file_bytes(experiment: Experiment, task: Task, rows: int) -> int:
    """Return the size of archive.h5 with all cells full; 0 where nothing limits them.

    A lineage is counted as some 60 mutations.

    Args:
        experiment: the run's settings.
        task: made of them.
        rows: rows of the largest generation.
    """
    count, axes = experiment.archive.most_elites, len(task.spec.axes)
    genome = 512 if algorithm_class(experiment.algorithm_name).holds_lineages else _FLOAT * task.parameters
    widths = {"descriptor": axes, "descriptor_std": axes}
    columns = sum(np.dtype(kind).itemsize * widths.get(name, 1) for name, (kind, _) in COLUMNS.items())
    elite = genome + columns + _INDEX + 8 * axes  # the last: the centroid of its cell
    if task.state_dict(()) is not None:  # mean and variance of each generation that has an elite
        elite += 2 * 8 * task.spec.observation_size
    model = len(task.mjcf or "") + 2 * sum(map(len, task.assets.values()))
    return count and _FILE + model + count * elite + _history_bytes(experiment, task, rows)


def history_metrics(experiment: Experiment, task: Task) -> int:
    """Return the number of metrics in the history, at most."""
    emitters = getattr(algorithm_class(experiment.algorithm_name), "emitters", ())
    learns = isinstance(experiment.algorithm, LearningSettings)
    own = _METRICS_OF_LEARNING if learns else _METRICS_OF_ALGORITHM
    return _METRICS_OF_RUN + (task.spec.frames_per_step > 1) + 2 * len(emitters) + own


def history_length(experiment: Experiment, rows: int) -> int:
    """Return the number of generations in the history at the end of the run; 0 if no budget states it.

    Args:
        experiment: the run's settings.
        rows: rows of the largest generation.
    """
    run, work = experiment.run, algorithm_class(experiment.algorithm_name).workload(experiment.algorithm)
    counted = max(1, (work.total_rows or rows) - work.probe_rows)
    by_evaluations = work.generations * ceil(run.evaluations / counted) if run.evaluations else inf
    generations = min(run.generations or inf, by_evaluations)
    return int(generations) if generations < inf else 0


def _history_bytes(experiment: Experiment, task: Task, rows: int) -> int:
    return history_metrics(experiment, task) * (_METRIC + 8 * history_length(experiment, rows))
