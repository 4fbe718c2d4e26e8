"""Compare experiment files with the published values in `experiments/*/published.csv`, key by key."""

import csv
from pathlib import Path
from typing import Any

import pytest

from qdrl.config import load_experiment

EXPERIMENTS = Path(__file__).parents[2] / "experiments"
TABLES = sorted(EXPERIMENTS.glob("*/published.csv"))
HEADER = ["experiment", "key", "published", "here", "reason", "source"]
COMPLETE = ("task", "policy", "algorithm")  # tables of which every setting needs a row


def rows_of(table: Path) -> list[dict[str, str]]:
    with table.open(encoding="utf-8", newline="") as file:
        reader = csv.DictReader(file)
        rows = list(reader)
        assert reader.fieldnames == HEADER
    return rows


def settings_of(experiment: Path) -> dict[str, str]:
    """Return all settings of an experiment file, defaults included, as text by dotted key."""
    return flat(load_experiment(experiment).resolved())


def flat(value: Any, prefix: str = "") -> dict[str, str]:
    if not isinstance(value, dict):
        return {prefix: text_of(value)}
    joined = {}
    for name, part in value.items():
        joined |= flat(part, f"{prefix}.{name}" if prefix else str(name))
    return joined


def text_of(value: Any) -> str:
    """Write a value as in the tables: numbers as `repr`, lists with spaces, None as `none`."""
    if isinstance(value, list | tuple):
        return " ".join(text_of(part) for part in value) or "none"
    if value is None or isinstance(value, bool):
        return str(value).lower()
    return str(value)


@pytest.mark.parametrize("table", TABLES, ids=lambda path: path.parent.name)
def test_files_have_the_published_values_or_say_why_not(table: Path) -> None:
    for row in rows_of(table):
        for name in row["experiment"].split():
            place = f"{table.parent.name}/{name}: {row['key']}"
            here = settings_of(table.parent / f"{name}.toml")
            assert row["key"] in here, f"{place} is not a setting"
            assert here[row["key"]] == (row["here"] or row["published"]), place
            assert bool(row["reason"]) == bool(row["here"]), f"{place}: a difference, and only that, needs a reason"
            assert row["source"], f"{place} has no source"


@pytest.mark.parametrize("table", TABLES, ids=lambda path: path.parent.name)
def test_every_setting_has_a_row(table: Path) -> None:
    rows = rows_of(table)
    for name in sorted({name for row in rows for name in row["experiment"].split()}):
        listed = [row["key"] for row in rows if name in row["experiment"].split()]
        assert len(listed) == len(set(listed)), f"{name}: a key is listed twice"
        wanted = {key for key in settings_of(table.parent / f"{name}.toml") if key.split(".")[0] in COMPLETE}
        assert wanted <= set(listed), f"{table.parent.name}/{name}: {sorted(wanted - set(listed))} have no row"


def test_a_wrong_value_is_found() -> None:
    assert flat({"a": {"b": [128, 128], "c": None, "d": True, "e": 0.02}}) == {
        "a.b": "128 128",
        "a.c": "none",
        "a.d": "true",
        "a.e": "0.02",
    }
