"""Without an optional package, the verb that needs it names it in one line, and everything else works."""

import subprocess
import sys
from pathlib import Path

import pytest

from qdrl.cli.outcome import show
from qdrl.config import parse_experiment
from qdrl.errors import UserError
from qdrl.optional import missing_package, require
from qdrl.parallel.ranks import OneProcess
from qdrl.report.video import check_video_path
from qdrl.run.start import start

ROOT = Path(__file__).parents[1]

PROGRAM = """
import sys

for absent in sys.argv[2].split(","):
    sys.modules[absent] = None
from click.testing import CliRunner
from qdrl.cli import qdrl as verbs
import qdrl

reference = sys.argv[1]
for words in ("archive info", "archive find", "archive show", "archive validate", "archive plot", "archive reevaluate",
              "archive show --replay", "export", "render", "evolve"):
    arguments = words.split() + ([] if words == "evolve" else [reference])
    arguments += {"archive find": ["--descriptor", "0", "0"], "export": ["w.npz"], "render": ["w.gif"],
                  "evolve": ["x.toml"]}.get(words, [])
    arguments += ["100"] if "show" in words else []
    done = CliRunner().invoke(verbs, arguments)
    print(words, "|", done.exit_code, "|", type(done.exception).__name__, "|", done.exception)
for name in ("Archive", "plot_heatmap", "open_archive"):
    try:
        print(f"qdrl.{name}", "|", callable(getattr(qdrl, name)))
    except ImportError as error:
        print(f"qdrl.{name}", "|", error)
"""


def test_every_verb_names_the_package_it_needs(tmp_path: Path) -> None:
    archive = ROOT / "archives" / "reference" / "walker2d_uni.h5"
    (tmp_path / "x.toml").write_text((ROOT / "experiments" / "quickstart" / "config.toml").read_text())
    command = [sys.executable, "-c", PROGRAM, str(archive), "torch,matplotlib,imageio"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=True)
    said = dict(line.split(" | ", 1) for line in done.stdout.splitlines())
    for verb in ("archive info", "archive find", "archive show", "archive validate"):
        assert said[verb] == "0 | NoneType | None"
    for verb, package in (("archive plot", "matplotlib"), ("archive reevaluate", "torch"), ("export", "torch")):
        assert said[verb] == f"1 | UserError | qdrl {verb} needs {package}: pip install {package}"
    assert said["archive show --replay"] == "1 | UserError | qdrl archive show needs torch: pip install torch"
    assert said["render"] == "1 | UserError | a film needs imageio: pip install imageio"
    assert said["evolve"] == "1 | UserError | qdrl evolve needs torch: pip install torch"
    assert said["qdrl.Archive"] == "qdrl.Archive needs torch: pip install torch"
    assert said["qdrl.plot_heatmap"] == "qdrl.plot_heatmap needs matplotlib: pip install matplotlib"
    assert said["qdrl.open_archive"] == "True"


def test_an_mp4_film_names_the_extra_that_it_needs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "imageio_ffmpeg", None)
    with pytest.raises(UserError, match=r"^an \.mp4 film needs imageio_ffmpeg: pip install 'qdrl\[video\]'$"):
        check_video_path(tmp_path / "film.mp4")
    check_video_path(tmp_path / "film.gif")


@pytest.mark.slow
def test_evotorch_is_imported_by_its_own_algorithm_only() -> None:
    program = """
import importlib, pkgutil, sys
sys.modules["evotorch"] = None
import qdrl
for module in pkgutil.walk_packages(qdrl.__path__, "qdrl."):
    try:
        importlib.import_module(module.name)
    except ModuleNotFoundError as error:
        print(module.name, error.name)
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    lines = [line.split() for line in done.stdout.splitlines()]
    needing = {name for name, missing in lines if missing.partition(".")[0] == "evotorch"}
    assert needing == {"qdrl.algorithms.cmaes_searcher", "qdrl.algorithms.searchers"}


def test_only_packages_of_ours_are_named() -> None:
    with pytest.raises(ModuleNotFoundError, match="module_of_a_user"):
        require("module_of_a_user", "this")
    assert (
        missing_package(ModuleNotFoundError(name="mpi4py.MPI"), "qdrl") == "qdrl needs mpi4py: pip install 'qdrl[mpi]'"
    )
    assert missing_package(ModuleNotFoundError(), "qdrl") is None


def test_a_run_ends_well_without_matplotlib(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    cells = {"kind": "grid", "shape": [4, 4]}
    settings = {"name": "x", "task": {"name": "arm"}, "archive": cells, "run": {"generations": 1}}
    outcome = start(parse_experiment(settings), OneProcess(), folder=tmp_path / "run")
    for module in ("curves", "figures", "heatmap", "shades"):
        monkeypatch.delitem(sys.modules, f"qdrl.report.{module}", raising=False)
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    show(outcome)
    printed = capsys.readouterr().out
    assert "figures      none: drawing needs matplotlib: pip install matplotlib\n" in printed
    assert "best fitness" in printed
