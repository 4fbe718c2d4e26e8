"""Checks of values that were read from a file; each returns its problems as text."""

from typing import Any

import numpy as np

_ROWS = 256  # read at once

KINDS = {"integers": "iu", "floats": "f", "numbers": "iuf", "uint32": "u", "float32": "f"}
_EXACT = {"uint32": np.dtype("u4"), "float32": np.dtype("f4")}


def is_value(value: Any, kind: str) -> bool:
    """Return whether a value is a "string", "number" or "integer", or, in the plural, an array of these."""
    if kind == "string":
        return isinstance(value, str) and _is_text(value)
    if kind == "strings":
        entries = value.tolist() if isinstance(value, np.ndarray) and value.ndim == 1 else [None]
        return all(isinstance(entry, str) and _is_text(entry) for entry in entries)
    plural = kind.endswith("s")
    array = np.asarray(value)
    return array.ndim == int(plural) and array.dtype.kind in ("iu" if kind.startswith("integer") else "iuf")


def dtype_problems(dataset: Any, place: str, kind: str) -> list[str]:
    """Return a problem if a dataset's dtype is not of a kind of `KINDS`."""
    fits = dataset.dtype.kind in KINDS[kind] and _EXACT.get(kind, dataset.dtype) == dataset.dtype
    return [] if fits else [f"{place}: dtype {dataset.dtype}, expected {kind}"]


def array_problems(dataset: Any, place: str, kind: str, shape: tuple[int, ...]) -> list[str]:
    """Return the problems of a dataset that must have a kind and a shape and pass its checksums."""
    problems = [] if dataset.shape == shape else [f"{place}: shape {dataset.shape}, expected {shape}"]
    return problems + dtype_problems(dataset, place, kind) or unreadable(dataset, place)


def unreadable(dataset: Any, place: str) -> list[str]:
    """Return a problem if a dataset fails its checksums."""
    try:
        if dataset.ndim == 0:
            dataset[()]
        for start in range(0, len(dataset) if dataset.ndim else 0, _ROWS):
            dataset[start : start + _ROWS]
    except (OSError, RuntimeError) as error:
        return [f"{place}: damaged: {' '.join(str(error).split())}; restore the file from a copy"]
    return []


def not_finite(dataset: Any, place: str) -> list[str]:
    """Return a problem with the first rows in which a dataset of floats is not finite."""
    rows = []
    for start in range(0, len(dataset), _ROWS):
        finite = np.isfinite(dataset[start : start + _ROWS])
        rows += (start + np.flatnonzero(~finite.all(axis=tuple(range(1, finite.ndim))))).tolist()
    return [f"{place}: not finite in rows {rows[:5]}"] if rows else []


def below(dataset: Any, place: str, least: int) -> list[str]:
    """Return a problem with the first rows in which a dataset of numbers is below a bound; NaN is not."""
    rows = np.flatnonzero(dataset[:] < least).tolist()
    return [f"{place}: below {least} in rows {rows[:5]}"] if rows else []


def _is_text(text: str) -> bool:
    """Return whether a string that h5py decoded is UTF-8; h5py decodes other bytes to lone surrogates."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True
