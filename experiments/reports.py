"""Shared parts of the studies: runs in processes of their own, results as CSV, exact tests, Markdown tables."""

import csv
import os
import subprocess
import sys
from collections.abc import Hashable, Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TypeVar

import numpy as np
from scipy.stats import mannwhitneyu, rankdata

from qdrl.archives.snapshot import snapshot
from qdrl.archives.stored import StoredArchive
from qdrl.config import Experiment
from qdrl.run.build import build

FEW = 5  # with fewer seeds, quartiles and tests are not meaningful
EXACT_BELOW = 20  # seeds a side; from here on the normal approximation of the rank sum is used
Key = TypeVar("Key", bound=Hashable)


# Runs


def run_to_end(config: Path, seed: int, folder: Path) -> None:
    """Start or resume a run in a process with one thread; do nothing if it has finished."""
    if is_finished(folder):
        return
    command = ["evolve", str(config), "--seed", str(seed), "--output", str(folder)]
    if folder.exists():
        command = ["resume", str(folder)]
    folder.parent.mkdir(parents=True, exist_ok=True)
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    subprocess.run([sys.executable, "-m", "qdrl", *command], check=True, stdout=subprocess.DEVNULL, env=environment)


def is_finished(folder: Path) -> bool:
    """Return whether a run has spent its budget, from the last line of its log."""
    log = folder / "log.txt"
    if not log.is_file():
        return False
    last = log.read_text(encoding="utf-8").rstrip().rpartition("\n")[2]
    return "finished" in last


# Results as CSV


def write_rows(path: Path, rows: Sequence[Mapping[str, object]]) -> None:
    """Write rows as CSV; columns are the keys of all rows in order of appearance, and missing values are empty."""
    path.parent.mkdir(parents=True, exist_ok=True)
    columns = list(dict.fromkeys(name for row in rows for name in row))
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, columns, restval="", lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)


def read_rows(path: Path) -> list[dict[str, str]]:
    """Return the rows of a CSV file, as text."""
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def floats(rows: Iterable[Mapping[str, str]], column: str) -> np.ndarray:
    """Return the numbers of a column, without its empty places, `(n,)` float64."""
    return np.array([float(row[column]) for row in rows if row.get(column)])


def elite_rows(archive: StoredArchive) -> list[dict[str, object]]:
    """Return the columns of an archive's elites that its heatmap needs, one row per elite."""
    cells, fitness = archive.elites["cell"].tolist(), archive.elites["fitness"].tolist()
    rows: list[dict[str, object]] = [
        {"cell": cell, "fitness": f"{value:.7g}"} for cell, value in zip(cells, fitness, strict=True)
    ]
    if "steps" in archive.elites and np.isfinite(archive.elites["steps"]).all():
        for row, steps in zip(rows, archive.elites["steps"].tolist(), strict=True):
            row["steps"] = f"{steps:.0f}"
    return rows


def empty_archive(experiment: Experiment) -> StoredArchive:
    """Return the archive of an experiment before its first generation."""
    parts = build(experiment, on_host=True)
    return snapshot(parts.archive, parts.task)


def filled(empty: StoredArchive, rows: Sequence[Mapping[str, str]]) -> StoredArchive:
    """Return an archive with the columns that `elite_rows` wrote."""
    columns = {"cell": floats(rows, "cell").astype(int), "fitness": floats(rows, "fitness")}
    if len(steps := floats(rows, "steps")):
        columns["steps"] = steps
    return replace(empty, elites=empty.elites | columns)


# Statistics


def mann_whitney_p(ours: Sequence[float] | np.ndarray, theirs: Sequence[float] | np.ndarray) -> float:
    """Return the two-sided p-value of the Mann-Whitney test.

    Below `EXACT_BELOW` values a side it is exact: the share of all splits of the ranks into two groups of these sizes
    that are as extreme, twice the smaller tail. Tied values have their mean rank. Without ties this is SciPy's
    `method="exact"`, which does not accept ties; with ties it is the full permutation test of the rank sum.
    """
    if max(len(ours), len(theirs)) >= EXACT_BELOW:
        return float(mannwhitneyu(ours, theirs, method="asymptotic").pvalue)
    doubled = np.rint(2 * rankdata(np.concatenate([ours, theirs]))).astype(int)  # mean ranks are multiples of a half
    splits = np.zeros((len(ours) + 1, doubled.sum() + 1))  # [values chosen, sum of their doubled ranks]
    splits[0, 0] = 1
    for rank in doubled:
        splits[1:, rank:] += splits[:-1, :-rank].copy()
    counts, observed = splits[-1], doubled[: len(ours)].sum()
    tail = min(counts[: observed + 1].sum(), counts[observed:].sum())
    return float(min(1.0, 2 * tail / counts.sum()))


def holm(p_values: Mapping[Key, float]) -> dict[Key, float]:
    """Apply Holm's step-down correction (Holm 1979)."""
    corrected, largest = {}, 0.0
    for rank, (key, p) in enumerate(sorted(p_values.items(), key=lambda item: item[1])):
        largest = max(largest, min(1.0, p * (len(p_values) - rank)))
        corrected[key] = largest
    return corrected


# Markdown


def number(value: float) -> str:
    """Format with four significant digits, or as an integer if large."""
    return f"{value:,.0f}" if abs(value) >= 10_000 else f"{value:,.4g}"


def spread(values: np.ndarray) -> str:
    """Format as median [lower quartile, upper quartile], or each value if there are few."""
    if len(values) < FEW:
        return "; ".join(map(number, values))
    low, middle, high = map(number, np.percentile(values, [25, 50, 75]))
    return f"{middle} [{low}, {high}]"


def markdown_table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> list[str]:
    """Return the lines of a table."""
    return ["| " + " | ".join(row) + " |" for row in (header, ["---"] * len(header), *rows)]
