"""Colours of the values of elites."""

from dataclasses import dataclass
from typing import Any

import matplotlib
import numpy as np
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Colormap, Normalize
from matplotlib.figure import Figure, SubFigure

from qdrl.archives.stored import StoredArchive
from qdrl.errors import UserError
from qdrl.naming import suggest
from qdrl.report.figures import quiet


@dataclass(frozen=True)
class Shades:
    """Values of the elites and their colour scale, which all panels of a figure share.

    Attributes:
        values: `(n,)` of the elites, NaN where unknown.
        label: name and unit of the values.
        norm: maps values to [0, 1].
        colors: maps [0, 1] to colours.
        names: names of the values 0, 1, 2 and so on, if the values stand for names.
    """

    values: np.ndarray
    label: str
    norm: Normalize
    colors: Colormap
    names: tuple[str, ...] = ()

    @property
    def scale(self) -> ScalarMappable:
        """`norm` and `colors` as one matplotlib object."""
        return ScalarMappable(self.norm, self.colors)

    @property
    def _extend(self) -> str:
        """Return the ends of the scale that values exceed, as `Figure.colorbar` names them."""
        low, high = self.norm.vmin or 0.0, self.norm.vmax or 0.0
        below, above = bool((self.values < low).any()), bool((self.values > high).any())
        return {(False, False): "neither", (True, False): "min", (False, True): "max", (True, True): "both"}[
            below, above
        ]

    def by_cell(self, archive: StoredArchive) -> np.ndarray:
        """Return the values by cell, `(cells,)`, NaN for an empty cell."""
        everywhere = np.full(archive.cells, np.nan)
        everywhere[archive.elites["cell"]] = self.values
        return everywhere

    def add_colorbar(self, figure: Figure | SubFigure, **options: Any) -> None:
        """Add a colour bar; the options are those of `Figure.colorbar`."""
        bar = figure.colorbar(self.scale, label="" if self.names else self.label, extend=self._extend, **options)
        if self.names:
            names = [name.replace("$", r"\$") for name in self.names]  # `$` would start a formula
            bar.set_ticks(list(range(len(names))), labels=names)
        bar.outline.set_visible(False)  # pyright: ignore[reportCallIssue]
        quiet(bar.ax)


def shades_of(
    archive: StoredArchive, value: str, colormap: str, vmin: float | None = None, vmax: float | None = None
) -> Shades:
    """Return the colours of a column of the elites.

    Args:
        archive: whose elites.
        value: the column's name.
        colormap: a matplotlib colour map's name.
        vmin: value of the lowest colour; the lowest value of the column when left out.
        vmax: value of the highest colour; the highest value of the column when left out.

    Raises:
        UserError: the column or the colour map does not exist, the column is NaN for all elites, vmin is not below
            vmax, one of them is not finite, or limits are given for names.
    """
    columns = [name for name, column in archive.elites.items() if column.ndim == 1 and name != "cell"]
    if value not in columns:
        raise UserError(f"elites have no column '{value}' to draw{suggest(value, columns)}")
    if colormap not in matplotlib.colormaps:
        raise UserError(f"no colour map '{colormap}'{suggest(colormap, matplotlib.colormaps)}")
    _check_limits(value, vmin, vmax)
    values = archive.elites[value].astype(np.float64)
    if len(values) and np.isnan(values).all():
        raise UserError(f"'{value}' is NaN for all elites; only elites with several evaluations have it")
    if value == "emitter":
        count = len(archive.emitters)
        colors = matplotlib.colormaps[colormap].resampled(count)
        return Shades(values, value, Normalize(-0.5, count - 0.5), colors, archive.emitters)
    label = archive.fitness_name if value == "fitness" else value.replace("_", " ")
    return Shades(values, label, Normalize(*_limits(values, vmin, vmax)), matplotlib.colormaps[colormap])


def _check_limits(value: str, vmin: float | None, vmax: float | None) -> None:
    given = {name: limit for name, limit in (("vmin", vmin), ("vmax", vmax)) if limit is not None}
    for name, limit in given.items():
        if not np.isfinite(limit):
            raise UserError(f"{name} must be a finite number, got {limit}")
    if vmin is not None and vmax is not None and vmin >= vmax:
        raise UserError(f"vmin {vmin} must be below vmax {vmax}")
    if given and value == "emitter":
        raise UserError(f"{' and '.join(given)} cannot be given for 'emitter', whose values are names; leave them out")


def _limits(values: np.ndarray, vmin: float | None, vmax: float | None) -> tuple[float, float]:
    """Return the values of the lowest and the highest colour.

    Given limits are kept. If one is beyond all values, the distance to the other is the range of the values.
    """
    low, high = (float(np.nanmin(values)), float(np.nanmax(values))) if len(values) else (0.0, 1.0)
    spread = high - low or 1.0
    if vmin is not None:
        low, high = vmin, vmax if vmax is not None else high if vmin < high else vmin + spread
    elif vmax is not None:
        low, high = low if low < vmax else vmax - spread, vmax
    return low, high
