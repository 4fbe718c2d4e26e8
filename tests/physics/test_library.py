"""mujoco is imported in one module, which works with a broken OpenGL."""

import ast
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


def test_only_one_module_imports_mujoco() -> None:
    importing = set()
    for file in (ROOT / "qdrl").rglob("*.py"):
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            if any(name.partition(".")[0] == "mujoco" for name in names):
                importing.add(file.name)
    assert importing == {"library.py"}


@pytest.mark.parametrize("gl", ["nonsense", "disable"])
def test_physics_and_gymnasium_work_without_opengl(gl: str) -> None:
    code = (
        "import gymnasium; from qdrl.tasks.environments.ids import require_environment;"
        "from qdrl.physics.library import mujoco;"
        "require_environment('InvertedPendulum-v5'); gymnasium.make('InvertedPendulum-v5').reset(seed=0);"
        "from qdrl.report.video import check_rendering; print(check_rendering())"
    )
    environment = os.environ | {"MUJOCO_GL": gl}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, check=False)
    assert done.returncode == 0, done.stderr
    assert f"MUJOCO_GL is {gl} and cannot draw here" in done.stdout.decode()
