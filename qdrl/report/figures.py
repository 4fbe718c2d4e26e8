"""What all figures share: a canvas without pyplot, a quiet frame, a title, and saving."""

from pathlib import Path
from typing import cast

from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.text import Text

from qdrl.archives.files import replacing, writing
from qdrl.archives.stored import StoredArchive
from qdrl.errors import UserError

SUFFIXES = (".png", ".pdf", ".svg")
EMPTY = "#efefec"
INK = "#333333"
FAINT = "#8a8a85"
_DPI = 180


def new_figure(width: float, height: float) -> Figure:
    """An empty white figure, `width` by `height` inches, that no global state knows of."""
    figure = Figure(figsize=(width, height), dpi=_DPI, layout="constrained", facecolor="white")
    FigureCanvasAgg(figure)
    return figure


def quiet(axes: Axes) -> Axes:
    """Give axes small dark labels, taken literally (a "$" begins no formula), and a thin frame."""
    for text in axes.findobj(Text):
        cast("Text", text).set_parse_math(False)
    axes.tick_params(labelsize=8, color=FAINT, labelcolor=INK, width=0.6, length=3)
    for label in (axes.xaxis.label, axes.yaxis.label):
        label.set(fontsize=9, color=INK)
    for spine in axes.spines.values():
        spine.set(linewidth=0.6, color=FAINT)
    return axes


def name_of(archive: StoredArchive) -> str:
    """The task's name, or what else the archive is known by."""
    task = archive.meta.get("task") or {}
    return str(task.get("name") or (archive.path.stem if archive.path else "archive"))


def summary_of(archive: StoredArchive) -> tuple[str, ...]:
    """How the archive stands: elites of cells, coverage, QD score; or entries, mean novelty, best fitness."""
    now = archive.statistics()
    if archive.unstructured:
        spread = f"mean novelty {archive.mean_novelty():.3g}", f"best {now.max_fitness:.4g}"
        return f"{now.elites:,} entries", *(spread if now.elites > 1 else ())
    score = f"{now.qd_score:,.0f}" if abs(now.qd_score) >= 1000 else f"{now.qd_score:.4g}"
    return (
        f"{now.elites:,} elites in {archive.cells:,} cells",
        f"coverage {now.coverage:.3g}",
        f"QD score {score}",
    )


def save_figure(figure: Figure, path: str | Path) -> Path:
    """Write a figure in the format its file's suffix names; what stood there stays until the new one is whole.

    Raises:
        UserError: the suffix is none of .png, .pdf and .svg, or the file cannot be written.
    """
    path = Path(path)
    if path.suffix.lower() not in SUFFIXES:
        raise UserError(f"cannot write a figure to '{path}': its suffix must be one of {', '.join(SUFFIXES)}")
    with writing(path), replacing(path) as temporary:
        figure.savefig(temporary, format=path.suffix[1:].lower(), dpi=_DPI, bbox_inches="tight", pad_inches=0.08)
    return path
