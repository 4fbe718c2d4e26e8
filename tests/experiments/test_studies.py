"""Tables, figures and numbers of the studies follow from the committed `experiments/*/results/*.csv`."""

import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from experiments.gradient_study import figures as gradient_study
from experiments.hard_maze import figures as hard_maze
from experiments.reports import floats, read_rows

ROOT = Path(__file__).parents[2]
EXPERIMENTS = ROOT / "experiments"
VALUES = sorted(EXPERIMENTS.glob("gradient_study/results/*_values.csv"))


# Results


def test_the_smallest_study_is_drawn_again_from_its_csv_files(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "experiments.hard_maze.figures", "--output", str(tmp_path)]
    subprocess.run(command, cwd=ROOT, check=True)
    committed = EXPERIMENTS / "hard_maze" / "results"
    assert (tmp_path / "hard_maze.md").read_bytes() == (committed / "hard_maze.md").read_bytes()
    assert (tmp_path / "hard_maze_ends.png").stat().st_size > 10_000
    values, ends = (read_rows(committed / f"hard_maze_{name}.csv") for name in ("values", "ends"))
    for axes, name in zip(hard_maze.ends_figure(values, ends).axes, hard_maze.SELECTIONS, strict=True):
        shown = [[float(row["x"]), float(row["y"])] for row in ends if row["selection"] == name]
        assert np.asarray(axes.collections[0].get_offsets()).tolist() == shown
        assert len(shown) == 500


def test_the_table_of_the_maze_by_hand() -> None:
    values = [
        {"selection": name, "seed": str(seed), "evaluations": str(evaluations), "distance": str(distance)}
        for name, runs in {"novelty": [(500, 9.0), (1500, 3.0)], "objective": [(200_000, 38.95)] * 2}.items()
        for seed, (evaluations, distance) in enumerate(runs)
    ]
    first, second = hard_maze.table(values).splitlines()[-2:]
    assert first == "| novelty search | 2 of 2 | 1,000 [500, 1,500] | 6.00 [3.00, 9.00] |"
    assert second == "| distance to the goal | 0 of 2 | 200,000 [200,000, 200,000] | 38.95 [38.95, 38.95] |"
    assert "p 0.33" in hard_maze.table(values)  # 2 of the 6 ways to choose the two solved runs are as extreme


@pytest.mark.parametrize("values", VALUES, ids=lambda path: path.stem)
def test_tables_follow_from_the_values(values: Path) -> None:
    study = values.stem.removesuffix("_values")
    assert gradient_study.table(study, read_rows(values)) == values.with_name(f"{study}.md").read_text(encoding="utf-8")


@pytest.mark.parametrize("values", VALUES, ids=lambda path: path.stem)
def test_curves_end_at_the_medians_of_the_values(values: Path) -> None:
    study = values.stem.removesuffix("_values")
    rows, curves = read_rows(values), read_rows(values.with_name(f"{study}_curves.csv"))
    last = {(row["algorithm"], row["seed"]): row for row in curves}
    assert len(last) == len(rows)
    for row in rows:
        end = last[row["algorithm"], row["seed"]]
        for column in ("env_steps", "qd_score", "fitness_sum", "coverage"):
            assert float(end[column]) == pytest.approx(float(row[column]), rel=1e-6)
    figure = gradient_study.curves(curves)
    shown = figure.axes[0].lines[0]
    own = [row for row in rows if row["algorithm"] == "map_elites"]
    assert np.asarray(shown.get_ydata())[-1] == pytest.approx(np.median(floats(own, "qd_score")), rel=0.01)


@pytest.mark.parametrize("values", VALUES, ids=lambda path: path.stem)
def test_galleries_show_the_archives_of_median_score(values: Path) -> None:
    study = values.stem.removesuffix("_values")
    rows, elites = read_rows(values), read_rows(values.with_name(f"{study}_elites.csv"))
    for name, own in gradient_study.by_algorithm(elites):
        (run,) = (row for row in rows if (row["algorithm"], row["seed"]) == (name, own[0]["seed"]))
        scores = sorted(floats([row for row in rows if row["algorithm"] == name], "qd_score"))
        assert float(run["qd_score"]) == scores[len(scores) // 2]
        assert floats(own, "fitness").sum() == pytest.approx(float(run["fitness_sum"]), rel=1e-6)


def test_the_figure_of_the_readme_is_drawn_from_the_quickstart(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "experiments.quickstart.figures", "--output", str(tmp_path)]
    subprocess.run(command, cwd=ROOT, check=True)
    results = EXPERIMENTS / "quickstart" / "results"
    assert (tmp_path / "quickstart.md").read_bytes() == (results / "quickstart.md").read_bytes()
    assert (tmp_path / "walker2d_gaits.png").stat().st_size > 10_000
    (run,) = read_rows(results / "quickstart_values.csv")
    elites = read_rows(results / "quickstart_elites.csv")
    assert floats(elites, "fitness").sum() == pytest.approx(float(run["fitness_sum"]), rel=1e-6)
    assert (floats(elites, "steps") < 250).sum() == int(run["end_early"])
    printed = (
        f"({run['elites']} of {run['cells']} cells)",
        f"{float(run['qd_score']):.6g}",
        f"{float(run['max_fitness']):.6g}",
    )
    assert [each for each in printed if each not in (ROOT / "README.md").read_text()] == []
    pages = ("docs/decisions/0008-reward-offsets.md", "experiments/quickstart/README.md")
    for score in (f"{float(run[name]):,.0f}" for name in ("qd_score", "fitness_sum")):
        assert [page for page in pages if score not in (ROOT / page).read_text()] == []


# Numbers in prose

_NUMBER = re.compile(r"(?<![\w.,-])\d[\d,]*(?:\.\d+)?(?:e-?\d+)?")
_NOT_PROSE = (r"```.*?```", r"`[^`]*`", r"!?\[[^\]]*\]\([^)]*\)", r"\d{4}-\d\d-\d\d")
_REPORTS = {"gradient_study": "## Results", "hard_maze": "## Results"}


def numbers_of(text: str) -> set[str]:
    """Return the numbers of a text without code, links, dates and thousands separators.

    Integers below 10 are words of prose.
    """
    for pattern in _NOT_PROSE:
        text = re.sub(pattern, " ", text, flags=re.DOTALL)
    found = {number.rstrip(",") for number in _NUMBER.findall(text)}
    plain = {number.replace(",", "") for number in found}
    return {number for number in plain if not (number.isdigit() and int(number) < 10)}


def numbers_in_results(experiment: str) -> set[str]:
    """Return the numbers of an experiment's tables and of its values per seed."""
    results = EXPERIMENTS / experiment / "results"
    tables = [path.read_text(encoding="utf-8").replace("`", "") for path in results.glob("*.md")]
    rows = [row for path in results.glob("*_values.csv") for row in read_rows(path)]
    return {number for table in tables for number in numbers_of(table)} | {
        cell for row in rows for cell in row.values()
    }


@pytest.mark.parametrize("experiment", _REPORTS)
def test_every_number_of_the_results_is_in_a_table(experiment: str) -> None:
    text = (EXPERIMENTS / experiment / "README.md").read_text(encoding="utf-8")
    results = text.partition(f"{_REPORTS[experiment]}\n")[2].partition("\n## ")[0]
    assert results
    assert sorted(numbers_of(results) - numbers_in_results(experiment)) == []


def test_a_number_that_is_in_no_table_is_found() -> None:
    text = "DCRL 95,220 and 0.05 m (p 3e-05), 10 seeds, 2026-11-29, [table](x_12.md), `seed 44`, 9 of 10."
    assert numbers_of(text) == {"95220", "0.05", "3e-05", "10"}


def rows_of_overview() -> list[list[str]]:
    """Return the rows of the overview's table of claims, as cells."""
    lines = (
        (EXPERIMENTS / "README.md")
        .read_text(encoding="utf-8")
        .partition("\n## Claims")[2]
        .partition("\n## ")[0]
        .splitlines()
    )
    table = [line for line in lines if line.startswith("|")]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in table[2:]]


def test_the_overview_has_a_verdict_for_every_claim() -> None:
    rows = rows_of_overview()
    assert len(rows) > 5
    for row in rows:
        assert len(row) == 9, row
        assert re.split("[:;]", row[-1])[0].strip("*") in ("confirmed", "contradicted", "not yet", "in part"), row


def test_the_overview_states_what_the_tables_of_its_experiments_have() -> None:
    for row in rows_of_overview():
        folder = re.findall(r"\]\((\w+)/README\.md\)", row[0])[0]
        assert sorted(numbers_of(row[4]) - numbers_in_results(folder)) == [], row[4]


def test_the_overview_names_every_experiment() -> None:
    text = (EXPERIMENTS / "README.md").read_text(encoding="utf-8")
    folders = [path.parent.name for path in EXPERIMENTS.glob("*/README.md")]
    assert [name for name in folders if f"]({name}/README.md)" not in text] == []
