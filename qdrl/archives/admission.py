"""Rules of admission to a novelty archive: three published ones. Every rank admits the same rows.

- Lehman and Stanley 2011, "Abandoning objectives", doi:10.1162/EVCO_a_00025: `Threshold`.
- Such et al. 2017, "Deep neuroevolution", arXiv:1712.06567: `Probability`.
- Conti et al. 2018, "Improving exploration in evolution strategies", arXiv:1712.06560: `All`.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from qdrl.archives.novelty import distances_between, mean_of, nearest_distances
from qdrl.streams import Purpose, Streams


class Rule(Protocol):
    """Decides which rows of a batch are admitted. A batch is a generation."""

    def admitted(self, descriptor: np.ndarray, valid: np.ndarray, entries: np.ndarray, k: int) -> np.ndarray:
        """Return which rows are admitted, without changing the rule: a batch that failed may be offered again.

        Args:
            descriptor: `(rows, d)`, finite where valid.
            valid: `(rows,)` bool; no other row is admitted.
            entries: `(n, d)` descriptors of the archive's entries.
            k: the archive's number of neighbours.

        Returns:
            `(rows,)` bool.
        """
        ...

    def count(self, entered: int) -> None:
        """Update the rule after a batch of which `entered` rows were admitted."""
        ...

    def state_dict(self) -> dict[str, Any]:
        """Return the rule's state between batches, numbers by name."""
        ...

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore a state that `state_dict` returned."""
        ...


class All:
    """Admits every valid row, as NS-ES does, where a batch is the updated agent. See `Rule`."""

    def admitted(self, descriptor: np.ndarray, valid: np.ndarray, entries: np.ndarray, k: int) -> np.ndarray:  # noqa: ARG002
        """Return `valid`."""
        return valid.copy()

    def count(self, entered: int) -> None:
        """Do nothing: the rule has no state."""

    def state_dict(self) -> dict[str, Any]:
        """Return no state."""
        return {}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Do nothing: the rule has no state."""


class Probability:
    """Admits each valid row with the same probability, as GA-NS does. See `Rule`.

    A row's random number depends on the run's seed, the batch's number and the row, not on the other rows.

    Args:
        probability: in (0, 1].
        streams: the run's random streams.
    """

    def __init__(self, probability: float, streams: Streams) -> None:
        if not 0 < probability <= 1:
            raise ValueError(f"probability must be above 0 and at most 1, got {probability}")
        self.probability = probability
        self._streams = streams
        self._batch = 0

    def admitted(self, descriptor: np.ndarray, valid: np.ndarray, entries: np.ndarray, k: int) -> np.ndarray:  # noqa: ARG002
        """Return the valid rows whose random number is below the probability."""
        # The n-th number of the batch's stream is row n's. A stream a row costs 35 us each, on every rank.
        drawn = self._streams.generator(Purpose.ADMISSION, self._batch).random(len(valid))
        return valid & (drawn < self.probability)

    def count(self, entered: int) -> None:  # noqa: ARG002
        """Count the batch, which selects the next random numbers."""
        self._batch += 1

    def state_dict(self) -> dict[str, Any]:
        """Return the number of batches so far."""
        return {"batch": self._batch}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore the number of batches."""
        self._batch = int(state["batch"])


@dataclass(frozen=True)
class Adaptation:
    """Adaptation of a threshold to the number of admitted rows, as in the paper and its published code.

    Attributes:
        raise_above: number of rows admitted in one batch above which the threshold is raised.
        raise_factor: factor by which it is raised.
        lower_after: number of successive batches without an admitted row after which the threshold is lowered; 10
            batches of 250 are the paper's 2,500 evaluations.
        lower_factor: factor by which it is lowered.
        floor: value below which it is never lowered; the published code has 0.25, in the units of its maze.
    """

    raise_above: int = 4
    raise_factor: float = 1.2
    lower_after: int = 10
    lower_factor: float = 0.95
    floor: float = 0.0


class Threshold:
    """Admits the rows whose novelty exceeds a threshold. See `Rule`.

    Novelty is measured against the archive's entries and the rows of the batch admitted so far, in row order. The very
    first row has no neighbour and is admitted.

    Args:
        threshold: in the axes' units; the initial one where it is adapted.
        neighbours: number of nearest neighbours that count; the archive's k when left out, as in the paper. The
            published code uses 1.
        adaptation: of the threshold; a constant threshold when left out.
    """

    def __init__(
        self, threshold: float, *, neighbours: int | None = None, adaptation: Adaptation | None = None
    ) -> None:
        self.threshold = threshold
        self._neighbours = neighbours
        self._adaptation = adaptation
        self._empty_batches = 0  # successive batches without an admitted row

    def admitted(self, descriptor: np.ndarray, valid: np.ndarray, entries: np.ndarray, k: int) -> np.ndarray:
        """Return the valid rows whose novelty exceeds the threshold, in row order."""
        k = k if self._neighbours is None else self._neighbours
        rows = np.flatnonzero(valid)
        nearest = nearest_distances(descriptor[rows], entries, k)
        chosen: list[int] = []
        for row, known in zip(rows.tolist(), nearest, strict=True):
            mates = distances_between(descriptor[row], descriptor[chosen])
            distances = np.sort(np.concatenate([known, mates]))[None, :k]
            if mean_of(distances, distances.shape[1])[0] > self.threshold:
                chosen.append(row)
        admitted = np.zeros(len(valid), bool)
        admitted[chosen] = True
        return admitted

    def count(self, entered: int) -> None:
        """Adapt the threshold to the number of admitted rows."""
        self._empty_batches = 0 if entered else self._empty_batches + 1
        if (adaptation := self._adaptation) is None:
            return
        if entered > adaptation.raise_above:
            self.threshold *= adaptation.raise_factor
        if self._empty_batches >= adaptation.lower_after:
            self.threshold = max(self.threshold * adaptation.lower_factor, min(self.threshold, adaptation.floor))
            self._empty_batches = 0

    def state_dict(self) -> dict[str, Any]:
        """Return the threshold and the number of successive batches without an admitted row."""
        return {"threshold": self.threshold, "without": self._empty_batches}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore the threshold and the number of batches without an admitted row."""
        self.threshold, self._empty_batches = float(state["threshold"]), int(state["without"])
