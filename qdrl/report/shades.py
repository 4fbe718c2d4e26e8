"""How values of elites become colours."""

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
    """How values become colours: one scale for all panels of a figure.

    Attributes:
        values: `(n,)` of the elites, NaN where unknown.
        label: what they are, with the unit.
        norm: from values to [0, 1].
        colors: from there to colours.
        names: of the whole numbers, when values are names.
    """

    values: np.ndarray
    label: str
    norm: Normalize
    colors: Colormap
    names: tuple[str, ...] = ()

    @property
    def scale(self) -> ScalarMappable:
        """Both as one."""
        return ScalarMappable(self.norm, self.colors)

    def by_cell(self, archive: StoredArchive) -> np.ndarray:
        """`(cells,)`, NaN where a cell is empty."""
        everywhere = np.full(archive.cells, np.nan)
        everywhere[archive.elites["cell"]] = self.values
        return everywhere

    def add_colorbar(self, figure: Figure | SubFigure, **options: Any) -> None:
        """Add a colour bar; the options are those of `Figure.colorbar`."""
        bar = figure.colorbar(self.scale, label="" if self.names else self.label, **options)
        if self.names:
            bar.set_ticks(list(range(len(self.names))), labels=list(self.names))
        bar.outline.set_visible(False)  # pyright: ignore[reportCallIssue]
        quiet(bar.ax)


def shades_of(
    archive: StoredArchive, value: str, colormap: str, vmin: float | None = None, vmax: float | None = None
) -> Shades:
    """The colours of a column of the elites.

    Args:
        archive: whose elites.
        value: the column's name.
        colormap: a matplotlib colour map's name.
        vmin: value of the lowest colour; the lowest value there is when left out.
        vmax: value of the highest colour.

    Raises:
        UserError: the column or the colour map does not exist, the column says nothing about any elite, or vmin is not
            below vmax.
    """
    columns = [name for name, column in archive.elites.items() if column.ndim == 1 and name != "cell"]
    if value not in columns:
        raise UserError(f"elites have no column '{value}' to draw{suggest(value, columns)}")
    if colormap not in matplotlib.colormaps:
        raise UserError(f"no colour map '{colormap}'{suggest(colormap, matplotlib.colormaps)}")
    if vmin is not None and vmax is not None and vmin >= vmax:
        raise UserError(f"vmin {vmin} must be below vmax {vmax}")
    values = archive.elites[value].astype(np.float64)
    if len(values) and np.isnan(values).all():
        raise UserError(f"'{value}' is not known for any elite; re-evaluated archives have it")
    if value == "emitter":
        count = len(archive.emitters)
        colors = matplotlib.colormaps[colormap].resampled(count)
        return Shades(values, value, Normalize(-0.5, count - 0.5), colors, archive.emitters)
    low, high = (np.nanmin(values), np.nanmax(values)) if len(values) else (0.0, 1.0)
    norm = Normalize(low if vmin is None else vmin, high if vmax is None else vmax)
    label = archive.fitness_name if value == "fitness" else value.replace("_", " ")
    return Shades(values, label, norm, matplotlib.colormaps[colormap])
