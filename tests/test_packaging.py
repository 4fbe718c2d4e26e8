"""The wheel contains only the package and works in an environment with only its dependencies."""

import email
import subprocess
import sys
import sysconfig
import tomllib
import zipfile
from pathlib import Path

import pytest

import qdrl

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]

EXPERIMENT = """
[task]
name = "arm"
[archive]
kind = "grid"
shape = [8, 8]
[algorithm]
batch_size = 16
[run]
generations = 3
"""


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    source = folder / "source"
    source.mkdir()
    for name in ("pyproject.toml", "setup.cfg", "README.md", "LICENSE", "qdrl", "tests", "docs"):
        (source / name).symlink_to(ROOT / name)  # so that the build creates its folders elsewhere
    command = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation"]
    subprocess.run([*command, "--wheel-dir", str(folder), str(source)], check=True)
    (built,) = folder.glob("*.whl")
    return built


@pytest.mark.slow
def test_the_wheel_holds_the_package_and_its_metadata(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as file:
        names = file.namelist()
        (metadata,) = (name for name in names if name.endswith(".dist-info/METADATA"))
        said = email.message_from_bytes(file.read(metadata))
    assert {name.split("/")[0] for name in names} == {"qdrl", f"qdrl-{qdrl.__version__}.dist-info"}
    assert "qdrl/py.typed" in names
    modules = {path.relative_to(ROOT).as_posix() for path in ROOT.glob("qdrl/**/*.py")}
    assert {name for name in names if name.endswith(".py")} == modules
    assert (said["Version"], said["Author"]) == (qdrl.__version__, "The qdrl authors")
    assert {"atari", "gpu", "mpi", "video"} <= set(said.get_all("Provides-Extra") or [])


@pytest.mark.slow
def test_the_wheel_works_in_an_empty_environment(wheel: Path, tmp_path: Path) -> None:
    environment = tmp_path / "environment"
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(environment)], check=True)
    python = environment / "bin" / "python"
    install = [sys.executable, "-m", "pip", "--python", str(python), "install", "--quiet", "--no-deps", "--no-index"]
    subprocess.run([*install, str(wheel)], check=True)
    # The dependencies are those of this environment. A folder named in a .pth file has its own .pth files ignored, so
    # that an editable installation of qdrl there is not found.
    (site,) = environment.glob("lib/python*/site-packages")
    (site / "dependencies.pth").write_text(sysconfig.get_path("purelib") + "\n")
    (tmp_path / "arm.toml").write_text(EXPERIMENT)

    def run(*command: str | Path) -> str:
        done = subprocess.run([*map(str, command)], cwd=tmp_path, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        return done.stdout

    place = run(python, "-I", "-c", "import qdrl, sys; assert 'torch' not in sys.modules; print(qdrl.__file__)")
    assert place.startswith(str(environment))
    verb = environment / "bin" / "qdrl"
    assert qdrl.__version__ in run(verb, "--version")
    assert "coverage" in run(verb, "evolve", "arm.toml", "--output", "run")
    assert "cells" in run(verb, "archive", "info", "run/archive.h5")


def test_each_package_of_an_extra_is_installed_for_development() -> None:
    extras = PROJECT["optional-dependencies"]
    for extra in ("atari", "gpu", "video"):
        assert set(extras[extra]) <= set(extras["dev"])
    assert "imageio-ffmpeg" not in " ".join(PROJECT["dependencies"])
