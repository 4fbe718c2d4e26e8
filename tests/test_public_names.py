"""The public names of `qdrl`: typed for users, and imported when they are first used."""

import ast
import json
import re
import shutil
import subprocess
import sys
from importlib import import_module
from pathlib import Path

import pytest

import qdrl

USER = """
from typing import assert_type

import qdrl

assert_type(qdrl.open_archive("a.h5"), qdrl.StoredArchive)
grid: type[qdrl.Grid] = qdrl.Grid
entries: type[qdrl.Grid] = qdrl.Archive
qdrl.Archiv
qdrl.Archive.sav
"""


@pytest.mark.slow
def test_type_checkers_know_the_public_names_and_accept_the_example_of_the_readme(tmp_path: Path) -> None:
    checker = shutil.which("basedpyright", path=Path(sys.executable).parent)
    if checker is None:
        pytest.skip("basedpyright is not installed")
    (tmp_path / "user.py").write_text(USER)
    readme = Path(qdrl.__file__).parents[1] / "README.md"
    (example,) = re.findall(r"```python\n(.*?)```", readme.read_text(encoding="utf-8"), re.DOTALL)
    (tmp_path / "readme.py").write_text(example)
    settings = {
        "include": ["user.py", "readme.py"],
        "typeCheckingMode": "basic",
        "extraPaths": [str(Path(qdrl.__file__).parents[1])],
    }
    (tmp_path / "pyrightconfig.json").write_text(json.dumps(settings))
    command = [checker, "--outputjson", "--pythonpath", sys.executable, "--project", str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=300)
    found = [
        (Path(finding["file"]).name, finding["range"]["start"]["line"] + 1, finding["rule"])
        for finding in json.loads(done.stdout)["generalDiagnostics"]
        if finding["severity"] == "error"
    ]
    assert found == [
        ("user.py", 8, "reportAssignmentType"),
        ("user.py", 9, "reportAttributeAccessIssue"),
        ("user.py", 10, "reportAttributeAccessIssue"),
    ], done.stdout


def test_the_typed_names_are_those_imported_at_run_time() -> None:
    tree = ast.parse(Path(qdrl.__file__).read_text(encoding="utf-8"))
    (typed,) = [node for node in tree.body if isinstance(node, ast.If) and isinstance(node.test, ast.Name)]
    imports = [node for node in typed.body if isinstance(node, ast.ImportFrom)]
    names = {alias.name: str(node.module) for node in imports for alias in node.names}
    assert sorted([*names, "__version__"]) == qdrl.__all__
    for name, module in names.items():
        assert getattr(qdrl, name) is getattr(import_module(module), name)


LIGHT = """
import sys, time
from click.testing import CliRunner

begun = time.process_time()
import qdrl
seconds = time.process_time() - begun
assert "numpy" not in sys.modules
from qdrl.cli import qdrl as command_line

tables = ("experiment", "task", "policy", "archive", "algorithm", "run", "compute")
lists = ["--help", "evolve --help", "tasks", "tasks --json", "tasks walker2d_uni", "tasks arm --json"]
lists += ["algorithms", "algorithms map_elites", "settings", *(f"settings {table}" for table in tables)]
for words in lists:
    arguments = words.split()
    result = CliRunner().invoke(command_line, arguments)
    assert result.exit_code == 0, (arguments, result.output)
    loaded = {"torch", "mujoco", "gymnasium"} & set(sys.modules)
    assert not loaded, (arguments, loaded)
assert CliRunner().invoke(command_line, ["tasks", "gym:Pendulum-v1"]).exit_code == 0
assert "torch" not in sys.modules
print(seconds)
"""


def test_import_and_lists_are_quick_and_load_no_torch() -> None:
    done = subprocess.run([sys.executable, "-c", LIGHT], capture_output=True, text=True, check=False, timeout=120)
    assert done.returncode == 0, done.stderr
    assert float(done.stdout) < 0.3  # of CPU time; 0.02 on an idle machine
