"""Which emitter proposes which row of a generation."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Plan:
    """What some rows of a generation are.

    Attributes:
        emitter: `(rows,)` index into `emitters`.
        cell: `(rows,)` cell of the elite that a gradient starts from or that an actor aims at, -1 for none.
        target: `(rows, d)` descriptor aimed at, in the task's units; NaN for none.
    """

    emitter: np.ndarray
    cell: np.ndarray
    target: np.ndarray


def deal(counts: Mapping[str, int], emitters: Sequence[str]) -> np.ndarray:
    """Deal rows out in turns, as evenly along the batch as whole rows allow.

    Args:
        counts: rows of each emitter.
        emitters: names in the order of their indices.

    Returns:
        `(sum of counts,)` int64 index into `emitters` of each row.
    """
    total = sum(counts.values())
    places = [((turn + 0.5) * total / count, name) for name, count in counts.items() for turn in range(count)]
    return np.array([emitters.index(name) for _, name in sorted(places)], np.int64)
