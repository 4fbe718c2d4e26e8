"""Structured values as strict JSON, which lacks infinity and NaN.

`to_json` writes such a number as an object that names it, and `from_json` reads it back. `jsonable` is for readers: the
number becomes null.
"""

import json
from collections.abc import Mapping
from math import isfinite
from typing import Any

_NUMBER = "$float"


def to_json(value: Any) -> str:
    """Return strict JSON; a number that is not finite becomes `{"$float": "inf"}`, `"-inf"` or `"nan"`.

    Raises:
        TypeError: a value is neither an object with string keys, a list, a string, a number, a truth value nor null.
    """
    return json.dumps(_encoded(value), allow_nan=False)


def from_json(text: str) -> Any:
    """Return the value that `to_json` wrote.

    Raises:
        ValueError: the text is not JSON.
    """
    return json.loads(text, object_hook=_decoded)


def jsonable(value: Any) -> Any:
    """Return any value as strict JSON can hold it: arrays as lists, non-finite numbers as null, objects as text."""
    if isinstance(value, Mapping):
        return {str(name): jsonable(item) for name, item in value.items()}
    if hasattr(value, "tolist"):  # numpy's arrays and scalars, without importing numpy
        return jsonable(value.tolist())
    if isinstance(value, list | tuple):
        return [jsonable(item) for item in value]
    if isinstance(value, float) and not isfinite(value):
        return None
    return value if isinstance(value, str | int | float | None) else str(value)


def _encoded(value: Any) -> Any:
    if isinstance(value, float) and not isfinite(value):
        return {_NUMBER: repr(float(value))}
    if isinstance(value, dict):
        if names := [name for name in value if not isinstance(name, str)]:
            raise TypeError(f"key {names[0]!r} is not a string")
        return {name: _encoded(entry) for name, entry in value.items()}
    return [_encoded(entry) for entry in value] if isinstance(value, list | tuple) else value


def _decoded(entry: dict[str, Any]) -> Any:
    is_number = entry.keys() == {_NUMBER} and entry[_NUMBER] in ("inf", "-inf", "nan")
    return float(entry[_NUMBER]) if is_number else entry
