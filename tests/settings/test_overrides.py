"""Overrides of nested settings, as `--set` and `--unset` give them."""

from typing import Any

import pytest

from qdrl.errors import UserError
from qdrl.settings.overrides import changed


@pytest.mark.parametrize(
    ("override", "expected"),
    [
        ("run.generations=7", {"run": {"generations": 7}}),
        ("seed = 3", {"run": {"generations": 5}, "seed": 3}),
        ("archive.shape=[3, 4]", {"run": {"generations": 5}, "archive": {"shape": [3, 4]}}),
        ("run.folder = elsewhere", {"run": {"generations": 5, "folder": "elsewhere"}}),
        ("algorithm.noise.size=1e3", {"run": {"generations": 5}, "algorithm": {"noise": {"size": 1000.0}}}),
    ],
)
def test_set_writes_a_toml_value_into_any_table(override: str, expected: dict[str, Any]) -> None:
    before = {"run": {"generations": 5}}
    assert changed(before, [override]) == expected
    assert before == {"run": {"generations": 5}}


def test_unset_removes_a_setting_before_others_are_set() -> None:
    before = {"run": {"generations": 5, "minutes": 1}, "seed": 2}
    assert changed(before, ["run.minutes=9"], ["run.minutes", "seed"]) == {"run": {"generations": 5, "minutes": 9}}
    assert before == {"run": {"generations": 5, "minutes": 1}, "seed": 2}


@pytest.mark.parametrize(
    ("overrides", "unset", "message"),
    [
        (["batch_size"], [], "--set 'batch_size': expected table.key=value"),
        (["=3"], [], "--set '=3': expected table.key=value"),
        (["seed=1\nrun.minutes=2"], [], r"--set 'seed=1\\nrun.minutes=2': expected table.key=value"),
        (["run.generations.deeper=1"], [], "--set run.generations.deeper=1: 'generations' is not a table"),
        (["run.minutes=none"], [], "--set run.minutes=none: has no value; to remove the setting: --unset run.minutes"),
        ([], ["run.minutes"], "--unset run.minutes: the experiment does not set it"),
        ([], ["run.generations.deeper"], "--unset run.generations.deeper: 'generations' is not a table"),
    ],
)
def test_an_override_that_cannot_be_applied_is_an_error(overrides: list[str], unset: list[str], message: str) -> None:
    with pytest.raises(UserError, match=message):
        changed({"run": {"generations": 5}}, overrides, unset)
