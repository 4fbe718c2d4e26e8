"""Videos: rendered where OpenGL works without a screen, otherwise an error that names the fix."""

import os
import subprocess
import sys
from functools import cache
from pathlib import Path

import imageio.v3 as imageio
import pytest
from click.testing import CliRunner

from qdrl.cli import qdrl
from qdrl.config import load_experiment, parse_experiment
from qdrl.errors import UserError
from qdrl.parallel.ranks import OneProcess
from qdrl.run.start import start

HOPPER = """
name = "hopper"
[task]
name = "hopper_uni"
episode_length = 30
[policy]
hidden_sizes = [4]
[archive]
cells = 8
samples = 500
[algorithm]
batch_size = 8
[run]
generations = 1
"""


@pytest.fixture(scope="module")
def archive(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("film")
    (folder / "hopper.toml").write_text(HOPPER)
    experiment = load_experiment(folder / "hopper.toml")
    return start(experiment, OneProcess(), folder=folder / "run", progress=False).archive


@pytest.mark.slow
def test_evolving_needs_no_opengl(tmp_path: Path) -> None:
    (tmp_path / "hopper.toml").write_text(HOPPER)
    assert _qdrl("evolve", tmp_path / "hopper.toml", "--output", tmp_path / "run", gl="nonsense").returncode == 0


def _qdrl(*arguments: str | Path, gl: str = "") -> subprocess.CompletedProcess[str]:
    environment = {key: value for key, value in os.environ.items() if key not in ("MUJOCO_GL", "DISPLAY")}
    if gl:
        environment["MUJOCO_GL"] = gl
    command = [sys.executable, "-m", "qdrl", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, env=environment, check=False)


@cache
def _working_backend() -> str | None:
    code = "import sys; from qdrl.report.video import check_rendering; sys.exit(check_rendering() is not None)"
    for gl in ("egl", "osmesa"):
        environment = os.environ | {"MUJOCO_GL": gl}
        if subprocess.run([sys.executable, "-c", code], env=environment, check=False).returncode == 0:
            return gl
    return None


# imageio's mp4 reader leaves pipes to the garbage collector.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.parametrize("suffix", [pytest.param("mp4", marks=pytest.mark.slow), "gif"])
def test_an_elite_is_filmed_in_real_time_and_something_moves(archive: Path, tmp_path: Path, suffix: str) -> None:
    gl = _working_backend()
    if gl is None:
        pytest.skip("no OpenGL that draws without a screen: neither libegl1 nor libosmesa6")
    output = tmp_path / f"elite.{suffix}"
    done = _qdrl("render", archive, output, "--width", "64", "--height", "48", gl=gl)
    assert done.returncode == 0, done.stderr
    frames = imageio.imread(output, index=None) if suffix == "gif" else imageio.imread(output, plugin="FFMPEG")
    assert frames.shape[1:3] == (48, 64)
    assert f"{len(frames)} frames" in done.stdout
    assert len(frames) > 3
    assert (frames[0] != frames[-1]).mean() > 0.01


def test_without_opengl_the_refusal_is_one_line_that_names_mujoco_gl(archive: Path, tmp_path: Path) -> None:
    done = _qdrl("render", archive, tmp_path / "elite.mp4", gl="nonsense")
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1
    assert "MUJOCO_GL=egl" in done.stderr
    assert list(tmp_path.iterdir()) == []


def test_a_task_without_a_model_is_refused_before_opengl_is_tried(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    arm = {"name": "arm", "task": {"name": "arm"}, "archive": {"shape": [2, 2]}, "run": {"evaluations": 8}}
    experiment = parse_experiment(arm | {"algorithm": {"batch_size": 8}})
    stored = start(experiment, OneProcess(), folder=tmp_path / "run", progress=False).archive
    monkeypatch.setattr("qdrl.report.video.check_rendering", lambda: "MUJOCO_GL is wrong")
    with pytest.raises(UserError, match="task 'arm' has no MuJoCo model to film"):
        CliRunner().invoke(qdrl, ["render", str(stored), str(tmp_path / "arm.gif")], catch_exceptions=False)


def test_wrong_cells_and_suffixes_are_refused(archive: Path, tmp_path: Path) -> None:
    assert "cell 99 does not exist" in _qdrl("render", archive, tmp_path / "a.mp4", "--cell", "99").stderr
    assert ".mp4 or .gif" in _qdrl("render", archive, tmp_path / "a.avi").stderr
    assert "there is no folder" in _qdrl("render", archive, tmp_path / "none" / "a.gif").stderr
