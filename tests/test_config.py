"""Experiment files: defaults, overrides, and errors of one line."""

import sys
import tomllib
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from qdrl.config import load_experiment, parse_experiment
from qdrl.errors import UserError

MINIMAL = {"name": "test", "task": {"name": "arm"}, "run": {"generations": 1}}


def _with(**tables: object) -> dict:
    return MINIMAL | tables


def test_a_minimal_experiment_gets_the_documented_defaults() -> None:
    experiment = parse_experiment(MINIMAL)
    assert experiment.algorithm.model_dump() == {
        "name": "map_elites",
        "batch_size": 256,
        "initial_generations": 1,
        "variation": {"name": "iso_line", "iso_sigma": 0.005, "line_sigma": 0.05},
    }
    assert experiment.archive.kind == "cvt"
    assert experiment.policy.hidden_sizes == (128, 128)


@pytest.mark.parametrize("archive", [{}, {"kind": "grid", "shape": [3]}, {"kind": "novelty", "rule": "threshold"}])
def test_resolved_settings_parse_to_the_same_experiment(archive: dict) -> None:
    experiment = parse_experiment(_with(task={"name": "hopper_uni", "episode_length": 50}, archive=archive, seed=3))
    assert parse_experiment(experiment.resolved()) == experiment


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (_with(polcy={}), ["'polcy'", "did you mean 'policy'"]),
        (_with(run={"generatons": 3}), ["'run.generatons'", "did you mean 'generations'"]),
        (_with(algorithm={"batch_sise": 3}), ["'algorithm.batch_sise'", "did you mean 'batch_size'"]),
        (
            _with(algorithm={"variation": {"name": "iso_line", "iso_sgima": 1.0}}),
            ["iso_sgima", "did you mean 'iso_sigma'"],
        ),
        (_with(algorithm={"name": "map_elite"}), ["algorithm.name", "did you mean 'map_elites'"]),
        (_with(task={"name": "walker2d_unii"}), ["task.name", "did you mean 'walker2d_uni'"]),
        (_with(task={"name": "arm", "episode_length": 3}), ["'task.episode_length'", "parameters"]),
        (_with(task={}), ["task.name must be a string"]),
        ({"name": "x", "run": {"generations": 1}}, ["[task] is missing"]),
        (_with(run={}), ["no budget", "run.generations"]),
        (_with(run={"generations": 0}), ["run.generations", "greater than or equal to 1", "got 0"]),
        (_with(algorithm={"batch_size": "many"}), ["algorithm.batch_size", "integer", "got 'many'"]),
        (_with(archive={"kind": "gird"}), ["archive.kind", "did you mean 'grid'"]),
        (_with(archive={"kind": "grid", "shape": [0, 3]}), ["archive.shape.0", "got 0"]),
        (_with(archive={"kind": "cvt", "cells": -1}), ["archive.cells", "got -1"]),
        (_with(archive={"kind": "novelti"}), ["archive.kind", "did you mean 'novelty'"]),
        (_with(archive={"kind": "novelty", "cells": 9}), ["unknown key 'archive.cells'"]),
        (_with(archive={"kind": "novelty", "treshold": 9}), ["'archive.treshold'", "did you mean 'threshold'"]),
        (_with(archive={"kind": "novelty", "rule": "chance"}), ["archive.rule", "'all', 'probability' or 'threshold'"]),
        (_with(archive={"kind": "novelty", "probability": 0}), ["archive.probability", "greater than 0", "got 0"]),
        (_with(archive={"kind": "novelty", "threshold": -1.0}), ["archive.threshold", "got -1.0"]),
        (_with(archive={"kind": "novelty", "k": 0}), ["archive.k", "got 0"]),
        (_with(archive={"kind": "novelty", "capacity": 0}), ["archive.capacity", "got 0"]),
        (_with(policy={"activation": "selu"}), ["policy.activation", "'relu' or 'tanh'"]),
        (_with(name="a/b"), ["name", "a/b"]),
        (_with(seed=-1), ["seed", "got -1"]),
        (_with(run=3), ["'run' must be a table"]),
        (_with(algorithm={"name": "no.such.module:Thing"}), ["cannot import module 'no.such.module'"]),
        (_with(batch_size=64), ["unknown key 'batch_size'", "did you mean 'algorithm.batch_size'"]),
        (_with(algorithm={"generations": 5}), ["did you mean 'run.generations'"]),
        (_with(hidden_size=[8]), ["did you mean 'policy.hidden_sizes'"]),
        (_with(algorithm={"name": "MAP-Elites"}), ["did you mean 'map_elites'"]),
        (_with(algorithm={"name": "pga"}), ["did you mean 'pga_map_elites'"]),
        (_with(algorithm={"variation": {"iso_sgma": 1.0}}), ["'algorithm.variation.iso_sgma'", "mean 'iso_sigma'"]),
        (_with(algorithm={"variation": {"name": "iso-lin"}}), ["algorithm.variation.name", "did you mean 'iso_line'"]),
        (_with(algorithm={"variation": "iso_line"}), ["algorithm.variation: expected a table, got 'iso_line'"]),
        (_with(algorithm="deep_ga"), ["set algorithm.name=deep_ga"]),
        (_with(archive="grid"), ["set archive.kind=grid"]),
        (_with(archive={"kind": "cvt", "shape": [3]}), ["'archive.shape' in kind 'cvt'", "archive.kind = 'grid'"]),
        (_with(archive={"cells": 9, "shape": [3]}), ["'archive.shape' in kind 'cvt'", "archive.kind = 'grid'"]),
        (_with(archive={"kind": "CVT"}), ["did you mean 'cvt'"]),
        (_with(policy={"hidden_sizes": 64}), ["policy.hidden_sizes: expected a list such as [10, 10], got 64"]),
        (_with(algorithm={"batch_size": 64.5}), ["algorithm.batch_size", "integer", "got 64.5"]),
        (_with(algorithm={"batch_size": True}), ["algorithm.batch_size", "integer", "got True"]),
        (_with(run={"folder": datetime(2026, 1, 1, tzinfo=UTC)}), ["run.folder: dates and times"]),
        (_with(name="my run"), ["only letters, digits", "title"]),
        (_with(license=""), ["license"]),
        (_with(task={"name": "Pendulum-v1"}), ["did you mean 'gym:Pendulum-v1'"]),
        (_with(task={"name": "hopper"}), ["did you mean 'hopper_uni'"]),
        (_with(algorithm={"name": "qdrl.streams:Streams"}), ["must be a subclass of qdrl.Algorithm", "ask, tell"]),
    ],
)
def test_a_mistake_is_one_line_that_names_the_key_and_what_is_right(data: dict, words: list[str]) -> None:
    with pytest.raises(UserError) as caught:
        parse_experiment(data)
    message = str(caught.value)
    assert "\n" not in message
    for word in words:
        assert word in message


def test_overrides_are_written_as_in_toml_and_reach_any_table(tmp_path: Path) -> None:
    file = tmp_path / "study.toml"
    file.write_text('[task]\nname = "arm"\n[run]\ngenerations = 5\n')
    overrides = ["algorithm.batch_size=7", "archive.kind=grid", "archive.shape=[3, 4]", "run.folder = elsewhere"]
    experiment = load_experiment(file, overrides, seed=9)
    assert (experiment.name, experiment.seed) == ("study", 9)
    assert experiment.algorithm.model_dump()["batch_size"] == 7
    assert experiment.archive.model_dump() == {"kind": "grid", "shape": (3, 4)}
    assert experiment.run.folder == "elsewhere"


def test_a_config_file_names_its_experiment_after_its_folder(tmp_path: Path) -> None:
    folder = tmp_path / "gaits"
    folder.mkdir()
    (folder / "config.toml").write_text('[task]\nname = "arm"\n[run]\ngenerations = 5\n')
    assert load_experiment(folder / "config.toml").name == "gaits"


def test_a_file_that_is_missing_or_no_toml_is_refused_in_one_line(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="cannot read experiment file"):
        load_experiment(tmp_path / "none.toml")
    (tmp_path / "bad.toml").write_text("[task\nname=1")
    with pytest.raises(UserError, match="is not TOML"):
        load_experiment(tmp_path / "bad.toml")


@pytest.mark.parametrize(
    ("override", "expected"),
    [
        ("run.env_steps=1e6", {"env_steps": 1_000_000}),
        ("algorithm.batch_size=64.0", {"batch_size": 64}),
        ("seed=1e3", {"seed": 1000}),
        ("archive.shape=[1e1, 4.0]", {"kind": "grid", "shape": (10, 4)}),
        ("algorithm.variation.iso_sigma=0.01", {"name": "iso_line", "iso_sigma": 0.01, "line_sigma": 0.05}),
        ("algorithm.variation.sigma=0.01", {"name": "gaussian", "sigma": 0.01}),
        ("archive.capacity=9", {"kind": "novelty", "capacity": 9}),
    ],
)
def test_numbers_and_tables_in_other_notations_are_read_as_meant(override: str, expected: dict) -> None:
    table = override.partition("=")[0].rpartition(".")[0]
    data = tomllib.loads(f'name = "x"\ntask.name = "arm"\nrun.generations = 1\n{override}')
    place: Any = parse_experiment(data)
    for part in filter(None, table.split(".")):
        place = getattr(place, part)
    found = {name: getattr(place, name) for name in expected}
    assert found == expected
    assert {type(value) for value in found.values()} == {type(value) for value in expected.values()}


@pytest.mark.parametrize(
    ("file", "name", "title"),
    [
        ("my experiments/config.toml", "my_experiments", "my experiments"),
        ("día 1.toml", "dia_1", "día 1"),
        ("Größe.toml", "Groe", "Größe"),
        ("実験.toml", "experiment", "実験"),
        (".hidden.toml", "hidden", ".hidden"),
        ("plain-1.toml", "plain-1", None),
    ],
)
def test_any_file_name_gives_a_run_name_and_stays_as_the_title(
    tmp_path: Path, file: str, name: str, title: str | None
) -> None:
    (tmp_path / file).parent.mkdir(exist_ok=True)
    (tmp_path / file).write_text('[task]\nname = "arm"\n[run]\ngenerations = 5\n')
    experiment = load_experiment(tmp_path / file)
    assert (experiment.name, experiment.title) == (name, title)
    assert parse_experiment(experiment.resolved()) == experiment


def test_the_error_for_another_file_names_the_verb_for_it(tmp_path: Path) -> None:
    (tmp_path / "archive.h5").write_bytes(b"\x89HDF\r\n\x1a\n")
    (tmp_path / "quick.toml").write_text("")
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "log.txt").write_text("")
    (tmp_path / "one").mkdir()
    (tmp_path / "one" / "config.toml").write_text("")
    for path, words in {
        "archive.h5": r"qdrl archive info .*archive\.h5",
        "run": r"is a run folder; to continue it: qdrl resume",
        "one": r"is a folder; give the experiment file, .*one/config\.toml",
        "quik.toml": r"did you mean '.*quick\.toml'",
    }.items():
        with pytest.raises(UserError, match=words):
            load_experiment(tmp_path / path)


def test_modules_in_the_folder_of_the_experiment_file_are_found_after_all_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "path", [*sys.path])
    module = "from qdrl.algorithms.map_elites import MapElites as Mine\n"
    for name in ("beside_the_experiment", "statistics"):
        (tmp_path / f"{name}.py").write_text(module)
    (tmp_path / "a.toml").write_text(
        '[task]\nname = "arm"\n[algorithm]\nname = "beside_the_experiment:Mine"\n[run]\ngenerations = 5\n'
    )
    assert load_experiment(tmp_path / "a.toml").algorithm.model_dump()["name"] == "beside_the_experiment:Mine"
    with pytest.raises(UserError, match=r"'statistics' is Python's own module, which hides .*statistics\.py; rename"):
        load_experiment(tmp_path / "a.toml", ["algorithm.name=statistics:Mine"])
    with pytest.raises(UserError, match=r"cannot import module 'nowhere' .*the folder of an experiment file"):
        load_experiment(tmp_path / "a.toml", ["algorithm.name=nowhere:Mine"])


SHIPPED = sorted(Path(__file__).parents[1].glob("experiments/*/*.toml"))


@pytest.mark.parametrize("file", SHIPPED, ids=lambda path: path.parent.name)
def test_every_shipped_experiment_is_valid(file: Path) -> None:
    assert load_experiment(file).name
