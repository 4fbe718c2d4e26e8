from dataclasses import replace

import numpy as np
import pytest

from qdrl.errors import UserError
from qdrl.report.curves import figure_of_curves, plot_curve
from qdrl.report.figures import new_figure
from tests.archives.builders import small_archive


def test_curves_show_coverage_qd_score_and_fitness_over_evaluations() -> None:
    archive = small_archive(generations=20)
    coverage, qd_score, fitness = figure_of_curves(archive).axes
    assert [axes.get_ylabel() for axes in (coverage, qd_score, fitness)] == [
        "coverage",
        "QD score",
        "episode return",
    ]
    for axes, metric in [(coverage, "coverage"), (qd_score, "qd_score"), (fitness, "max_fitness")]:
        assert axes.get_xlabel() == "evaluations"
        np.testing.assert_array_equal(axes.lines[0].get_xdata(), archive.history["evaluations"])
        np.testing.assert_array_equal(axes.lines[0].get_ydata(), archive.history[metric])
    legend = fitness.get_legend()
    assert legend is not None
    assert [text.get_text() for text in legend.get_texts()] == ["best", "mean of the elites"]


def test_a_champion_is_drawn_and_frames_are_counted_where_there_are_any() -> None:
    archive = small_archive(generations=5)
    archive.history["champion_fitness"] = np.array([np.nan, 1.0, 1.0, 2.0, 2.0])
    archive.history["frames"] = 4000.0 * np.arange(1, 6)
    coverage, _, fitness = figure_of_curves(archive).axes
    np.testing.assert_array_equal(fitness.lines[2].get_ydata(), archive.history["champion_fitness"])
    assert fitness.lines[2].get_label() == "champion"
    assert coverage.get_xlabel() == "frames"
    np.testing.assert_array_equal(coverage.lines[0].get_xdata(), archive.history["frames"])


def test_without_cells_entries_are_counted_instead_of_coverage() -> None:
    archive = small_archive(kind="novelty", shape=(9, 2), generations=5)
    archive.history["coverage"][:] = np.nan
    entries = figure_of_curves(archive).axes[0]
    assert entries.get_ylabel() == "entries"
    np.testing.assert_array_equal(entries.lines[0].get_ydata(), archive.history["elites"])


def test_a_single_generation_is_a_visible_point() -> None:
    for axes in figure_of_curves(small_archive(generations=1)).axes:
        assert axes.lines[0].get_marker() == "o"


def test_generations_before_the_first_elite_leave_a_gap() -> None:
    archive = small_archive()
    archive.history["max_fitness"][0] = np.nan
    line = figure_of_curves(archive).axes[2].lines[0]
    assert np.isnan(np.asarray(line.get_ydata())[0])


def test_a_history_without_mean_fitness_is_drawn_without_it() -> None:
    archive = small_archive()
    del archive.history["mean_fitness"]
    assert len(figure_of_curves(archive).axes[2].lines) == 1


@pytest.mark.parametrize("generations", [0, None])
def test_an_archive_without_history_is_refused(generations: int | None) -> None:
    archive = small_archive(generations=0) if generations == 0 else replace(small_archive(), history={})
    with pytest.raises(UserError, match="history has no evaluations and no coverage"):
        figure_of_curves(archive)


def test_any_metric_can_be_drawn_and_an_unknown_one_is_refused() -> None:
    axes = new_figure(3, 2).subplots()
    assert plot_curve(small_archive(), "added_iso_line", axes).get_ylabel() == "added iso line"
    with pytest.raises(UserError, match="history has no speed"):
        plot_curve(small_archive(), "speed", axes)
