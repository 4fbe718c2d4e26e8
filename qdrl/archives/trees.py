"""State that a checkpoint keeps: nested mappings of arrays, numbers and strings."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from qdrl.errors import UserError

_STORED = "biufc"  # kinds of numpy's dtypes that HDF5 holds and gives back unchanged


def check_storable(tree: Any, place: str) -> None:
    """Refuse what a checkpoint cannot hold, or would give back as something else.

    Args:
        tree: what `state_dict` returned.
        place: names it in messages, extended by the keys that lead to a value.

    Raises:
        UserError: one line with the place of the first such value, its type and the remedy.
    """
    if not isinstance(tree, Mapping):
        raise UserError(f"{place} is {type(tree).__name__}; expected a dict of arrays, numbers and strings")
    for name, value in tree.items():
        if not isinstance(name, str) or not name.strip(".") or "/" in name or "\0" in name:
            raise UserError(f"{place} has the key {name!r}; a key must be a string that is not empty and has no '/'")
        if isinstance(value, Mapping):
            check_storable(value, f"{place}['{name}']")
        elif not _is_storable(value):
            raise UserError(
                f"{place}['{name}'] is {_described(value)}; a checkpoint holds arrays of numbers, numbers, strings and"
                " dicts of these: convert it, or leave it out"
            )


def _is_storable(value: Any) -> bool:
    if isinstance(value, str):
        return "\0" not in value
    if isinstance(value, bytes) or value is None:
        return False
    dtype = getattr(value, "dtype", None)
    if isinstance(dtype, np.dtype):  # also arrays that are still in a file
        return dtype.kind in _STORED
    try:
        return np.asarray(value).dtype.kind in _STORED
    except (TypeError, ValueError, RuntimeError):
        return False


def _described(value: Any) -> str:
    kind = type(value).__name__
    return f"{kind} of {value.dtype}" if isinstance(value, np.ndarray) else kind
