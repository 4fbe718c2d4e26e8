"""The provenance of a file: commit, versions and licence."""

import os
import shutil
import subprocess
import sys
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from types import ModuleType

import pytest
from click.testing import CliRunner

import qdrl.provenance.software
from qdrl.archives.hdf5 import open_archive, write_archive
from qdrl.cli.archive.info import command as info
from qdrl.config import parse_experiment
from qdrl.provenance.software import origin
from tests.archives.builders import small_archive
from tests.helpers.processes import mpirun

WATCH = """
import sys
def watch(event, arguments):
    if event in ("subprocess.Popen", "os.fork", "os.posix_spawn", "os.system"):
        mpi = sys.modules.get("mpi4py.MPI")
        with open({seen!r}, "a", encoding="utf-8") as file:
            file.write(f"{{bool(mpi and mpi.Is_initialized())}} {{arguments[1] if len(arguments) > 1 else event}}\\n")
sys.addaudithook(watch)
"""
ARM = """
license = "CC0-1.0"
[task]
name = "arm"
[archive]
shape = [8, 8]
[algorithm]
batch_size = 4
[run]
generations = 2
checkpoint_seconds = 0
"""


def _git(folder: Path, *arguments: str) -> None:
    identity = ["-c", "user.name=a", "-c", "user.email=a@b", "-c", "commit.gpgsign=false"]
    subprocess.run(["git", "-C", folder, *identity, *arguments], check=True, capture_output=True)


def _package_in(folder: Path) -> ModuleType:
    """Return the module imported from that folder."""
    (folder / "provenance").mkdir(parents=True, exist_ok=True)
    copy = shutil.copy(qdrl.provenance.software.__file__, folder / "provenance" / "software.py")
    spec = spec_from_file_location("software_elsewhere", copy)
    assert spec is not None
    assert spec.loader is not None
    module = module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    _package_in(tmp_path / "qdrl")
    _git(tmp_path, "init", "-q")
    (tmp_path / ".gitignore").write_text("venv\n__pycache__\n")
    _git(tmp_path, "add", ".")
    _git(tmp_path, "commit", "-qm", "one")
    return tmp_path


def test_the_commit_is_read_once_and_later_commits_do_not_change_it(checkout: Path) -> None:
    module = _package_in(checkout / "qdrl")
    before = module.git_commit()
    assert len(before) == 40
    (checkout / "qdrl" / "more.py").write_text("")
    _git(checkout, "add", ".")
    _git(checkout, "commit", "-qm", "two")
    assert module.git_commit() == before
    assert _package_in(checkout / "qdrl").git_commit() != before


@pytest.mark.parametrize("change", ["edited", "new file", "staged"])
def test_a_changed_source_is_marked_as_dirty(checkout: Path, change: str) -> None:
    module = _package_in(checkout / "qdrl")
    file = checkout / "qdrl" / ("more.py" if change != "edited" else "origin.py")
    file.write_text("# changed\n")
    if change == "staged":
        _git(checkout, "add", ".")
    assert module.git_commit().endswith("+dirty")


def test_a_change_outside_the_package_leaves_the_commit_clean(checkout: Path) -> None:
    (checkout / "notes.txt").write_text("mine")
    assert "+" not in _package_in(checkout / "qdrl").git_commit()


@pytest.mark.parametrize("place", ["venv/lib/qdrl", "untracked/qdrl"])
def test_an_installed_package_inside_another_projects_checkout_names_no_commit(checkout: Path, place: str) -> None:
    assert _package_in(checkout / place).git_commit() == ""


def test_without_a_checkout_or_git_or_after_mpi_started_there_is_no_commit(
    checkout: Path, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert _package_in(tmp_path_factory.mktemp("bare") / "qdrl").git_commit() == ""
    started = ModuleType("mpi4py.MPI")
    started.Is_initialized = lambda: True  # pyright: ignore[reportAttributeAccessIssue]
    with monkeypatch.context() as patched:
        patched.setitem(sys.modules, "mpi4py.MPI", started)
        assert _package_in(checkout / "qdrl").git_commit() == ""
    monkeypatch.setenv("PATH", "")
    assert _package_in(checkout / "qdrl").git_commit() == ""


def test_variables_of_a_git_hook_do_not_name_another_repository(
    checkout: Path, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GIT_DIR", str(tmp_path_factory.mktemp("other") / ".git"))
    assert len(_package_in(checkout / "qdrl").git_commit()) == 40


def test_a_file_has_the_stated_licence_or_none() -> None:
    assert "license" not in origin(1, "now", ranks=1, commit="abc")[0]
    attributes, _ = origin(1, "now", ranks=1, commit="abc", license="CC-BY-4.0")
    assert (attributes["license"], attributes["git_commit"]) == ("CC-BY-4.0", "abc")
    experiment = {"name": "a", "task": {"name": "arm"}, "run": {"generations": 1}}
    assert "license" not in parse_experiment(experiment).resolved()
    assert parse_experiment(experiment | {"license": "CC0-1.0"}).resolved()["license"] == "CC0-1.0"


@pytest.mark.slow
@pytest.mark.mpi
def test_no_process_is_started_after_mpi_and_git_runs_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "sitecustomize.py").write_text(WATCH.format(seen=str(tmp_path / "seen")))
    (tmp_path / "arm.toml").write_text(ARM)
    monkeypatch.setenv("PYTHONPATH", f"{tmp_path}:{os.environ.get('PYTHONPATH', '')}")
    monkeypatch.setenv("MPLCONFIGDIR", str(tmp_path / "no font cache yet"))
    arguments = ["-m", "qdrl", "evolve", tmp_path / "arm.toml", "--output", tmp_path / "run"]
    done = mpirun(2, arguments, timeout=180, fresh=True)
    assert done.returncode == 0, done.stderr
    seen = (tmp_path / "seen").read_text().splitlines()
    assert [line for line in seen if line.startswith("True")] == []
    assert sum("'git'" in line for line in seen) == 1
    attributes = open_archive(tmp_path / "run" / "archive.h5").attributes
    assert attributes["license"] == "CC0-1.0"
    assert attributes["git_commit"] == qdrl.provenance.software.git_commit()


@pytest.mark.parametrize(("stated", "printed"), [("CC0-1.0", "CC0-1.0"), (None, "not stated")])
def test_info_prints_the_licence_or_that_none_is_stated(tmp_path: Path, stated: str | None, printed: str) -> None:
    archive = small_archive()
    archive.attributes.pop("license")
    archive.attributes.update({} if stated is None else {"license": stated})
    archive.meta["config"]["title"] = "Läufer"
    write_archive(tmp_path / "a.h5", archive)
    text = CliRunner().invoke(info, [str(tmp_path / "a.h5")], catch_exceptions=False).stdout
    assert text.partition("license")[2].splitlines()[0].strip() == printed
    assert "Läufer" in text
