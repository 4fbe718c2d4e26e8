import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from matplotlib.axes import Axes
from matplotlib.collections import QuadMesh
from matplotlib.figure import Figure

from qdrl.archives.archive import Archive
from qdrl.archives.grid import Grid
from qdrl.archives.hdf5 import open_archive
from qdrl.archives.novelty_archive import NoveltyArchive
from qdrl.archives.statistics import Offsets
from qdrl.archives.stored import StoredArchive
from qdrl.errors import UserError
from qdrl.report.curves import figure_of_curves
from qdrl.report.figures import new_figure, save_figure
from qdrl.report.heatmap import figure_of_heatmap, plot_heatmap, plot_projections
from qdrl.report.shades import shades_of
from qdrl.report.voronoi import borders, nearest_centroids
from qdrl.tasks.registry import make_task
from tests.archives.builders import small_archive


def mesh_of(axes: Axes) -> Any:
    """Return the array drawn by pcolormesh, `(rows, columns)`, masked at empty cells."""
    (mesh,) = [item for item in axes.collections if isinstance(item, QuadMesh)]
    return mesh.get_array()


def fitness_by_cell(archive: StoredArchive) -> np.ndarray:
    everywhere = np.full(archive.cells, np.nan)
    everywhere[archive.elites["cell"]] = archive.elites["fitness"]
    return everywhere


def batch() -> dict[str, np.ndarray]:
    draw = np.random.default_rng(0)
    return {"genomes": draw.random((20, 3)), "fitness": draw.random(20), "descriptor": draw.uniform(-1, 1, (20, 2))}


def live_archive() -> Archive:
    archive = Archive(Grid([-1, -1], [1, 1], (6, 6)), 3, offsets=Offsets(-4))
    archive.add(**batch())
    return archive


def live_novelty_archive() -> NoveltyArchive:
    archive = NoveltyArchive([-1, -1], [1, 1], 3)
    archive.add(**batch())
    return archive


# Grids


def test_a_grid_shows_each_elite_at_its_cell_and_nothing_elsewhere() -> None:
    archive = small_archive(shape=(5, 4))
    axes = plot_heatmap(archive)
    expected = np.array([[fitness_by_cell(archive)[4 * x + y] for x in range(5)] for y in range(4)])
    np.testing.assert_array_equal(mesh_of(axes).filled(np.nan), expected)


def test_the_plot_names_axes_units_task_and_fitness() -> None:
    axes = plot_heatmap(small_archive())
    assert axes.get_xlabel() == "axis 0"
    assert axes.get_ylabel() == "axis 1 [m]"
    assert axes.get_title(loc="left") == "toy"
    assert axes.get_xlim() == (0, 1)
    assert axes.get_ylim() == (-1, 2)
    assert axes.texts[0].get_text().startswith("7 of 20 cells (35 %)   QD score ")
    assert axes.figure.axes[1].get_ylabel() == "episode return"


def test_the_plot_is_drawn_on_the_axes_given_and_returns_them() -> None:
    figure = new_figure(4, 2)
    left, right = figure.subplots(1, 2)
    assert plot_heatmap(small_archive(), left, colorbar=False) is left
    assert figure.axes == [left, right]
    assert not right.collections


def test_the_colour_scale_has_the_given_limits() -> None:
    axes = plot_heatmap(small_archive(), vmin=-3, vmax=1000, colormap="magma")
    mesh = axes.collections[0]
    assert mesh.get_clim() == (-3, 1000)
    assert mesh.get_cmap().name == "magma"


@pytest.mark.parametrize("shape", [(5,), (5, 4), (4, 4, 4)])
@pytest.mark.parametrize(
    ("options", "expected"),
    [({"vmin": 1000}, (1000, None)), ({"vmax": -1000}, (None, -1000)), ({"vmin": 95, "vmax": 100}, (95, 100))],
)
def test_limits_beyond_all_values_are_kept(
    shape: tuple[int, ...], options: dict[str, Any], expected: tuple[float | None, float | None]
) -> None:
    archive = small_archive(shape=shape, elites=4)
    figure = figure_of_heatmap(archive, **options)
    figure.draw_without_rendering()
    shades = shades_of(archive, "fitness", "viridis", **options)
    drawn = shades.norm.vmin, shades.norm.vmax
    if len(shape) > 1:
        bar = figure.axes[-1] if len(shape) == 2 else next(a for p in figure.axes for a in p.child_axes)
        assert sorted(bar.get_ylim() if len(shape) == 2 else bar.get_xlim()) == pytest.approx(drawn)
    assert drawn[0] is not None
    assert drawn[1] is not None
    assert drawn[0] < drawn[1]
    assert all(limit in (None, is_drawn) for limit, is_drawn in zip(expected, drawn, strict=True))


def test_values_that_are_all_equal_can_have_a_limit() -> None:
    archive = small_archive()
    archive.elites["fitness"][:] = 3.0
    assert plot_heatmap(archive, vmin=3.0).collections[0].get_clim() == (3, 4)
    assert plot_heatmap(archive, vmax=3.0).collections[0].get_clim() == (2, 3)


def test_dollars_in_names_are_drawn_as_they_are() -> None:
    odd = "$x_1$ \\frac{ $ $"
    for shape in ((5,), (5, 4), (4, 4, 4)):
        archive = small_archive(shape=shape, elites=4)
        axes = tuple(replace(axis, name=odd, unit="$") for axis in archive.axes)
        archive = replace(archive, axes=axes, fitness_name=odd, emitters=(odd, "$"), meta={"task": {"name": odd}})
        for figure in (
            figure_of_heatmap(archive),
            figure_of_heatmap(archive, value="emitter"),
            figure_of_curves(archive),
        ):
            figure.draw_without_rendering()  # a formula that cannot be parsed raises here


@pytest.mark.parametrize("make", [live_archive, live_novelty_archive])
def test_an_archive_in_memory_is_drawn_like_the_stored_one(tmp_path: Path, make: Callable[[], Any]) -> None:
    archive, task = make(), make_task("arm", parameters=3)
    archive.save(tmp_path / "a.h5", task)
    save_figure(figure_of_heatmap(archive, task=task), tmp_path / "live.png")
    save_figure(figure_of_heatmap(open_archive(tmp_path / "a.h5")), tmp_path / "stored.png")
    assert (tmp_path / "live.png").read_bytes() == (tmp_path / "stored.png").read_bytes()
    assert plot_heatmap(archive).get_xlabel() == "descriptor 0"
    assert plot_heatmap(archive, task=task).get_xlabel() == "gripper x [m]"


def test_another_column_can_be_shown_and_emitters_go_by_name() -> None:
    assert plot_heatmap(small_archive(), value="generation").figure.axes[1].get_ylabel() == "generation"
    bar = plot_heatmap(small_archive(), value="emitter").figure.axes[1]
    assert [label.get_text() for label in bar.get_yticklabels()] == ["iso_line", "gradient"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"value": "fitnes"}, "no column 'fitnes' to draw; did you mean 'fitness'"),
        ({"value": "descriptor"}, "no column 'descriptor'"),
        ({"value": "fitness_std"}, "is NaN for all elites"),
        ({"colormap": "viridiss"}, "did you mean 'viridis'"),
        ({"vmin": 2, "vmax": 1}, "vmin 2 must be below vmax 1"),
        ({"vmin": 2, "vmax": 2}, "vmin 2 must be below vmax 2"),
        ({"vmin": np.nan}, "vmin must be a finite number, got nan"),
        ({"vmax": np.inf}, "vmax must be a finite number, got inf"),
        ({"value": "emitter", "vmin": 0}, "vmin cannot be given for 'emitter', whose values are names"),
    ],
)
def test_the_error_for_what_cannot_be_drawn_names_the_fix(options: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        plot_heatmap(small_archive(), **options)


# CVT


def test_voronoi_pixels_belong_to_their_nearest_centroid() -> None:
    draw = np.random.default_rng(0)
    lower, upper = np.array([-3.0, 10.0]), np.array([1.0, 11.0])
    for cells in (1, 2, 300):
        centroids = draw.uniform(lower, upper, (cells, 2))
        image = nearest_centroids(centroids, lower.tolist(), upper.tolist(), tiles=4)
        size = len(image)
        middle = (np.arange(size) + 0.5) / size
        x, y = np.meshgrid(*(lower + np.outer(middle, upper - lower)).T)
        wide, high = upper - lower
        squared = ((x[..., None] - centroids[:, 0]) / wide) ** 2 + ((y[..., None] - centroids[:, 1]) / high) ** 2
        np.testing.assert_array_equal(image, squared.argmin(axis=2))


def test_of_two_equal_centroids_the_lower_cell_is_drawn() -> None:
    image = nearest_centroids(np.array([[0.5, 0.5], [0.5, 0.5]]), [0, 0], [1, 1], tiles=1)
    assert (image == 0).all()


def test_borders_run_between_cells_only() -> None:
    cell = np.array([[0, 0, 1], [0, 0, 1]])
    np.testing.assert_array_equal(borders(cell), [[0, 1, 0], [0, 1, 0]])


def test_cvt_cells_show_the_fitness_of_their_elites() -> None:
    archive = small_archive(kind="cvt", shape=(30, 2), elites=20)
    picture = plot_heatmap(archive).images[0]
    values: Any = picture.get_array()
    assert picture.get_extent() == [0, 1, -1, 2]
    assert set(values.compressed()) == set(archive.elites["fitness"])
    empty = nearest_centroids(archive.centroids, [0, -1], [1, 2])
    np.testing.assert_array_equal(values.mask, ~np.isin(empty, archive.elites["cell"]))


# One axis


@pytest.mark.parametrize(("kind", "shape"), [("grid", (9,)), ("cvt", (9, 1))])
def test_one_axis_becomes_bars_over_the_cells(kind: str, shape: tuple[int, ...]) -> None:
    archive = small_archive(kind=kind, shape=shape, elites=5)
    axes = plot_heatmap(archive)
    bars: Any = axes.patches
    place = archive.centroids[archive.elites["cell"], 0]
    order = np.argsort(place)
    assert [bar.get_height() for bar in bars] == archive.elites["fitness"][order].tolist()
    for bar, center in zip(bars, place[order], strict=True):
        assert bar.get_x() < center < bar.get_x() + bar.get_width()
    assert axes.get_ylabel() == "episode return"


def test_the_cells_of_one_axis_fill_it() -> None:
    archive = small_archive(kind="cvt", shape=(12, 1), elites=12)
    assert sum(bar.get_width() for bar in plot_heatmap(archive).patches) == pytest.approx(1)  # type: ignore[attr-defined]


# Entries of a novelty archive


def test_entries_are_points_where_they_were_measured_the_best_on_top() -> None:
    archive = small_archive(kind="novelty", shape=(12, 2), elites=9)
    archive.elites["descriptor"][0] = [4.0, -3.0]  # beyond the bounds
    axes = plot_heatmap(archive)
    (points,) = axes.collections
    order = np.argsort(archive.elites["fitness"])
    np.testing.assert_array_equal(points.get_offsets(), archive.elites["descriptor"][order])
    np.testing.assert_array_equal(points.get_array(), archive.elites["fitness"][order])  # pyright: ignore[reportArgumentType]
    (left, right), (bottom, top) = axes.get_xlim(), axes.get_ylim()
    assert (left, top) == (0, 2)
    assert right > 4
    assert bottom < -3
    assert axes.get_ylabel() == "axis 1 [m]"
    assert axes.texts[0].get_text().startswith("9 entries   mean novelty ")
    assert axes.figure.axes[1].get_ylabel() == "episode return"


def test_entries_over_one_axis_stand_as_high_as_their_value() -> None:
    archive = small_archive(kind="novelty", shape=(5, 1), elites=5)
    axes = plot_heatmap(archive, value="generation")
    expected = np.column_stack([archive.elites["descriptor"], archive.elites["generation"]])
    offsets: Any = axes.collections[0].get_offsets()
    assert sorted(map(tuple, offsets.tolist())) == sorted(map(tuple, expected.tolist()))
    assert axes.get_ylabel() == "generation"
    assert len(axes.figure.axes) == 1


# Many axes


def test_each_pair_of_many_axes_shows_the_best_elite_of_every_bin() -> None:
    archive = small_archive(shape=(4, 3, 5), elites=40)
    figure = plot_projections(archive)
    table = fitness_by_cell(archive).reshape(4, 3, 5)
    best = np.fmax.reduce(table, axis=0)  # over the first axis: axes 1 and 2 remain
    panel = next(axes for axes in figure.axes if axes.get_xlabel() == "axis 1 [m]" and axes.collections)
    np.testing.assert_array_equal(mesh_of(panel).filled(np.nan), best.T)
    assert sum(bool(axes.collections) and axes.get_visible() for axes in figure.axes[:4]) == 3


def test_cvt_elites_outside_the_bounds_fall_into_the_edge_bins() -> None:
    archive = small_archive(kind="cvt", shape=(50, 3), elites=1)
    archive.elites["descriptor"][:] = [[9.0, -9.0, 0.0]]
    figure = plot_projections(archive)
    first = mesh_of(figure.axes[0])
    assert np.argwhere(~first.mask).tolist() == [[0, first.shape[1] - 1]]


def test_heatmap_and_projections_name_each_other_for_other_dimensions() -> None:
    with pytest.raises(UserError, match="use figure_of_heatmap"):
        plot_heatmap(small_archive(shape=(2, 2, 2)))
    with pytest.raises(UserError, match="need three axes"):
        plot_projections(small_archive())


# Files


@pytest.mark.parametrize(
    ("kind", "shape", "elites"),
    [
        *(("grid", (6, 6, 6, 6)[:d], 3) for d in (1, 2, 3, 4)),
        *(("cvt", (30, d), 20) for d in (1, 2, 4)),
        *(("novelty", (30, d), elites) for d in (1, 2, 4) for elites in (20, 1)),
        ("grid", (50, 50), 2000),
    ],
)
def test_every_dimension_becomes_a_picture(tmp_path: Path, kind: str, shape: tuple[int, ...], elites: int) -> None:
    figure = figure_of_heatmap(small_archive(kind=kind, shape=shape, elites=elites))
    assert save_figure(figure, tmp_path / "a.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize(
    ("kind", "shape"), [*(("grid", (5, 4, 3)[:d]) for d in (1, 2, 3)), *(("novelty", (0, d)) for d in (1, 2, 3))]
)
def test_an_empty_archive_can_be_drawn(tmp_path: Path, kind: str, shape: tuple[int, ...]) -> None:
    save_figure(figure_of_heatmap(small_archive(kind=kind, shape=shape, elites=0)), tmp_path / "a.png")


def test_an_archive_without_a_task_is_named_after_its_file() -> None:
    archive = replace(small_archive(), meta={}, path=Path("walker.h5"))
    assert plot_heatmap(archive).get_title(loc="left") == "walker"


@pytest.mark.parametrize(("suffix", "start"), [("png", b"\x89PNG"), ("pdf", b"%PDF"), ("svg", b"<?xml")])
def test_a_figure_is_saved_as_its_suffix_says(tmp_path: Path, suffix: str, start: bytes) -> None:
    figure = figure_of_heatmap(small_archive())
    assert save_figure(figure, tmp_path / f"a.{suffix}").read_bytes().startswith(start)


def test_an_unknown_suffix_and_a_missing_folder_are_refused(tmp_path: Path) -> None:
    figure: Figure = new_figure(1, 1)
    with pytest.raises(UserError, match=r"one of \.png, \.pdf, \.svg"):
        save_figure(figure, tmp_path / "a.jpeg")
    with pytest.raises(UserError, match="No such file or directory"):
        save_figure(figure, tmp_path / "none" / "a.png")


def test_figures_never_load_pyplot_or_torch() -> None:
    script = """
import sys
from tests.archives.builders import small_archive
from qdrl.report.curves import figure_of_curves
from qdrl.report.heatmap import figure_of_heatmap
figure_of_heatmap(small_archive()), figure_of_curves(small_archive())
print(sorted({"matplotlib.pyplot", "torch"} & set(sys.modules)))
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"


@pytest.mark.parametrize("shape", [(4,), (4, 4), (3, 3, 3)])
def test_dollar_signs_in_names_are_drawn_as_they_are(tmp_path: Path, shape: tuple[int, ...]) -> None:
    archive = small_archive(shape=shape, elites=4)
    odd = r"cost in $ or $\frac{"
    archive = replace(
        archive,
        axes=tuple(replace(axis, name=odd, unit=odd) for axis in archive.axes),
        fitness_name=odd,
        meta={**archive.meta, "task": {"name": odd}},
    )
    save_figure(figure_of_heatmap(archive), tmp_path / "heatmap.png")
    save_figure(figure_of_curves(archive), tmp_path / "curves.png")
