"""The state in a checkpoint: nested mappings of arrays, numbers and strings."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from qdrl.archives.structure import DIMENSIONS
from qdrl.errors import UserError

_KINDS, _BYTES = "biuf", 8  # of numpy's dtypes that `qdrl.archives.structure` lets a file hold
_DEPTH = 12  # of nested dicts: a file may nest 16 groups, and the state is inside some of them


def check_storable(tree: Any, place: str, depth: int = 0) -> None:
    """Raise an error for a state that a checkpoint cannot hold or would change.

    Args:
        tree: the result of a `state_dict`.
        place: its name in messages, to which the keys that lead to a value are added.
        depth: of this tree in the whole one.

    Raises:
        UserError: one line with the place of the first unsuitable value, its type and the remedy.
    """
    if not isinstance(tree, Mapping):
        raise UserError(f"{place} is {type(tree).__name__}; expected a dict of arrays, numbers and strings")
    if depth > _DEPTH:
        raise UserError(f"{place} is nested too deeply: a checkpoint holds dicts nested up to {_DEPTH} times")
    for name, value in tree.items():
        if not isinstance(name, str) or not name.strip(".") or "/" in name or not _is_text(name):
            raise UserError(f"{place} has the key {name!r}; a key must be a string that is not empty and has no '/'")
        if isinstance(value, Mapping):
            check_storable(value, f"{place}['{name}']", depth + 1)
        elif not _is_storable(value):
            raise UserError(
                f"{place}['{name}'] is {_described(value)}; a checkpoint holds real numbers, arrays of them (at most"
                f" {_BYTES} bytes each, {DIMENSIONS} dimensions), strings and dicts of these: convert it, or leave it"
                " out"
            )


def _is_storable(value: Any) -> bool:
    if isinstance(value, str):
        return _is_text(value)
    if isinstance(value, bytes) or value is None:
        return False
    dtype = getattr(value, "dtype", None)
    if isinstance(dtype, np.dtype):  # numpy arrays and `StoredArray`s
        return _is_numeric(dtype, len(value.shape))
    try:
        array = np.asarray(value)
    except (TypeError, ValueError, RuntimeError):
        return False
    return _is_numeric(array.dtype, array.ndim)


def _is_numeric(dtype: np.dtype[Any], dimensions: int) -> bool:
    return dtype.kind in _KINDS and dtype.itemsize <= _BYTES and dtype.isnative and dimensions <= DIMENSIONS


def _is_text(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return "\0" not in text


def _described(value: Any) -> str:
    kind = type(value).__name__
    return f"{kind} of {value.dtype}" if isinstance(value, np.ndarray) else kind
