"""Code named in a file is neither imported nor run unless the user allows it."""

import json
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from qdrl.analysis.decode import task_of
from qdrl.analysis.permissions import named_code
from qdrl.analysis.reevaluate import reevaluate_elites
from qdrl.analysis.rerun import replay
from qdrl.archives.hdf5 import open_archive, write_archive
from qdrl.archives.stored import StoredArchive
from qdrl.cli import qdrl
from qdrl.errors import UserError
from tests.archives.builders import small_archive

DESCRIPTOR = "hostile_things.deeper:describe"
OPTIONS: dict[str, Any] = {
    "name": "gym:CartPole-v1",
    "descriptor": DESCRIPTOR,
    "axes": [{"name": "x", "lower": -3.0, "upper": 3.0}],
    "episode_length": 5,
}


@pytest.fixture
def archive(tmp_path: Path) -> StoredArchive:
    """Return an archive of CartPole policies; importing its descriptor function leaves a mark in `tmp_path`."""
    package = tmp_path / "hostile_things"
    package.mkdir()
    note = f"open({str(tmp_path / 'ran')!r}, 'w').close()\n"
    (package / "__init__.py").write_text(note)
    (package / "deeper.py").write_text(
        note + "def describe(trajectory):\n    return [trajectory.observations[-1][0]]\n"
    )
    layers = [4, 2]
    stored = small_archive(shape=(5,), elites=3, parameters=10, normalizer=False)
    policy = {"kind": "mlp", "layers": layers, "activation": "relu", "output": "tanh", "normalize_observations": False}
    meta = stored.meta | {"task": {"name": OPTIONS["name"], "options": OPTIONS}, "policy": policy}
    write_archive(tmp_path / "archive.h5", replace(stored, meta=meta))
    return open_archive(tmp_path / "archive.h5")


@pytest.fixture(autouse=True)
def _forget_the_module() -> Any:
    yield
    for name in [name for name in sys.modules if name.partition(".")[0] == "hostile_things"]:
        del sys.modules[name]


def test_no_verb_runs_code_that_a_file_names(
    archive: StoredArchive, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    cell = str(archive.elites["cell"][0])
    for verb in (
        ["archive", "show", "archive.h5", cell, "--replay"],
        ["archive", "reevaluate", "archive.h5"],
        ["render", "archive.h5", "film.gif"],
    ):
        done = CliRunner().invoke(qdrl, verb)
        if verb[0] == "render" and "OpenGL" in str(done.exception):
            continue
        assert isinstance(done.exception, UserError), done.exception
        message = str(done.exception)
        assert "\n" not in message
        assert DESCRIPTOR in message
        assert str(tmp_path / "hostile_things" / "deeper.py") in message
        assert "--allow-code" in message
    for run in (lambda: replay(archive, int(cell)), lambda: task_of(archive), lambda: reevaluate_elites(archive)):
        with pytest.raises(UserError, match="needs code that it names"):
            run()
    for verb in (["archive", "info"], ["archive", "validate"], ["export"]):
        target = ["weights.npz"] if verb == ["export"] else []
        assert CliRunner().invoke(qdrl, [*verb, "archive.h5", *target]).exit_code == 0
    assert not (tmp_path / "ran").exists()
    assert not any(name.startswith("hostile_things") for name in sys.modules)


def test_allowed_code_is_run(archive: StoredArchive, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cell = int(archive.elites["cell"][0])
    with pytest.raises(UserError, match="No module named 'hostile_things'"):
        replay(archive, cell, allow_code=True)
    before = list(sys.path)
    assert replay(archive, cell, code_from=tmp_path).steps == 5
    assert sys.path == before
    with pytest.raises(UserError, match="code_from: no such folder"):
        replay(archive, cell, code_from=tmp_path / "nowhere")
    shown = ["archive", "show", str(archive.path), str(cell), "--replay", "--json", "--code-from", str(tmp_path)]
    done = CliRunner().invoke(qdrl, shown)
    assert json.loads(done.stdout)["replay"]["steps"] == 5, done.exception
    assert sys.path == before
    monkeypatch.syspath_prepend(str(tmp_path))
    done = CliRunner().invoke(qdrl, ["archive", "reevaluate", str(archive.path), "--allow-code", "--json"])
    assert done.exit_code == 0, done.exception
    assert json.loads(done.stdout)["elites, run again"]["env_steps"] == 15
    assert (tmp_path / "ran").exists()


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({"name": "walker2d_uni"}, []),
        ({"name": "gym:CartPole-v1"}, []),
        ({"name": "nowhere.mine:Task"}, ["task 'nowhere.mine:Task' (not found here)"]),
        ({"name": "gym:CartPole-v1", "kwargs": {"sutton_barto_reward": True, "sizes": [1, 2.5]}}, []),
        ({"name": "gym:FrozenLake-v1", "kwargs": {"map_name": "4x4", "render_mode": None}}, []),
        ({"name": "gym:nowhere:Env-v0"}, ["environment 'nowhere:Env-v0' of module 'nowhere' (not found here)"]),
        ({"name": "gym:CartPole-v1", "descriptor": "os:system"}, ["descriptor function 'os:system' ("]),
        ({"name": "gym:Ant-v5", "kwargs": {"xml_file": "/etc/passwd"}}, ["argument xml_file='/etc/passwd'"]),
        ({"name": "gym:Ant-v5", "kwargs": {"xml_file": "ant"}}, ["argument xml_file='ant'"]),
        ({"name": "gym:Ant-v5", "kwargs": {"a": [{"b": "../x"}]}}, ["argument a="]),
        ({"name": "gym:no such id!"}, []),
    ],
)
def test_code_and_files_that_options_name_are_listed(options: dict[str, Any], named: list[str]) -> None:
    found = named_code(options)
    assert len(found) == len(named)
    assert all(part in text for part, text in zip(named, found, strict=True))


def test_an_environment_that_is_not_gymnasiums_own_needs_permission() -> None:
    import gymnasium

    gymnasium.register("Foreign-v0", entry_point="tests.tasks.test_gym:Counting")
    try:
        assert len(named_code({"name": "gym:Foreign"})) == 1
        assert "tests.tasks.test_gym" in named_code({"name": "gym:Foreign-v0"})[0]
    finally:
        del gymnasium.registry["Foreign-v0"]


def test_options_that_are_arguments_of_the_program_are_refused(archive: StoredArchive) -> None:
    meta = archive.meta | {"task": {"options": {"name": "point_omni", "worlds": 10**9}}}
    with pytest.raises(UserError, match="options may not set worlds"):
        task_of(replace(archive, meta=meta))


def test_reading_verbs_import_nothing_from_the_current_folder() -> None:
    from qdrl.__main__ import _may_run_users_code

    assert not _may_run_users_code(["archive", "info", "a.h5"])
    assert not _may_run_users_code(["export", "a.h5", "w.npz"])
    assert _may_run_users_code(["archive", "reevaluate", "a.h5", "--allow-code"])
    assert _may_run_users_code(["evolve", "config.toml"])
