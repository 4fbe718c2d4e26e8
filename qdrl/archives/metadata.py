"""Checks of the JSON strings in /meta: syntax, and types of the values that readers use."""

import json
from base64 import b64decode
from collections.abc import Mapping
from hashlib import sha256
from typing import Any

from qdrl.archives.checks import is_value

_LAYERS = 64  # sizes that a policy may list

# Types of the values that readers use, by path in the parsed object. Absent values and null are not checked.
_TYPES: dict[str, dict[str, str]] = {
    "config": {"name": "text", "compute": "object", "compute.device": "text"},
    "command": {
        "arguments": "list of texts",
        "ranks": "integer",
        "inexact_from": "list of integers",
        "code_changed_from": "list of integers",
        "earlier": "list of objects",
    },
    "packages": {},
    "task": {"name": "text", "options": "object", "options.name": "text", "axes": "list", "episode_length": "integer"},
    "policy": {"kind": "text", "layers": "list of sizes", "image": "list of sizes", "parameters": "integer"},
}


def meta_problems(meta: Any) -> list[str]:
    """Return the problems of an open /meta group, each with its place."""
    problems = []
    for name in _TYPES:
        problems += json_problems(meta[name], f"/meta/{name}", _TYPES[name])
    if "code" in meta:
        problems += _code_problems(meta["code"])
    if "assets" in meta:
        problems += _assets_problems(meta["assets"])
    if "mjcf" in meta:
        problems += _mjcf_problems(meta["mjcf"])
    return problems


def json_problems(dataset: Any, place: str, types: Mapping[str, str]) -> list[str]:
    """Return the problems of a JSON string that must be null or an object with values of the types listed by path."""
    try:
        value = json.loads(_text(dataset))
        json.dumps(value, ensure_ascii=False).encode()  # lone surrogates can be parsed but not printed
    except (ValueError, TypeError, RecursionError) as error:
        return [f"{place}: not JSON: {error}"]
    if not isinstance(value, dict | None):
        return [f"{place}: must be an object or null, is {type(value).__name__}"]
    return [
        f"{place}: {path} must be {'an' if kind[0] in 'aeio' else 'a'} {kind}, is {type(found).__name__}"
        for path, kind in types.items()
        if (found := _at(value or {}, path)) is not None and not _is_a(found, kind)
    ]


def _code_problems(dataset: Any) -> list[str]:
    """Return the problems of the stored source of users' code: sources by reference, each with its digest."""
    if problems := json_problems(dataset, "/meta/code", {}):
        return problems
    for name, entry in (json.loads(_text(dataset)) or {}).items():
        known = isinstance(entry, dict) and entry.keys() >= {"source", "sha256"}
        texts = (entry["source"], entry["sha256"]) if known else ("", None)
        if not known or not all(isinstance(text, str | None) for text in texts):
            return [f"/meta/code: {name} must have a source and a sha256, each a string or null"]
        if texts[0] is not None and sha256(texts[0].encode()).hexdigest() != texts[1]:
            return [f"/meta/code: {name} does not match its sha256"]
    return []


def _assets_problems(dataset: Any) -> list[str]:
    """Say where the stored files of a model are not an object of base64 texts."""
    if problems := json_problems(dataset, "/meta/assets", {}):
        return problems
    for name, content in (json.loads(_text(dataset)) or {}).items():
        try:
            b64decode(content, validate=True)
        except (ValueError, TypeError):
            return [f"/meta/assets: {name} is not base64 text"]
    return []


def _mjcf_problems(dataset: Any) -> list[str]:
    try:
        text = _text(dataset)
    except (ValueError, TypeError) as error:
        return [f"/meta/mjcf: not a UTF-8 string: {error}"]
    if not is_value(stored := dataset.attrs.get("sha256"), "string") or sha256(text.encode()).hexdigest() != stored:
        return ["/meta/mjcf: does not match its sha256"]
    return []


def _text(dataset: Any) -> str:
    """Return a scalar string dataset as text.

    Raises:
        TypeError: it is not a string.
        ValueError: it is not UTF-8.
    """
    text = dataset.asstr(encoding="utf-8", errors="strict")[()]
    if not isinstance(text, str):
        raise TypeError("not a single string")
    text.encode()
    return text


def _at(value: Any, path: str) -> Any:
    for name in path.split("."):
        value = value.get(name) if isinstance(value, dict) else None
    return value


def _is_a(value: Any, kind: str) -> bool:
    if kind == "text":
        return isinstance(value, str)
    if kind == "object":
        return isinstance(value, dict)
    if kind == "integer":
        return _is_integer(value)
    if not isinstance(value, list):
        return False
    if kind == "list of sizes":
        return len(value) <= _LAYERS and all(_is_integer(size) and 0 <= size < 2**31 for size in value)
    if kind == "list":
        return True
    entry_kind = kind.removeprefix("list of ").removesuffix("s")
    return all(_is_a(entry, entry_kind) for entry in value)


def _is_integer(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)
