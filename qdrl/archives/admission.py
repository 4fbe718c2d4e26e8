"""Who is let into a novelty archive: three published rules, each the same on every rank."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from qdrl.archives.novelty import distances_between, mean_of, nearest_distances
from qdrl.streams import Streams


class Rule(Protocol):
    """Decides which rows of a batch enter. A batch is a generation."""

    def admitted(self, descriptor: np.ndarray, valid: np.ndarray, entries: np.ndarray, k: int) -> np.ndarray:
        """Which rows enter; changes nothing, so that a batch that could not be completed may come again.

        Args:
            descriptor: `(rows, d)`, finite where valid.
            valid: `(rows,)` bool; no other row enters.
            entries: `(n, d)` descriptors of the archive's entries.
            k: the archive's number of neighbours.

        Returns:
            `(rows,)` bool.
        """
        ...

    def count(self, entered: int) -> None:
        """Take note that a batch is over, in which so many rows entered."""
        ...

    def state_dict(self) -> dict[str, Any]:
        """What it remembers from batch to batch: numbers by name."""
        ...

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Put back what `state_dict` gave."""
        ...


class All:
    """Every row enters, as in NS-ES (Conti et al. 2018), where a batch is the updated agent. See `Rule`."""

    def admitted(self, descriptor: np.ndarray, valid: np.ndarray, entries: np.ndarray, k: int) -> np.ndarray:  # noqa: ARG002
        return valid.copy()

    def count(self, entered: int) -> None:
        pass

    def state_dict(self) -> dict[str, Any]:
        return {}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        pass


class Probability:
    """Each row enters with the same chance, as in the novelty search of Such et al. 2017. See `Rule`.

    A row's number is drawn from (run seed, batch, row), whatever else is in its batch.

    Args:
        probability: the chance, in (0, 1].
        streams: the run's random numbers.
    """

    def __init__(self, probability: float, streams: Streams) -> None:
        if not 0 < probability <= 1:
            raise ValueError(f"probability must be above 0 and at most 1, got {probability}")
        self.probability = probability
        self._streams = streams
        self._batch = 0

    def admitted(self, descriptor: np.ndarray, valid: np.ndarray, entries: np.ndarray, k: int) -> np.ndarray:  # noqa: ARG002
        # The n-th number of the batch's stream is row n's. A stream a row costs 35 us each, on every rank.
        drawn = self._streams.generator("admission", self._batch).random(len(valid))
        return valid & (drawn < self.probability)

    def count(self, entered: int) -> None:  # noqa: ARG002
        self._batch += 1

    def state_dict(self) -> dict[str, Any]:
        return {"batch": self._batch}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self._batch = int(state["batch"])


@dataclass(frozen=True)
class Adaptation:
    """How a threshold follows what enters (Lehman and Stanley 2011, and their published code).

    Attributes:
        raise_above: more rows than this in a batch raise the threshold.
        raise_factor: by this factor.
        lower_after: so many batches in a row without any entry lower it; 10 of 250 are the paper's 2,500 evaluations.
        lower_factor: by this factor.
        floor: it is never lowered below this; their code has 0.25, in the units of its maze.
    """

    raise_above: int = 4
    raise_factor: float = 1.2
    lower_after: int = 10
    lower_factor: float = 0.95
    floor: float = 0.0


class Threshold:
    """A row enters when its novelty exceeds a threshold (Lehman and Stanley 2011). See `Rule`.

    Novelty is measured against the archive's entries and the rows of the batch that were let in before, in row order;
    the first row of all has none to be like and enters.

    Args:
        threshold: in the axes' units, the first one where it adapts.
        neighbours: how many count here; the archive's k when left out, as in the paper. Their code takes 1.
        adaptation: how it adapts; not at all when None.
    """

    def __init__(
        self, threshold: float, *, neighbours: int | None = None, adaptation: Adaptation | None = None
    ) -> None:
        self.threshold = threshold
        self._neighbours = neighbours
        self._adaptation = adaptation
        self._without = 0  # batches in a row in which no row entered

    def admitted(self, descriptor: np.ndarray, valid: np.ndarray, entries: np.ndarray, k: int) -> np.ndarray:
        k = k if self._neighbours is None else self._neighbours
        rows = np.flatnonzero(valid)
        nearest = nearest_distances(descriptor[rows], entries, k)
        let_in: list[int] = []
        for row, known in zip(rows.tolist(), nearest, strict=True):
            mates = distances_between(descriptor[row], descriptor[let_in])
            distances = np.sort(np.concatenate([known, mates]))[None, :k]
            if mean_of(distances, distances.shape[1])[0] > self.threshold:
                let_in.append(row)
        admitted = np.zeros(len(valid), bool)
        admitted[let_in] = True
        return admitted

    def count(self, entered: int) -> None:
        self._without = 0 if entered else self._without + 1
        if (adaptation := self._adaptation) is None:
            return
        if entered > adaptation.raise_above:
            self.threshold *= adaptation.raise_factor
        if self._without >= adaptation.lower_after:
            self.threshold = max(self.threshold * adaptation.lower_factor, min(self.threshold, adaptation.floor))
            self._without = 0

    def state_dict(self) -> dict[str, Any]:
        return {"threshold": self.threshold, "without": self._without}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.threshold, self._without = float(state["threshold"]), int(state["without"])
