"""Tests of the exact statistics, the CSV files and the tables that experiments share."""

import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy.stats import PermutationMethod, mannwhitneyu

from experiments.reports import empty_archive, filled, floats, holm, is_finished, mann_whitney_p, read_rows, write_rows
from qdrl.config import parse_experiment

ROOT = Path(__file__).parents[2]
EXPERIMENTS = ROOT / "experiments"


# Statistics


@pytest.mark.parametrize(("ours", "theirs"), [(10, 10), (4, 7), (19, 19)])
def test_p_values_without_ties_are_those_of_the_exact_test(ours: int, theirs: int) -> None:
    random = np.random.default_rng(ours)
    values, others = random.normal(size=ours), random.normal(size=theirs) + 1
    assert mann_whitney_p(values, others) == pytest.approx(mannwhitneyu(values, others, method="exact").pvalue)


@pytest.mark.parametrize("seed", range(5))
def test_p_values_with_ties_are_those_of_all_splits_of_the_ranks(seed: int) -> None:
    random = np.random.default_rng(seed)
    values, others = random.integers(0, 4, 6), random.integers(1, 5, 7)
    every_split: Any = PermutationMethod(n_resamples=10_000)  # of 1,716 splits
    assert mann_whitney_p(values, others) == pytest.approx(mannwhitneyu(values, others, method=every_split).pvalue)


def test_p_values_of_separate_and_of_equal_groups() -> None:
    assert mann_whitney_p([1, 2, 3], [4, 5, 6]) == pytest.approx(2 / 20)  # one of 20 splits, on each side
    assert mann_whitney_p([1, 1, 1], [1, 1, 1]) == 1
    assert mann_whitney_p(np.arange(20), np.arange(20) + 0.5) == pytest.approx(
        mannwhitneyu(np.arange(20), np.arange(20) + 0.5, method="asymptotic").pvalue
    )


def test_holms_correction_by_hand() -> None:
    assert holm({"a": 0.01, "b": 0.04, "c": 0.03, "d": 0.5}) == pytest.approx(
        {"a": 0.04, "c": 0.09, "b": 0.09, "d": 0.5}
    )


# CSV


def test_rows_with_missing_values_come_back(tmp_path: Path) -> None:
    write_rows(tmp_path / "new" / "x.csv", [{"a": 1, "b": 0.1 + 0.2}, {"a": 2, "c": "text"}])
    rows = read_rows(tmp_path / "new" / "x.csv")
    assert rows == [{"a": "1", "b": "0.30000000000000004", "c": ""}, {"a": "2", "b": "", "c": "text"}]
    assert floats(rows, "b").tolist() == [0.1 + 0.2]


def test_only_runs_whose_log_ends_so_are_finished(tmp_path: Path) -> None:
    assert not is_finished(tmp_path)
    for text, finished in (("a\n12:00 INFO finished: run.evaluations = 5\n", True), ("finished: x\nresumed\n", False)):
        (tmp_path / "log.txt").write_text(text)
        assert is_finished(tmp_path) == finished


def test_a_table_of_elites_becomes_an_archive() -> None:
    point = {"name": "x", "task": {"name": "point_omni"}, "archive": {"kind": "grid", "shape": [4, 4]}}
    experiment = parse_experiment(point | {"algorithm": {"name": "map_elites"}, "run": {"generations": 1}})
    archive = filled(empty_archive(experiment), [{"cell": "3", "fitness": "1.5"}, {"cell": "7", "fitness": "-2"}])
    assert archive.elites["cell"].tolist() == [3, 7]
    assert archive.elites["fitness"].tolist() == [1.5, -2.0]
    assert archive.cells == 16


# Results


def test_the_page_on_reliability_has_the_table_of_kills(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "experiments.reliability.figures", "--output", str(tmp_path)]
    subprocess.run(command, cwd=ROOT, check=True)
    table = (tmp_path / "kills.md").read_text()
    assert table == (EXPERIMENTS / "reliability" / "results" / "kills.md").read_text()
    page = [cells(line) for line in (ROOT / "docs" / "concepts" / "reliability.md").read_text().splitlines()]
    for line in table.splitlines():
        if line.startswith("| ") and "---" not in line:
            assert cells(line) in page, line


def cells(line: str) -> list[str]:
    return [cell.strip() for cell in line.split("|")]


def test_decisions_state_the_figures_of_their_benchmark() -> None:
    pages = {path.name[:4]: path.read_text() for path in (ROOT / "docs" / "decisions").glob("0*.md")}
    for row in read_rows(EXPERIMENTS / "benchmarks" / "results" / "decisions.csv"):
        number, value = row["name"][:4], re.escape(row["value"])
        assert re.search(rf"(?<![\d.]){value}(?![\d.]\d|\d)", pages[number]), row
