"""Public modules, classes, functions and methods of qdrl have docstrings."""

import ast
from collections.abc import Iterator
from pathlib import Path

PACKAGE = Path(__file__).parents[1] / "qdrl"
LEAST_SHARE = 0.9

Documented = ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef


def _public(node: Documented, name: str) -> Iterator[tuple[str, Documented]]:
    """Yield a module or a class and the public classes, functions and methods in it; not functions in functions."""
    yield name, node
    if not isinstance(node, ast.Module | ast.ClassDef):
        return
    for child in node.body:
        if isinstance(child, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef) and not child.name.startswith("_"):
            yield from _public(child, f"{name}.{child.name}")


def _all_public() -> list[tuple[str, Documented]]:
    found = []
    for path in sorted(PACKAGE.glob("**/*.py")):
        module = ".".join(path.relative_to(PACKAGE.parent).with_suffix("").parts).removesuffix(".__init__")
        found += _public(ast.parse(path.read_text(encoding="utf-8")), module)
    return found


def _is_overload(node: Documented) -> bool:
    return not isinstance(node, ast.Module) and any("overload" in ast.unparse(each) for each in node.decorator_list)


def test_at_least_nine_of_ten_public_names_have_a_docstring() -> None:
    names = [(name, node) for name, node in _all_public() if not _is_overload(node)]
    without = [name for name, node in names if not ast.get_docstring(node)]
    assert 1 - len(without) / len(names) >= LEAST_SHARE, without


def test_every_module_and_every_public_class_has_a_docstring() -> None:
    kinds = (ast.Module, ast.ClassDef)
    assert [name for name, node in _all_public() if isinstance(node, kinds) and not ast.get_docstring(node)] == []
