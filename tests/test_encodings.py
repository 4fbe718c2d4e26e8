"""Text is always UTF-8, in every locale."""

import ast
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from qdrl.archives.hdf5 import open_archive
from qdrl.config import load_experiment
from qdrl.errors import UserError

ROOT = Path(__file__).parents[1]
ARM = '[task]\nname = "arm"\n[archive]\nshape = [4, 4]\n[algorithm]\nbatch_size = 8\n[run]\ngenerations = 1\n'
_TEXT = {"read_text", "write_text", "open", "FileHandler", "fdopen"}


def _without_encoding(file: Path) -> list[str]:
    """List the calls that read or write text in the encoding of the locale."""
    found = []
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if not isinstance(node, ast.Call):
            continue
        name = getattr(node.func, "attr", getattr(node.func, "id", ""))
        keywords = {keyword.arg for keyword in node.keywords}
        binary = any(isinstance(a, ast.Constant) and isinstance(a.value, str) and "b" in a.value for a in node.args)
        own = isinstance(node.func, ast.Name) and name == "write_text"  # qdrl.archives.atomic: sets an encoding
        elsewhere = re.match(r"os\.open|h5.\.open|self\._log\.open", ast.unparse(node.func))  # binary
        reads_or_writes = name in _TEXT and not (binary or own or elsewhere)
        if "encoding" not in keywords and (reads_or_writes or "text" in keywords):
            found.append(f"{file}:{node.lineno}")
    return found


def test_the_package_never_reads_or_writes_text_in_the_encoding_of_the_locale() -> None:
    files = [file for folder in ("qdrl", "experiments") for file in (ROOT / folder).rglob("*.py")]
    assert len(files) > 100
    assert [place for file in files for place in _without_encoding(file)] == []


@pytest.mark.parametrize("mark", [b"", b"\xef\xbb\xbf"], ids=["plain", "byte order mark"])
def test_an_experiment_file_is_utf8_with_or_without_a_byte_order_mark(tmp_path: Path, mark: bytes) -> None:
    (tmp_path / "a.toml").write_bytes(mark + ("title = 'Höhe'\n" + ARM).encode())
    assert load_experiment(tmp_path / "a.toml").title == "Höhe"


def test_an_experiment_file_in_another_encoding_is_refused_in_one_line(tmp_path: Path) -> None:
    (tmp_path / "a.toml").write_bytes(("# Höhe\n" + ARM).encode("latin-1"))
    with pytest.raises(UserError, match=r"a\.toml is not UTF-8 text; save it as UTF-8"):
        load_experiment(tmp_path / "a.toml")
    (tmp_path / "b.toml").write_bytes(ARM.encode("utf-16"))
    with pytest.raises(UserError, match=r"b\.toml is not UTF-8 text; save it as UTF-8"):
        load_experiment(tmp_path / "b.toml")


@pytest.mark.slow
def test_a_run_in_an_ascii_locale_keeps_every_letter_and_prints_escapes(tmp_path: Path) -> None:
    (tmp_path / "día.toml").write_text("# Höhe\n" + ARM, encoding="utf-8")
    ascii_only = {"LC_ALL": "POSIX", "PYTHONCOERCECLOCALE": "0", "PYTHONUTF8": "0", "PYTHONIOENCODING": "ascii:strict"}
    command = [sys.executable, "-m", "qdrl", "evolve", "día.toml", "--output", "Lauf ü"]
    done = subprocess.run(command, cwd=tmp_path, env=os.environ | ascii_only, capture_output=True, check=False)
    assert done.returncode == 0, done.stderr
    assert b"Lauf " in done.stdout
    meta = open_archive(tmp_path / "Lauf ü" / "archive.h5").meta
    assert (meta["config"]["name"], meta["config"]["title"]) == ("dia", "día")
    assert meta["command"]["arguments"][2] == "día.toml"
