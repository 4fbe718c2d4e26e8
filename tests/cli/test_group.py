"""Groups of verbs with invalid entries."""

import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from click.testing import CliRunner

from qdrl.cli import LazyGroup
from qdrl.errors import UserError


def call(module: str) -> None:
    """Call the verb `top` of a group that registers it as the command of a module."""
    group = LazyGroup(name="tool", verbs={"top": (module, "List the fittest elites.")})
    CliRunner().invoke(group, ["top"], catch_exceptions=False)


@pytest.mark.parametrize(
    "entry", [("qdrl.cli.top",), ("qdrl.cli.top", None), ["qdrl.cli.top", "List."], "qdrl.cli.top"]
)
def test_an_entry_that_is_no_pair_is_refused_when_the_group_is_made(entry: Any) -> None:
    with pytest.raises(TypeError, match=r"verb 'top': expected a pair \(module, one-line help\), got ") as caught:
        LazyGroup(name="tool", verbs={"top": entry})
    assert repr(entry) in str(caught.value)


@pytest.mark.parametrize("module", ["qdrl.cli.nowhere", "nowhere.cli.top"])
def test_a_module_that_does_not_exist_is_named(module: str) -> None:
    with pytest.raises(UserError, match=f"verb 'top': there is no module {module}; correct its entry in `verbs`"):
        call(module)


@pytest.mark.parametrize(("found", "words"), [(None, "no `command`"), (print, "a `command` of type builtin_function")])
def test_a_module_without_a_click_command_is_refused(monkeypatch: pytest.MonkeyPatch, found: Any, words: str) -> None:
    module = ModuleType("mine")
    if found is not None:
        monkeypatch.setattr(module, "command", found, raising=False)
    monkeypatch.setitem(sys.modules, "mine", module)
    with pytest.raises(UserError, match=f"verb 'top': mine has {words}.*; expected a function with @click.command"):
        call("mine")


def test_a_missing_import_of_a_verb_is_not_taken_for_a_missing_verb(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "verb_of_mine.py").write_text("import nowhere_to_be_found\n")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(ModuleNotFoundError, match="nowhere_to_be_found"):
        call("verb_of_mine")
