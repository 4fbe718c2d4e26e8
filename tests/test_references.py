"""Names and paths in documents, docstrings, comments and messages exist."""

import inspect
import re
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[1]
_DOCUMENTS = ("*.md", "archives/*.md", "docs/**/*.md", "experiments/**/*.md", ".github/**/*.md")
_SOURCES = ("qdrl/**/*.py", "experiments/**/*.py")
_NAME = re.compile(r"`(qdrl(?:\.[A-Za-z_]\w*)+)")
_PATH = re.compile(r"(?<![\w/.<-])((?:tests|qdrl|experiments|archives|docs)/[\w./-]*\.(?:py|md|toml|h5))(?![\w*<{/])")

_TITLE = re.compile(r'title="([^"]+)"')  # title of a code block: the file to create


def _files(*patterns: str) -> list[str]:
    return sorted(path.relative_to(ROOT).as_posix() for pattern in patterns for path in ROOT.glob(pattern))


def _text(path: str) -> str:
    return (ROOT / path).read_text(encoding="utf-8")


def _resolves(name: str) -> bool:
    """Return whether a dotted name is a module, or leads from one to a function, a class, a method or a field."""
    parts = name.split(".")
    for end in range(len(parts), 0, -1):
        try:
            found: Any = import_module(".".join(parts[:end]))
        except ModuleNotFoundError:
            continue
        return _leads_on(found, parts[end:])
    return False


def _leads_on(found: Any, parts: list[str]) -> bool:
    if not parts:
        return True
    if hasattr(found, parts[0]):
        return _leads_on(getattr(found, parts[0]), parts[1:])
    return len(parts) == 1 and inspect.isclass(found) and _is_field(found, parts[0])


def _is_field(kind: type, name: str) -> bool:
    """Return whether a class declares a field, or documents an attribute of its instances."""
    return any(name in vars(base).get("__annotations__", {}) for base in kind.__mro__) or bool(
        re.search(rf"^\s*{name}: ", kind.__doc__ or "", re.MULTILINE)
    )


@pytest.mark.parametrize("path", _files(*_DOCUMENTS, "qdrl/**/*.py"))
def test_every_dotted_name_resolves(path: str) -> None:
    names = sorted(set(_NAME.findall(_text(path))))
    assert [name for name in names if not _resolves(name)] == []


@pytest.mark.parametrize("path", _files(*_DOCUMENTS, *_SOURCES))
def test_every_path_exists(path: str) -> None:
    text = _text(path)
    made_by_the_reader = set(_TITLE.findall(text))
    mentioned = sorted(each for each in set(_PATH.findall(text)) - made_by_the_reader if "NAME" not in each)
    assert [each for each in mentioned if not (ROOT / each).exists()] == []
