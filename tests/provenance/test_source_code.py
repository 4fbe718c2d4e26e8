"""Users' code behind a result: stored as text, and compared when a run is resumed."""

import functools
import json
import math
import sys
from collections.abc import Iterator
from hashlib import sha256
from pathlib import Path

import h5py
import pytest
from click.testing import CliRunner

from qdrl.analysis.rerun import replay
from qdrl.archives.hdf5 import open_archive, validate
from qdrl.cli.resume import command
from qdrl.config import parse_experiment
from qdrl.errors import UserError
from qdrl.parallel.ranks import OneProcess
from qdrl.provenance.source_code import changed_sources, definition_of, is_users, sources_of
from qdrl.run.resume import resume
from qdrl.run.start import start

CODE = """
from functools import partial

def both(trajectory, row):
    return trajectory.observations[row, :2]

last = partial(both, row=-1)
"""


@pytest.fixture
def mine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A user's module of descriptor functions, importable as `qdrl_test_mine`."""
    path = tmp_path / "qdrl_test_mine.py"
    path.write_text(CODE)
    monkeypatch.syspath_prepend(tmp_path)
    yield path
    sys.modules.pop("qdrl_test_mine", None)


def test_the_source_of_a_reference_is_that_of_its_module_and_is_read_without_running_it(mine: Path) -> None:
    mine.write_text("raise RuntimeError('run')\n")
    (entry,) = sources_of(["qdrl_test_mine:last"]).values()
    assert entry == {"source": mine.read_text(), "sha256": sha256(mine.read_bytes()).hexdigest()}
    assert is_users("qdrl_test_mine:last")


@pytest.mark.parametrize("name", ["math:sqrt", "nowhere_at_all:f", "__main__:f", "numpy._core._multiarray_umath:add"])
def test_a_reference_without_source_is_stored_without_one(name: str) -> None:
    (entry,) = sources_of([name]).values()
    assert name == "__main__:f" or entry == {"source": None, "sha256": None}
    assert not is_users(name)


def test_installed_code_does_not_count_as_users_code() -> None:
    assert not any(map(is_users, ["gymnasium.envs.classic_control:CartPoleEnv", "json:loads", "qdrl.run.start:start"]))


def test_partials_and_imported_functions_resolve_to_their_defining_module() -> None:
    assert definition_of(functools.partial(sha256, b"")) == "_hashlib:openssl_sha256"
    assert definition_of(functools.partial(mine_too)) == f"{__name__}:mine_too"
    assert definition_of(math.sqrt) == "math:sqrt"
    assert definition_of(3) is None


def mine_too() -> None:
    """A function of this module."""


def test_only_known_sources_that_differ_count_as_changed() -> None:
    now = {"a:f": {"sha256": "1"}, "b:g": {"sha256": "2"}, "c:h": {"sha256": None}}
    assert changed_sources(None, now) == []
    assert changed_sources({"b:g": {"sha256": "3"}, "c:h": {"sha256": None}}, now) == ["b:g"]


def test_a_run_keeps_its_users_code_and_is_not_resumed_with_another_unless_that_is_accepted(
    mine: Path, tmp_path: Path
) -> None:
    axes = [{"name": name, "unit": "1", "lower": -1.0, "upper": 1.0} for name in "xy"]
    experiment = {
        "name": "mine",
        "task": {"name": "gym:Pendulum-v1", "descriptor": "qdrl_test_mine:last", "axes": axes, "episode_length": 3},
        "policy": {"hidden_sizes": []},
        "archive": {"kind": "grid", "shape": [3, 3]},
        "algorithm": {"name": "map_elites", "batch_size": 3},
        "run": {"generations": 2},
    }
    run = tmp_path / "run"
    start(parse_experiment(experiment), OneProcess(), folder=run, modules=tmp_path, progress=False)
    assert (run / ".modules").read_text() == str(tmp_path)
    for file in ("archive.h5", "checkpoint.h5"):
        code = open_archive(run / file).meta["code"]
        assert set(code) == {"qdrl_test_mine:last", "qdrl_test_mine:both"}
        assert code["qdrl_test_mine:last"]["source"] == CODE
    sys.path.remove(str(tmp_path))  # as in a process that has not loaded the experiment file
    resume(run, OneProcess(), overrides=["run.generations=3"], progress=False)
    assert str(tmp_path) in sys.path

    mine.write_text(CODE.replace("row=-1", "row=0"))
    with pytest.raises(UserError, match=r"qdrl_test_mine:last.* has changed since .*--accept-changed-code"):
        resume(run, OneProcess(), overrides=["run.generations=4"], progress=False)
    resume(run, OneProcess(), overrides=["run.generations=4"], progress=False, accept_changed_code=True)
    stored = open_archive(run / "archive.h5")
    assert len(stored.history["generation"]) == 4
    assert "row=0" in stored.meta["code"]["qdrl_test_mine:last"]["source"]
    assert stored.meta["command"]["code_changed_from"] == [3]
    assert "has changed since the run was saved" in (run / "log.txt").read_text()
    mine.write_text(CODE)
    notes = replay(stored, stored.best_cell, allow_code=True).notes
    assert any("the module of qdrl_test_mine:last differs from the source in the file" in note for note in notes)


def test_the_option_of_resume_accepts_changed_code(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    taken: list[bool] = []

    def refuse(*arguments: object, accept_changed_code: bool, **options: object) -> None:
        taken.append(accept_changed_code)
        raise UserError("far enough")

    monkeypatch.setattr("qdrl.run.resume.resume", refuse)
    for options in ([], ["--accept-changed-code"]):
        CliRunner().invoke(command, [str(tmp_path), *options])
    assert taken == [False, True]


def test_a_stored_source_that_does_not_match_its_digest_is_found(tmp_path: Path) -> None:
    reference = Path(__file__).parents[2] / "archives" / "reference" / "walker2d_uni.h5"
    path = tmp_path / "archive.h5"
    for entry, problem in (
        ({"source": "a", "sha256": "b"}, "does not match"),
        ({"source": "a"}, "must have a source and a sha256"),
    ):
        path.write_bytes(reference.read_bytes())
        with h5py.File(path, "r+") as file:
            file["meta/code"] = json.dumps({"mine:f": entry})
        assert any("/meta/code" in line and problem in line for line in validate(path))
