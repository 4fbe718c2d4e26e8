"""Curves of a run's metrics over evaluations, or over frames for tasks that count frames."""

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import EngFormatter

from qdrl.archives.stored import StoredArchive
from qdrl.errors import UserError
from qdrl.report.figures import FAINT, INK, name_of, new_figure, quiet

_COLORS = {
    "coverage": "#21918c",
    "elites": "#21918c",
    "qd_score": "#3b528b",
    "max_fitness": "#440154",
    "mean_fitness": "#b8b4c4",
    "champion_fitness": "#e07b39",
}
_LINES = {"max_fitness": "best", "mean_fitness": "mean of the elites", "champion_fitness": "champion"}


def figure_of_curves(archive: StoredArchive) -> Figure:
    """Draw coverage (or the number of entries), QD score and fitness side by side.

    The fitness curves are the best, the mean and, if the run optimises a single genome, the champion's.

    Raises:
        UserError: the archive holds no history.
    """
    figure = new_figure(10.5, 2.9)
    filling, qd_score, fitness = figure.subplots(1, 3)
    if archive.unstructured:
        plot_curve(archive, "elites", filling, label="entries")
        filling.yaxis.set_major_formatter(EngFormatter(sep=""))
    else:
        plot_curve(archive, "coverage", filling, label="coverage")
    filling.set_ylim(bottom=0)
    plot_curve(archive, "qd_score", qd_score, label="QD score")
    if not np.array_equal(archive.history.get("fitness_sum", archive.history["qd_score"]), archive.history["qd_score"]):
        plot_curve(archive, "fitness_sum", qd_score, label="QD score")
        for line, name in zip(qd_score.lines, ("with offset", "without"), strict=True):
            line.set_label(name)
        qd_score.legend(frameon=False, fontsize=7.5, labelcolor=INK, loc="best")
    qd_score.yaxis.set_major_formatter(EngFormatter(sep=""))
    drawn = [metric for metric in _LINES if metric in archive.history or metric == "max_fitness"]
    for metric in drawn:
        plot_curve(archive, metric, fitness, label=archive.fitness_name)
        fitness.lines[-1].set_label(_LINES[metric])
    if len(drawn) > 1:
        fitness.legend(frameon=False, fontsize=7.5, labelcolor=INK, loc="best")
    figure.suptitle(name_of(archive), parse_math=False, x=0.008, ha="left", fontsize=11, fontweight="bold", color=INK)
    return figure


def plot_curve(archive: StoredArchive, metric: str, axes: Axes, *, label: str | None = None) -> Axes:
    """Draw one metric of the history over evaluations, or over frames for tasks that count frames.

    Args:
        archive: an archive with a history.
        metric: its name in `archive.history`.
        axes: to draw on.
        label: of the y axis; the metric's name when left out.

    Returns:
        the axes.

    Raises:
        UserError: the history is empty, or has no such metric.
    """
    history = archive.history
    over = "frames" if "frames" in history else "evaluations"
    missing = [name for name in (over, metric) if len(history.get(name, ())) == 0]
    if missing:
        raise UserError(f"the archive's history has no {' and no '.join(missing)}; there is no curve to draw")
    spent = history[over]
    marker = "o" if len(spent) == 1 else None
    color = _COLORS.get(metric, INK)
    axes.plot(spent, history[metric], color=color, linewidth=1.4, marker=marker, markersize=4)
    axes.set(xlabel=over, ylabel=label or metric.replace("_", " "))
    axes.xaxis.set_major_formatter(EngFormatter(sep=""))
    axes.set_xlim(left=0, right=float(np.max(spent)) * 1.02)
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(axis="y", color=FAINT, alpha=0.25, linewidth=0.6)
    return quiet(axes)
