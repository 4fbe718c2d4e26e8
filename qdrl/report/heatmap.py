"""Heatmaps of archives with one, two or more descriptor axes.

Grids are drawn cell by cell, CVT cells as Voronoi regions, entries of a novelty archive as points. Archives with more
than two axes are drawn as a matrix of projections, in which every bin shows its best elite.
"""

from itertools import combinations
from typing import TYPE_CHECKING, Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from qdrl.archives.axes import Axis
from qdrl.archives.described import Described
from qdrl.archives.snapshot import stored_view
from qdrl.archives.stored import StoredArchive
from qdrl.errors import UserError
from qdrl.report.figures import EMPTY, FAINT, INK, name_of, new_figure, quiet, summary_of
from qdrl.report.shades import Shades, shades_of
from qdrl.report.voronoi import borders, nearest_centroids

if TYPE_CHECKING:
    from qdrl.archives.base import AnyArchive

_MOST_BORDERED_CELLS = 2000  # with more cells, borders would cover the colours


def figure_of_heatmap(
    archive: "StoredArchive | AnyArchive",
    *,
    task: Described | None = None,
    value: str = "fitness",
    colormap: str = "viridis",
    vmin: float | None = None,
    vmax: float | None = None,
) -> Figure:
    """Draw a whole figure for a descriptor of any dimension; arguments and errors are those of `plot_heatmap`."""
    stored = stored_view(archive, task)
    if len(stored.axes) > 2:
        return plot_projections(stored, value=value, colormap=colormap, vmin=vmin, vmax=vmax)
    figure = _figure_for(stored)
    plot_heatmap(stored, figure.subplots(), value=value, colormap=colormap, vmin=vmin, vmax=vmax)
    return figure


def plot_heatmap(
    archive: "StoredArchive | AnyArchive",
    axes: Axes | None = None,
    *,
    task: Described | None = None,
    value: str = "fitness",
    colormap: str = "viridis",
    vmin: float | None = None,
    vmax: float | None = None,
    colorbar: bool = True,
) -> Axes:
    """Draw an archive with one or two descriptor axes as bars, a grid, Voronoi cells or points.

    Args:
        archive: of any kind, stored or in memory (`qdrl.Archive`, `qdrl.NoveltyArchive`).
        axes: to draw on; those of a new figure when left out.
        task: names the axes and the fitness of an archive in memory; generic names are used when left out.
        value: the column of the elites to show, for example "fitness" or "generation".
        colormap: a matplotlib colour map's name.
        vmin: value of the lowest colour, which lower values have too; the lowest value when left out.
        vmax: value of the highest colour, which higher values have too; the highest value when left out.
        colorbar: whether to add a colour bar to a plot of two axes; with one axis, the y axis shows the values.

    Returns:
        the axes.

    Raises:
        UserError: the archive has more than two axes (see `figure_of_heatmap`), the column or the colour map
            does not exist, the column is NaN for all elites, or vmin is not below vmax.
        ValueError: the task has another number of axes or parameters than the archive.
    """
    archive = stored_view(archive, task)
    if len(archive.axes) > 2:
        raise UserError(f"a heatmap has one or two axes, this archive {len(archive.axes)}; use figure_of_heatmap")
    shades = shades_of(archive, value, colormap, vmin, vmax)
    if axes is None:
        axes = _figure_for(archive).subplots()
    axes.set_facecolor(EMPTY)
    if archive.unstructured:
        _draw_points(axes, archive, shades)
    elif len(archive.axes) == 1:
        _draw_bars(axes, archive, shades)
    else:
        draw = _draw_grid if archive.kind == "grid" else _draw_voronoi
        draw(axes, archive, shades)
    if colorbar and len(archive.axes) == 2:
        shades.add_colorbar(axes.figure, ax=axes, fraction=0.05, pad=0.03)
    _entitle(axes, archive)
    return quiet(axes)


def plot_projections(
    archive: StoredArchive,
    *,
    value: str = "fitness",
    colormap: str = "viridis",
    vmin: float | None = None,
    vmax: float | None = None,
) -> Figure:
    """Draw every pair of descriptor axes in its own panel; a bin shows its best elite over all other axes.

    Arguments and errors are those of `plot_heatmap`, except that three or more axes are needed.
    """
    if len(archive.axes) < 3:
        raise UserError(f"projections need three axes or more, this archive has {len(archive.axes)}")
    shades = shades_of(archive, value, colormap, vmin, vmax)
    last = len(archive.axes) - 1
    figure = new_figure(0.8 + 2.1 * last, 0.7 + 2.1 * last)
    panels = figure.subplots(last, last, squeeze=False, sharex="col", sharey="row")
    places, edges = _bins(archive)
    for panel in panels.flat:
        panel.set_visible(False)
    for first, second in combinations(range(last + 1), 2):
        panel = panels[second - 1, first]
        panel.set(visible=True, facecolor=EMPTY)
        best = _best(shades.values, places[:, first], places[:, second], len(edges[first]), len(edges[second]))
        _draw_mesh(panel, edges[first], edges[second], best, shades)
        _name_axes(panel, archive.axes[first], archive.axes[second])
        panel.set_box_aspect(1)
        panel.locator_params(nbins=4)
        quiet(panel).label_outer()
    _fill_corner(figure, panels[0, -1], archive, shades)
    return figure


# Drawing


def _figure_for(archive: StoredArchive) -> Figure:
    return new_figure(6.4, 3.4) if len(archive.axes) == 1 else new_figure(5.4, 4.6)


def _draw_bars(axes: Axes, archive: StoredArchive, shades: Shades) -> None:
    axis, heights = archive.axes[0], shades.by_cell(archive)
    order = np.argsort(archive.centroids[:, 0], kind="stable")
    centers, heights = archive.centroids[order, 0], heights[order]
    # Borders are half-way between neighbours, for grid and CVT cells.
    edges = np.concatenate([[axis.lower], (centers[1:] + centers[:-1]) / 2, [axis.upper]])
    filled = np.flatnonzero(np.isfinite(heights))
    axes.bar(
        edges[filled],
        heights[filled],
        width=np.diff(edges)[filled],
        align="edge",
        color=shades.scale.to_rgba(heights[filled]),
        edgecolor="white",
        linewidth=0.4 if len(centers) <= 150 else 0,
    )
    axes.set(xlim=(axis.lower, axis.upper), xlabel=axis.label, ylabel=shades.label)
    axes.margins(y=0.05)


def _draw_grid(axes: Axes, archive: StoredArchive, shades: Shades) -> None:
    horizontal, vertical = (
        np.linspace(axis.lower, axis.upper, count + 1) for axis, count in zip(archive.axes, archive.shape, strict=True)
    )
    _draw_mesh(axes, horizontal, vertical, shades.by_cell(archive).reshape(archive.shape), shades)
    _name_axes(axes, *archive.axes)


def _draw_mesh(axes: Axes, horizontal: np.ndarray, vertical: np.ndarray, values: np.ndarray, shades: Shades) -> None:
    """Draw `values` `(columns, rows)` between edges `(columns + 1,)` and `(rows + 1,)`."""
    lines = {"edgecolors": "white", "linewidth": 0.3} if values.size <= _MOST_BORDERED_CELLS else {}
    masked = np.ma.masked_invalid(values.T)
    axes.pcolormesh(horizontal, vertical, masked, cmap=shades.colors, norm=shades.norm, **lines)


def _draw_voronoi(axes: Axes, archive: StoredArchive, shades: Shades) -> None:
    first, second = archive.axes
    extent = (first.lower, first.upper, second.lower, second.upper)
    cell = nearest_centroids(archive.centroids, [first.lower, second.lower], [first.upper, second.upper])
    look: dict[str, Any] = {"extent": extent, "origin": "lower", "aspect": "auto"}
    values = np.ma.masked_invalid(shades.by_cell(archive)[cell])
    axes.imshow(values, cmap=shades.colors, norm=shades.norm, interpolation_stage="rgba", **look)
    if archive.cells <= _MOST_BORDERED_CELLS:
        lines = np.ones((*cell.shape, 4))
        lines[..., 3] = 0.8 * borders(cell)
        axes.imshow(lines, **look)
    _name_axes(axes, first, second)


def _draw_points(axes: Axes, archive: StoredArchive, shades: Shades) -> None:
    """Draw every entry at its descriptor, the highest values on top; with one axis, the value is the height."""
    known = np.flatnonzero(np.isfinite(shades.values))
    order = known[np.argsort(shades.values[known], kind="stable")]
    places, values = archive.elites["descriptor"][order], shades.values[order]
    size = float(np.clip(6000 / max(1, len(order)), 4, 40))
    look: dict[str, Any] = {"s": size, "linewidths": 0.25, "edgecolors": "white"}
    heights = values if len(archive.axes) == 1 else places[:, 1]
    axes.scatter(places[:, 0], heights, c=values, cmap=shades.colors, norm=shades.norm, **look)
    reach = [_reach(axis, column) for axis, column in zip(archive.axes, archive.elites["descriptor"].T, strict=True)]
    if len(reach) == 2:
        _name_axes(axes, *reach)
    else:
        axes.set(xlim=(reach[0].lower, reach[0].upper), xlabel=reach[0].label, ylabel=shades.label)


def _reach(axis: Axis, values: np.ndarray) -> Axis:
    """Return an axis that spans its bounds and all values."""
    low, high = min(axis.lower, values.min(initial=axis.lower)), max(axis.upper, values.max(initial=axis.upper))
    margin = 0.03 * (high - low)
    lower = axis.lower if low == axis.lower else low - margin
    upper = axis.upper if high == axis.upper else high + margin
    return Axis(axis.name, axis.unit, lower, upper)


def _name_axes(axes: Axes, horizontal: Axis, vertical: Axis) -> None:
    axes.set(xlim=(horizontal.lower, horizontal.upper), ylim=(vertical.lower, vertical.upper))
    axes.set(xlabel=horizontal.label, ylabel=vertical.label)
    ratio = (vertical.upper - vertical.lower) / (horizontal.upper - horizontal.lower)
    axes.set_box_aspect(ratio if horizontal.unit == vertical.unit and 0.4 <= ratio <= 2.5 else 1)


def _entitle(axes: Axes, archive: StoredArchive) -> None:
    look: dict[str, Any] = {"fontsize": 11, "fontweight": "bold", "color": INK, "parse_math": False}
    axes.set_title(name_of(archive), loc="left", pad=17, **look)
    place: dict[str, Any] = {"xycoords": "axes fraction", "xytext": (0, 5), "textcoords": "offset points"}
    axes.annotate("   ".join(summary_of(archive)), (0, 1), fontsize=7.5, color=FAINT, **place)


# Projections


def _bins(archive: StoredArchive) -> tuple[np.ndarray, list[np.ndarray]]:
    """Return each elite's bin along each axis, `(n, d)`, and the edges of the bins: a grid's cells, or even bins."""
    if archive.kind == "grid":
        counts = archive.shape
        places = np.stack(np.unravel_index(archive.elites["cell"], counts), axis=1)
    else:
        counts = (int(np.clip(np.sqrt(archive.cells) / 2, 8, 32)),) * len(archive.axes)
        lower = np.array([axis.lower for axis in archive.axes])
        span = np.array([axis.upper for axis in archive.axes]) - lower
        places = np.clip((archive.elites["descriptor"] - lower) / span * counts, 0, np.array(counts) - 1).astype(int)
    edges = [np.linspace(a.lower, a.upper, n + 1) for a, n in zip(archive.axes, counts, strict=True)]
    return places, edges


def _fill_corner(figure: Figure, corner: Axes, archive: StoredArchive, shades: Shades) -> None:
    """Draw title, summary and colour bar in the unused corner of the matrix."""
    corner.set_visible(True)
    corner.set_axis_off()
    corner.set_box_aspect(1)
    place: dict[str, Any] = {"transform": corner.transAxes, "verticalalignment": "top", "parse_math": False}
    corner.text(0, 0.97, name_of(archive), fontsize=11, fontweight="bold", color=INK, **place)
    corner.text(0, 0.82, "\n".join(summary_of(archive)), fontsize=7.5, color=FAINT, linespacing=1.5, **place)
    shades.add_colorbar(figure, cax=corner.inset_axes((0, 0.3, 1, 0.08)), orientation="horizontal")


def _best(values: np.ndarray, first: np.ndarray, second: np.ndarray, edges: int, other_edges: int) -> np.ndarray:
    """Return the highest value in each bin of two axes, NaN for an empty bin."""
    best = np.full((edges - 1, other_edges - 1), np.nan)
    known = np.isfinite(values)
    np.fmax.at(best, (first[known], second[known]), values[known])
    return best
