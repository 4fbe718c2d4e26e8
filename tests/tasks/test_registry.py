"""Tasks by name."""

import numpy as np
import pytest

from qdrl.errors import UserError
from qdrl.tasks.registry import make_task, settings_class, task_names


def test_every_name_makes_a_task_of_that_name() -> None:
    for name in task_names():
        task = make_task(name)
        assert task.spec.name == name
        assert task.parameters == len(task.initial(np.random.default_rng(0)))
        assert all(axis.lower < axis.upper for axis in task.spec.axes)


@pytest.mark.parametrize(
    ("name", "meant"),
    [
        ("walker2d", "walker2d_uni"),
        ("hopper_un", "hopper_uni"),
        ("hardmaze", "hard_maze"),
        ("armm", "arm"),
        ("gim:X", "gym:"),
    ],
)
def test_an_unknown_task_names_the_nearest(name: str, meant: str) -> None:
    with pytest.raises(UserError, match=f"no task '{name}'.*{meant}") as caught:
        make_task(name)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("arm", {"joints": 8}),
        ("arm", {"parameters": 1}),
        ("sphere", {"parameters": "many"}),
        ("hopper_uni", {"episode_length": 0}),
        ("hopper_uni", {"initial_noise": float("nan")}),
        ("ant_omni", {"reach": -1.0}),
        ("point_omni", {"noise": 0.1}),
        ("hard_maze", {"start": (50, 50)}),
        ("hard_maze", {"goal": (50, 50)}),
        ("medium_maze", {"episode_length": 0}),
        ("point_omni", {"policy": {"hidden_sizes": (0,)}}),
        ("gym:CartPole-v1", {}),
    ],
)
def test_options_that_cannot_be_are_refused_in_one_line_that_names_them(name: str, options: dict) -> None:
    with pytest.raises(UserError) as caught:
        make_task(name, **options)
    assert "\n" not in str(caught.value)
    assert name in str(caught.value)
    names = options.get("policy", options)
    assert all(option in str(caught.value) for option in names)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"parameter": 8}, "unknown key 'parameter'; did you mean 'parameters'?"),
        ({"world": 3}, "unknown key 'world'; did you mean 'worlds'?"),
        ({"policy": {"hidden_size": (8,)}}, "unknown key 'policy.hidden_size'; did you mean 'hidden_sizes'?"),
    ],
)
def test_a_misspelt_option_names_the_nearest(options: dict, words: str) -> None:
    with pytest.raises(UserError) as caught:
        make_task("arm", **options)
    assert str(caught.value) == f"task 'arm': {words}"


def test_an_options_model_knows_its_own_keys() -> None:
    assert "episode_length" in settings_class("walker2d_uni").model_fields
    assert "descriptor" in settings_class("gym:Anything-v0").model_fields
