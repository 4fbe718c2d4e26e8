"""References to modules, and suggestions for misspelt names."""

from pathlib import Path

import pytest

from qdrl.errors import UserError
from qdrl.naming import is_reference, load_reference, suggest

ROBOTS = ["walker2d_uni", "ant_uni", "arm"]


@pytest.mark.parametrize(
    ("written", "meant"),
    [
        ("walker_uni", "walker2d_uni"),
        ("ant-uni", "ant_uni"),
        ("arms", "arm"),
        ("Walker2d", "walker2d_uni"),
        ("ANT UNI", "ant_uni"),
    ],
)
def test_the_nearest_known_name_is_suggested(written: str, meant: str):
    assert suggest(written, ROBOTS) == f"; did you mean '{meant}'?"


def test_with_nothing_near_all_known_names_are_listed_in_order():
    assert suggest("zebra", ROBOTS) == "; known: ant_uni, arm, walker2d_uni"
    assert suggest("zebra", iter(ROBOTS)) == "; known: ant_uni, arm, walker2d_uni"


def test_of_many_known_names_only_some_are_listed():
    known = [f"name{number:03}" for number in range(100)]
    assert suggest("zebra", known).endswith("name029 and 70 more")


@pytest.mark.parametrize("name", ["module:attribute", "package.sub.module:Name", "_a:_b"])
def test_a_module_and_an_attribute_make_a_reference(name: str):
    assert is_reference(name)


@pytest.mark.parametrize(
    "name", ["", ":", "module", "module:", ":name", "a..b:c", "a:b.c", "a:b:c", "a b:c", "gym:Ant-v5"]
)
def test_other_names_are_no_reference(name: str):
    assert not is_reference(name)
    with pytest.raises(UserError, match=r"is not of the form package\.module:name"):
        load_reference(name)


def test_a_reference_gives_what_it_names():
    assert load_reference("qdrl.naming:suggest") is suggest


def test_a_module_that_cannot_be_imported_is_the_users_mistake():
    with pytest.raises(
        UserError, match=r"cannot import module 'qdrl_nowhere' of 'qdrl_nowhere:f': ModuleNotFoundError: No module"
    ):
        load_reference("qdrl_nowhere:f")


def test_a_missing_attribute_is_answered_with_the_nearest_public_one():
    with pytest.raises(UserError, match=r"module 'qdrl\.naming' has no 'sugest'; did you mean 'suggest'\?"):
        load_reference("qdrl.naming:sugest")


def test_a_users_mistake_fits_on_one_line():
    with pytest.raises(UserError) as caught:
        load_reference("json:nothing_like_it")
    assert "\n" not in str(caught.value)


def test_a_module_that_exits_while_it_is_imported_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "qdrl_test_exits.py").write_text("import sys\nsys.exit()\n")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(UserError, match=r"cannot import module 'qdrl_test_exits'.*SystemExit"):
        load_reference("qdrl_test_exits:anything")
