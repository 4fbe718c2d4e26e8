"""Tests of the report on evolution strategies: what it reads from a run, and the table of the committed CSV files."""

from math import inf

import numpy as np
import pytest

from experiments.locomotion_es.figures import RESULTS, table
from experiments.locomotion_es.measure import curve, facts, held_out_test, updates
from experiments.reports import read_rows
from qdrl.archives.hdf5 import open_archive
from qdrl.archives.stored import StoredArchive
from qdrl.config import parse_experiment
from qdrl.parallel.ranks import OneProcess
from qdrl.run.start import start


@pytest.fixture(scope="module")
def archive(tmp_path_factory: pytest.TempPathFactory) -> StoredArchive:
    experiment = {
        "name": "small",
        "task": {"name": "walker2d_uni", "episode_length": 12, "healthy_reward": 0.0},
        "policy": {
            "hidden_sizes": [],
            "output": "clip",
            "normalize_observations": True,
            "observation_clip": inf,
        },
        "archive": {"cells": 8, "samples": 100},
        "algorithm": {"name": "evotorch", "batch_size": 6, "steps_per_update": 100, "max_rows": 12, "initial": "zeros"},
        "run": {"env_steps": 500},
        "compute": {"worlds": 4},
    }
    folder = tmp_path_factory.mktemp("pgpe") / "run"
    return open_archive(start(parse_experiment(experiment), OneProcess(), folder=folder, progress=False).archive)


def test_the_curve_has_one_row_for_each_mean(archive: StoredArchive) -> None:
    rows, history = curve(archive), archive.history
    assert (
        [row["generation"] for row in rows]
        == updates(archive).tolist()
        == list(range(0, len(history["generation"]), 2))
    )
    assert [row["update"] for row in rows] == list(range(len(rows)))
    for row in rows:
        generation = int(str(row["generation"]))
        assert row["env_steps"] == history["env_steps"][generation]
        assert float(str(row["champion_fitness"])) == pytest.approx(history["champion_fitness"][generation], rel=1e-5)
        assert float(str(row["best"])) == pytest.approx(history["best_evaluated"][: generation + 1].max(), rel=1e-5)
    assert facts(archive)["updates"] == len(rows) - 1
    assert facts(archive)["env_steps"] >= facts(archive)["budget"] == 500  # pyright: ignore[reportOperatorIssue]


def test_returns_with_the_bonus_have_one_more_for_each_healthy_step(archive: StoredArchive) -> None:
    rows = held_out_test(archive, episodes=3, worlds=2)
    assert len({row["seed"] for row in rows}) == 3
    for row in rows:
        assert row["steps"] == 12  # no walker falls so soon
        assert float(str(row["with_bonus"])) == pytest.approx(float(str(row["without_bonus"])) + 12, abs=1e-4)
    assert np.std([float(str(row["without_bonus"])) for row in rows]) > 0


def test_the_committed_table_is_that_of_the_committed_values() -> None:
    assert table(read_rows(RESULTS / "runs.csv")) == (RESULTS / "locomotion_es.md").read_text(encoding="utf-8")
