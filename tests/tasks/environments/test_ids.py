"""Ids of Gymnasium environments and their errors."""

import pytest

from qdrl.errors import UserError
from qdrl.tasks.environments.ids import describe_environment, require_environment


@pytest.mark.parametrize(
    ("written", "words"),
    [
        ("Pendulum-v9", "Gymnasium has no 'Pendulum-v9'; known versions: Pendulum-v1"),
        ("Ant-v9", "known versions: Ant-v2, Ant-v3, Ant-v4, Ant-v5"),
        ("pendulum-v1", "did you mean 'Pendulum-v1'"),
        ("Pendulun-v1", "did you mean 'Pendulum-v1'"),
        ("", "needs an id after it"),
        ("Nowhere/Thing-v0", "gym:<module>:<id>"),
    ],
)
def test_the_error_for_an_unknown_id_names_its_versions_or_the_nearest_one(written: str, words: str) -> None:
    with pytest.raises(UserError) as caught:
        require_environment(written)
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("known", ["Pendulum-v1", "Pendulum", "module_of_mine:Thing-v0"])
def test_ids_that_gymnasium_may_resolve_are_not_rejected(known: str) -> None:
    require_environment(known)


def test_atari_without_its_package_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("qdrl.tasks.environments.ids.find_spec", lambda name: None)
    with pytest.raises(UserError, match=r"needs ale_py: pip install 'qdrl\[atari\]'"):
        require_environment("ALE/Pong-v5")


@pytest.mark.atari
def test_atari_environments_are_registered() -> None:
    pytest.importorskip("ale_py")
    assert describe_environment("ALE/Pong-v5")["action"] == "Discrete(6)"


def test_an_environment_is_described_with_what_an_experiment_must_add() -> None:
    described = describe_environment("Pendulum")
    assert described["task"] == "gym:Pendulum-v1"
    assert described["episode"] == "at most 200 steps"
    assert described["policies"] == "can serve it"
    assert "task.descriptor" in described["needs"]
    assert describe_environment("FrozenLake-v1")["policies"].startswith("cannot serve it")
    with pytest.raises(UserError, match="gymnasium cannot make 'nowhere_to_be_found:X-v0': ModuleNotFoundError"):
        describe_environment("nowhere_to_be_found:X-v0")
