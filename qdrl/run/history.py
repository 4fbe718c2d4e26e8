"""The history of a run: one value a generation of each metric, and what earlier jobs left to this one."""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from numbers import Real
from typing import Any

import numpy as np

from qdrl.errors import UserError

_INTEGER_LIMIT = 2**63  # HDF5 stores smaller integers


class History:
    """Columns of equal length; a metric that is missing in a generation is NaN there.

    Args:
        columns: the metrics of the generations before, each `(generations,)`.
    """

    def __init__(self, columns: Mapping[str, np.ndarray] | None = None) -> None:
        self.columns: dict[str, list[float]] = {name: values.tolist() for name, values in (columns or {}).items()}

    def __len__(self) -> int:
        """Return the number of generations."""
        return len(next(iter(self.columns.values()), ()))

    def append(self, row: Mapping[str, float]) -> bool:
        """Add a generation and return whether it has a metric that no earlier generation had."""
        before, has_new = len(self), False
        for name in row:
            if name not in self.columns:
                self.columns[name], has_new = [np.nan] * before, True
        for name, values in self.columns.items():
            values.append(row.get(name, np.nan))
        return has_new

    def latest(self, name: str, default: float = 0) -> float:
        """Return a metric's value in the last generation."""
        values = self.columns.get(name)
        return values[-1] if values else default

    def last_row(self) -> list[float]:
        """Return the last generation's values, one a column."""
        return [values[-1] for values in self.columns.values()]

    def arrays(self) -> dict[str, np.ndarray]:
        """Return the columns as `StoredArchive.history` keeps them."""
        return {name: np.array(values) for name, values in self.columns.items()}


@dataclass(frozen=True)
class Past:
    """The run before this job; by default a run that begins now.

    Attributes:
        history: the metrics so far; the job appends to it.
        created_utc: when the run began.
        inexact_from: generations from which the run continued without a checkpoint.
        code_changed_from: generations from which the user's own code differed.
        earlier: packages and commits of earlier jobs of the run, see `/meta/command` in archives/README.md.
        test_fitness: the champion's fitness in the held-out test at the run's end; None if there was none.
        is_saved: whether the files hold the run as it is before the first generation of this job.
    """

    history: History = field(default_factory=History)
    created_utc: str = field(default_factory=lambda: datetime.now(UTC).isoformat(timespec="seconds"))
    inexact_from: tuple[int, ...] = ()
    code_changed_from: tuple[int, ...] = ()
    earlier: tuple[dict[str, Any], ...] = ()
    test_fitness: np.ndarray | None = None
    is_saved: bool = False


def checked_counts(counts: Mapping[str, Any], taken: Mapping[str, Any], algorithm: str) -> dict[str, float]:
    """Return what an algorithm's `tell` reported, as numbers.

    Args:
        counts: metrics by name.
        taken: names that the run records itself.
        algorithm: the algorithm's name, for messages.

    Raises:
        UserError: a name or a value that files cannot hold.
    """
    return {_checked_name(name, taken, algorithm): _number(value, name, algorithm) for name, value in counts.items()}


def _checked_name(name: Any, taken: Mapping[str, Any], algorithm: str) -> str:
    if not isinstance(name, str) or not re.fullmatch(r"[^/\x00-\x1f]+", name) or name.strip(" .") == "":
        raise UserError(
            f"algorithm '{algorithm}': tell reported a metric named {name!r}; a name must be a string that is not empty"
            " and has no '/', for example 'critic_loss'"
        )
    if name in taken:
        raise UserError(f"algorithm '{algorithm}': tell reported the metric '{name}', which the run records; rename it")
    return name


def _number(value: Any, name: str, algorithm: str) -> float:
    """Return a number of any library as Python's int or float."""
    plain = value.item() if getattr(value, "shape", None) == () and hasattr(value, "item") else value
    if isinstance(plain, int) and abs(plain) < _INTEGER_LIMIT:
        return int(plain)
    if not isinstance(plain, Real):
        raise UserError(
            f"algorithm '{algorithm}': tell reported {value!r} for the metric '{name}'; a metric must be a number"
        )
    return float(plain)
