"""`qdrl tasks`, `algorithms` and `settings`."""

import json
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from qdrl.algorithms.registry import algorithm_names
from qdrl.cli import qdrl
from qdrl.cli.catalogue import make_algorithms, make_tasks, read_algorithms, read_tasks
from qdrl.config import TABLES
from qdrl.errors import UserError
from qdrl.tasks.registry import task_names


def _output(*arguments: str) -> str:
    return CliRunner().invoke(qdrl, arguments, catch_exceptions=False).output


def test_the_catalogues_describe_tasks_and_algorithms_as_they_are() -> None:
    assert read_tasks() == make_tasks(), "run `python -m qdrl.cli.catalogue`"
    assert read_algorithms() == make_algorithms(), "run `python -m qdrl.cli.catalogue`"


def test_the_list_of_tasks_names_all_of_them() -> None:
    assert [task["name"] for task in json.loads(_output("tasks", "--json"))] == list(task_names())
    shown = _output("tasks")
    assert all(name in shown for name in (*task_names(), "gym:<id>", "atari:<game>"))


def test_a_task_is_described_with_its_settings() -> None:
    shown = _output("tasks", "sphere")
    assert "Settings of [task]:" in shown
    assert "  parameters: integer, at least 2, at most 100,000; default none\n      " in shown
    assert json.loads(_output("tasks", "sphere", "--json"))["name"] == "sphere"
    assert "  descriptor: string; required" in _output("tasks", "gym:Hopper-v5")


def last_angle(trajectory: Any) -> list[float]:
    return [float(trajectory.observations[-1, 1])]


PENDULUM = """
[task]
name = "gym:Pendulum-v1"
descriptor = "tests.cli.test_lists:last_angle"
episode_length = 5
axes = [{ name = "sine", lower = -1.0, upper = 1.0 }]
[run]
generations = 1
"""


def test_a_task_is_checked_by_name_or_as_an_experiment_sets_it(tmp_path: Path) -> None:
    assert _output("tasks", "arm", "--check").startswith("ok: arm: 64 random genomes gave the same bits")
    (tmp_path / "pendulum.toml").write_text(PENDULUM)
    assert _output("tasks", str(tmp_path / "pendulum.toml"), "--check").startswith("ok: gym:Pendulum-v1: 6 random")


def test_a_task_that_fails_its_check_is_an_error_like_others(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(f"{__name__}.last_angle", lambda _: [float("nan")])
    (tmp_path / "pendulum.toml").write_text(PENDULUM)
    with pytest.raises(
        UserError, match=r"task 'gym:Pendulum-v1': all 6 evaluations failed; the first one: .* returned"
    ):
        _output("tasks", str(tmp_path / "pendulum.toml"), "--check")
    with pytest.raises(UserError, match="--check needs the name of a task"):
        _output("tasks", "--check")


def test_an_algorithm_is_described_with_its_settings() -> None:
    listed = _output("algorithms")
    assert [line.split()[0] for line in listed.splitlines()[:-1]] == list(algorithm_names())
    shown = _output("algorithms", "dcrl_map_elites")
    assert "Faldor et al. 2024" in shown
    assert "  critic.discount: number, at least 0, below 1; default 0.99\n      " in shown
    assert '  with variation.name = "gaussian":\n    variation.sigma: number, above 0; default 0.01\n' in shown


def test_settings_lists_tables_and_describes_each_or_one_key() -> None:
    assert json.loads(_output("settings", "--json")) == TABLES
    assert [line.split()[0] for line in _output("settings").splitlines()[:-1]] == list(TABLES)
    for table in TABLES:
        assert json.loads(_output("settings", table, "--json"))
    assert _output("settings", "archive.cells").startswith("[archive] cvt:\n  cells: integer, at least 1")
    shown = _output("settings", "algorithm.critic.steps")
    assert shown.count("critic.steps: integer, at least 1; default 3000") == 3
    assert "[algorithm] map_elites" not in shown


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["settings", "algoritm"], "no table 'algoritm'; did you mean 'algorithm'?"),
        (["settings", "run.generation"], "no setting 'run.generation'; did you mean 'generations'?"),
        (["algorithms", "map_elite"], "no algorithm 'map_elite'; did you mean 'map_elites'?"),
        (["tasks", "walker_uni"], "no task 'walker_uni'; did you mean 'walker2d_uni'?"),
        (["setings"], "no verb 'setings'; did you mean 'settings'?"),
    ],
)
def test_a_misspelt_name_is_one_line_with_the_nearest_one(arguments: list[str], words: str) -> None:
    with pytest.raises(UserError) as caught:
        CliRunner().invoke(qdrl, arguments, catch_exceptions=False)
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)
