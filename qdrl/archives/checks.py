"""Small checks of values that were read from a file, each returning problems as text."""

from typing import Any

import numpy as np

_ROWS = 256  # read at once

KINDS = {"integers": "iu", "floats": "f", "numbers": "iuf", "uint32": "u", "float32": "f"}
_EXACT = {"uint32": np.dtype("u4"), "float32": np.dtype("f4")}


def is_value(value: Any, kind: str) -> bool:
    """Whether an attribute's value is of a kind: "string", "strings", "number", "numbers", "integer" or "integers"."""
    if kind == "string":
        return isinstance(value, str) and _is_text(value)
    if kind == "strings":
        entries = value.tolist() if isinstance(value, np.ndarray) and value.ndim == 1 else [None]
        return all(isinstance(entry, str) and _is_text(entry) for entry in entries)
    plural = kind.endswith("s")
    array = np.asarray(value)
    return array.ndim == int(plural) and array.dtype.kind in ("iu" if kind.startswith("integer") else "iuf")


def dtype_problems(dataset: Any, place: str, kind: str) -> list[str]:
    """Say where a dataset's numbers are not of a kind of `KINDS`."""
    fits = dataset.dtype.kind in KINDS[kind] and _EXACT.get(kind, dataset.dtype) == dataset.dtype
    return [] if fits else [f"{place}: dtype {dataset.dtype}, expected {kind}"]


def array_problems(dataset: Any, place: str, kind: str, shape: tuple[int, ...]) -> list[str]:
    """Say where a dataset is not of a kind and shape, or fails its checksums."""
    problems = [] if dataset.shape == shape else [f"{place}: shape {dataset.shape}, expected {shape}"]
    return problems + dtype_problems(dataset, place, kind) or unreadable(dataset, place)


def unreadable(dataset: Any, place: str) -> list[str]:
    """Say whether a dataset fails its checksums."""
    try:
        if dataset.ndim == 0:
            dataset[()]
        for start in range(0, len(dataset) if dataset.ndim else 0, _ROWS):
            dataset[start : start + _ROWS]
    except (OSError, RuntimeError) as error:
        return [f"{place}: damaged: {' '.join(str(error).split())}"]
    return []


def not_finite(dataset: Any, place: str) -> list[str]:
    """Say in which rows a dataset of floats is not finite."""
    rows = []
    for start in range(0, len(dataset), _ROWS):
        finite = np.isfinite(dataset[start : start + _ROWS])
        rows += (start + np.flatnonzero(~finite.all(axis=tuple(range(1, finite.ndim))))).tolist()
    return [f"{place}: not finite in rows {rows[:5]}"] if rows else []


def below(dataset: Any, place: str, least: int) -> list[str]:
    """Say in which rows a dataset of integers is below a bound."""
    rows = np.flatnonzero(dataset[:] < least).tolist()
    return [f"{place}: below {least} in rows {rows[:5]}"] if rows else []


def _is_text(text: str) -> bool:
    """Whether a string that h5py decoded was UTF-8; it keeps other bytes as lone surrogates."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True
