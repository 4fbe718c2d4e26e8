"""Common parts of all figures: canvas without pyplot, frame, title and saving."""

from pathlib import Path
from typing import cast

from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.text import Text

from qdrl.archives.atomic import replacing, writing
from qdrl.archives.stored import StoredArchive
from qdrl.errors import UserError

SUFFIXES = (".png", ".pdf", ".svg")
EMPTY = "#efefec"
INK = "#333333"
FAINT = "#8a8a85"
_DPI = 180


def new_figure(width: float, height: float) -> Figure:
    """Return an empty white figure, `width` by `height` inches, that pyplot does not manage."""
    figure = Figure(figsize=(width, height), dpi=_DPI, layout="constrained", facecolor="white")
    FigureCanvasAgg(figure)
    return figure


def quiet(axes: Axes) -> Axes:
    """Give axes small dark labels and a thin frame, and draw their text literally: `$` starts no formula."""
    for text in axes.findobj(Text):
        cast("Text", text).set_parse_math(False)
    axes.tick_params(labelsize=8, color=FAINT, labelcolor=INK, width=0.6, length=3)
    for label in (axes.xaxis.label, axes.yaxis.label):
        label.set(fontsize=9, color=INK)
    for spine in axes.spines.values():
        spine.set(linewidth=0.6, color=FAINT)
    return axes


def name_of(archive: StoredArchive) -> str:
    """Return the task's name, or the name of the archive's file."""
    task = archive.meta.get("task") or {}
    return str(task.get("name") or (archive.path.stem if archive.path else "archive"))


def summary_of(archive: StoredArchive) -> tuple[str, ...]:
    """Return coverage and QD score; of a novelty archive entries, mean novelty and best fitness."""
    now = archive.statistics()
    if archive.unstructured:
        spread = f"mean novelty {archive.mean_novelty():.3g}", f"best {now.max_fitness:.4g}"
        return f"{now.elites:,} entries", *(spread if now.elites > 1 else ())
    score = _score(now.qd_score)
    if now.qd_score != now.fitness_sum:
        score += f", {_score(now.fitness_sum)} without offset"
    return (
        f"{now.elites:,} of {archive.cells:,} cells ({100 * now.coverage:.3g} %)",
        f"QD score {score}",
    )


def _score(value: float) -> str:
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.4g}"


def save_figure(figure: Figure, path: str | Path) -> Path:
    """Write a figure atomically, in the format that the file's suffix names.

    Raises:
        UserError: the suffix is none of .png, .pdf and .svg, or the file cannot be written.
    """
    path = Path(path)
    if path.suffix.lower() not in SUFFIXES:
        raise UserError(f"cannot write a figure to '{path}': its suffix must be one of {', '.join(SUFFIXES)}")
    with writing(path), replacing(path) as temporary:
        figure.savefig(temporary, format=path.suffix[1:].lower(), dpi=_DPI, bbox_inches="tight", pad_inches=0.08)
    return path
