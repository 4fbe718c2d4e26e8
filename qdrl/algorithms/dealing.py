"""Distribution of a generation's rows over emitters."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Plan:
    """Emitters, elites and target descriptors of some rows of a generation.

    Attributes:
        emitter: `(rows,)` index into `emitters`.
        cell: `(rows,)` cell of the elite that is the parent (`gradient`) or gives the target (`actor`, `probe`), -1 for
            none.
        target: `(rows, d)` target descriptor, in the task's units; NaN for none.
    """

    emitter: np.ndarray
    cell: np.ndarray
    target: np.ndarray


def deal(counts: Mapping[str, int], emitters: Sequence[str]) -> np.ndarray:
    """Return the emitter of each row; each emitter's rows are spread evenly over the batch.

    Args:
        counts: number of rows of each emitter.
        emitters: emitter names; the result indexes this sequence.

    Returns:
        `(sum of counts,)` int64 index into `emitters` of each row.
    """
    total = sum(counts.values())
    places = [((turn + 0.5) * total / count, name) for name, count in counts.items() for turn in range(count)]
    return np.array([emitters.index(name) for _, name in sorted(places)], np.int64)
