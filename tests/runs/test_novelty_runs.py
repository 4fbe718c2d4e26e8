"""Runs with a novelty archive: the same on any number of ranks, resumable, and readable by every verb."""

import csv
import json
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

from qdrl.analysis.reevaluate import reevaluate_actor
from qdrl.archives.hdf5 import content_digest, open_archive, validate
from qdrl.cli import qdrl
from qdrl.config import load_experiment, parse_experiment
from qdrl.errors import UserError
from qdrl.parallel.ranks import OneProcess
from qdrl.run.resume import resume
from qdrl.run.start import start
from tests.helpers.processes import mpirun

ARM = {
    "name": "arm",
    "seed": 5,
    "task": {"name": "arm"},
    "algorithm": {"batch_size": 30},
    "run": {"generations": 8},
}
RULES = {
    "all": {"rule": "all", "capacity": 70},
    "probability": {"rule": "probability", "probability": 0.2},
    "threshold": {"rule": "threshold", "threshold": 0.3, "k": 5, "lower_after": 1, "capacity": 15},
}
HOPPER = """
seed = 3
[task]
name = "hopper_uni"
episode_length = 30
[policy]
hidden_sizes = [8]
normalize_observations = true
[archive]
kind = "novelty"
rule = "threshold"
threshold = 0.05
threshold_k = 1
capacity = 8
[algorithm]
batch_size = 15
[run]
generations = 5
checkpoint_seconds = 0
"""


def run(folder: Path, rule: str = "threshold", **tables: object) -> Path:
    """Run the task arm with an admission rule and return the archive file."""
    experiment = ARM | {"archive": {"kind": "novelty", **RULES[rule]}} | tables
    return start(parse_experiment(experiment), OneProcess(), folder=folder, progress=False).archive


@pytest.mark.parametrize("rule", RULES)
def test_a_run_writes_a_valid_file_of_the_admitted_rows(tmp_path: Path, rule: str) -> None:
    path = run(tmp_path / "run", rule)
    assert validate(path) == []
    archive = open_archive(path)
    added = archive.history["added_random"].sum() + archive.history["added_variation"].sum()
    assert (archive.kind, archive.cells) == ("novelty", added)
    assert archive.neighbours == RULES[rule].get("k", 15)
    assert len(archive) == archive.history["elites"][-1] == min(added, RULES[rule].get("capacity", 1000)) > 1
    assert archive.history["improved_variation"].sum() == 0
    if rule == "all":
        assert added == 8 * 30
    parents = archive.elites["parent_cell"]
    assert (parents[archive.elites["generation"] > 0] >= 0).any()
    assert (parents < archive.elites["cell"]).all()


def test_metrics_have_the_columns_of_other_runs_and_no_number_for_coverage(tmp_path: Path) -> None:
    novel = run(tmp_path / "novelty")
    cells = run(tmp_path / "grid", archive={"kind": "grid", "shape": [5, 5]})
    tables = [list(csv.DictReader((path.parent / "metrics.csv").read_text().splitlines())) for path in (novel, cells)]
    assert list(tables[0][0]) == list(tables[1][0])
    assert {row["coverage"] for row in tables[0]} == {"nan"}
    assert np.isnan(open_archive(novel).history["coverage"]).all()


@pytest.mark.parametrize("rule", RULES)
def test_a_resumed_run_ends_with_the_archive_of_the_uninterrupted_one(tmp_path: Path, rule: str) -> None:
    run(tmp_path / "short", rule, run={"generations": 3})
    resume(tmp_path / "short", OneProcess(), overrides=["run.generations=8"], progress=False)
    assert content_digest(tmp_path / "short" / "archive.h5") == content_digest(run(tmp_path / "long", rule))


@pytest.mark.slow
@pytest.mark.mpi
def test_two_ranks_give_the_archive_of_one_in_a_new_and_in_a_resumed_run(tmp_path: Path) -> None:
    config = tmp_path / "hopper.toml"
    config.write_text(HOPPER)
    for name, overrides in {"one": [], "resumed": ["run.generations=2"]}.items():
        start(load_experiment(config, overrides), OneProcess(), folder=tmp_path / name, progress=False)
    for arguments in (
        ["evolve", config, "--output", tmp_path / "two"],
        ["resume", tmp_path / "resumed", "--set", "run.generations=5"],
    ):
        job = mpirun(2, ["-m", "qdrl", *arguments], timeout=120)
        assert job.returncode == 0, job.stderr
        assert "entries " in job.stderr  # in the line of progress, in place of coverage
        assert "mean novelty" in job.stdout
    archive = open_archive(tmp_path / "one" / "archive.h5")
    assert archive.cells > len(archive) == 8
    assert len({content_digest(tmp_path / name / "archive.h5") for name in ("one", "two", "resumed")}) == 1


def test_algorithms_with_critics_run_on_a_novelty_archive(tmp_path: Path) -> None:
    experiment = {
        "name": "hopper",
        "task": {"name": "hopper_uni", "episode_length": 20},
        "policy": {"hidden_sizes": [8]},
        "archive": {"kind": "novelty", "rule": "all", "capacity": 15},
        "algorithm": {
            "name": "dcrl_map_elites",
            "batch_size": 12,
            "gradient_rows": 3,
            "actor_rows": 3,
            "critic": {"steps": 5, "batch_size": 16, "hidden_sizes": [16]},
            "gradient": {"steps": 2, "batch_size": 16},
        },
        "run": {"generations": 4},
    }
    path = start(parse_experiment(experiment), OneProcess(), folder=tmp_path / "run", progress=False).archive
    archive = open_archive(path)
    assert archive.cells == 4 * 12
    assert {archive.emitters[index] for index in archive.elites["emitter"]} == {"variation", "gradient", "actor"}
    result = CliRunner().invoke(qdrl, ["archive", "reevaluate", str(path)])
    assert result.exit_code == 0, result.output
    assert "actor, asked for descriptors" in result.output
    assert "centroids" not in result.output
    with pytest.raises(UserError, match="a novelty archive has no centroids; use targets 'descriptors'"):
        reevaluate_actor(archive, targets="centroids")


# Verbs


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return run(tmp_path_factory.mktemp("verbs") / "run")


def call(*arguments: object) -> str:
    result = CliRunner().invoke(qdrl, ["archive", *map(str, arguments)])
    assert result.exit_code == 0, result.output
    return result.output


def test_info_shows_entries_and_their_spread(path: Path) -> None:
    archive = open_archive(path)
    facts = json.loads(call("info", path, "--json"))
    assert facts["novelty"] == {
        "mean_novelty": archive.mean_novelty(),
        "neighbours": 5,
        "entries_dropped": archive.cells - 15,
    }
    assert facts["statistics"]["elites"] == 15
    assert facts["statistics"]["coverage"] is None
    shown = call("info", path)
    assert all(words in shown for words in ("novelty", "mean novelty", "entries dropped", "neighbours"))


def test_show_and_find_use_the_number_of_an_entry(path: Path) -> None:
    archive = open_archive(path)
    cell, place = int(archive.elites["cell"][7]), archive.elites["descriptor"][7]
    facts = json.loads(call("show", path, cell, "--replay", "--json"))
    assert facts["fitness"] == archive.elites["fitness"][7]
    assert facts["centroid"] is None
    assert facts["replay"]["same"] is True
    found = json.loads(call("find", path, "--descriptor", *place, "--count", 1, "--json"))
    assert found["elites"][0]["cell"] == cell
    result = CliRunner().invoke(qdrl, ["archive", "show", str(path), "0"])
    assert str(result.exception) == f"entry 0 was dropped; the oldest stored entry is {archive.elites['cell'][0]}"


def test_plot_and_validate_read_novelty_archives(path: Path) -> None:
    assert call("plot", path).split() == [
        str(path.parent / "figures" / f"{name}.png") for name in ("heatmap", "curves")
    ]
    assert call("validate", path) == f"{path}: valid qdrl-archive 1.2, 15 elites\n"


def test_every_verb_reads_an_empty_novelty_archive(tmp_path: Path) -> None:
    lonely = {"archive": {"kind": "novelty", "probability": 1e-9}, "run": {"generations": 1}}
    path = run(tmp_path / "run", **lonely)
    assert len(open_archive(path)) == 0
    facts = json.loads(call("info", path, "--json"))
    assert facts["novelty"]["mean_novelty"] is None
    assert validate(path) == []
    call("plot", path)
    result = CliRunner().invoke(qdrl, ["archive", "show", str(path), "0"])
    assert str(result.exception) == f"{path}: the archive is empty"
