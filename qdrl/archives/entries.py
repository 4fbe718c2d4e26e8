"""The stored entries of a novelty archive: columns that grow, or drop the oldest entries at a capacity."""

from collections.abc import Mapping

import torch
from torch import Tensor

from qdrl.archives.base import FIELDS, Numbers, width_of
from qdrl.archives.batches import allocate, cells_of, copy_rows

_INITIAL_ROWS = 64  # doubled whenever they are full


class Entries:
    """Columns of entries, numbered from 0 in order of entry.

    Args:
        parameters: length of a genome.
        dimensions: number of descriptor axes.
        capacity: maximum number of stored entries; None without a limit.
        dtype: of genomes.
        device: of all columns.

    Attributes:
        added: number of entries added so far, dropped ones included.
        stored: number of entries stored at present.
        columns: the columns by name; entry i is stored in row `i % rows`.
    """

    def __init__(
        self, parameters: int, dimensions: int, capacity: int | None, dtype: torch.dtype, device: torch.device
    ) -> None:
        self._parameters, self._dimensions = parameters, dimensions
        self._capacity, self._device = capacity, device
        self.added = self.stored = 0
        self.columns = self._allocate(min(_INITIAL_ROWS, capacity or _INITIAL_ROWS), dtype)

    @property
    def numbers(self) -> Tensor:
        """Numbers of the stored entries, `(stored,)` int64, ascending."""
        return torch.arange(self.added - self.stored, self.added, device=self._device)

    def column(self, name: str) -> Tensor:
        """Return a column in order of entry, `(stored, ...)`; a view where no entry was dropped."""
        if self.stored == self.added:
            return self.columns[name][: self.stored]
        return self.columns[name].index_select(0, self._rows(self.numbers))

    def reserve(self, count: int) -> Tensor:
        """Add `count` entries and return the rows to be filled, `(count,)` int64."""
        self._grow(count)
        rows = self._rows(self.added + torch.arange(count, device=self._device))
        self.added += count
        self.stored = min(self.stored + count, self._size)
        return rows

    def rows_of(self, numbers: Numbers) -> Tensor:
        """Return the rows of stored entries, `(count,)` integers -> `(count,)` int64.

        Raises:
            ValueError: a number is not that of a stored entry.
        """
        numbers = cells_of(numbers, self._device)
        wrong = (numbers < self.added - self.stored) | (numbers >= self.added)
        if bool(wrong.any()):
            stored = f"{self.added - self.stored} to {self.added - 1}" if self.stored else "none"
            raise ValueError(f"entry {int(numbers[wrong][0])} is not stored; stored entries: {stored}")
        return self._rows(numbers)

    def replace(self, first: int, columns: Mapping[str, Tensor]) -> None:
        """Replace all entries by others, numbered from `first`; each column has one value an entry."""
        count = len(columns["fitness"])
        self.stored = self.added = 0
        self._grow(count)
        self.added = first + count if count else 0
        self.stored = count
        for name, column in columns.items():
            self.columns[name].index_copy_(0, self._rows(self.numbers), column)

    @property
    def _size(self) -> int:
        return len(self.columns["fitness"])

    def _rows(self, numbers: Tensor) -> Tensor:
        return numbers % self._size

    def _allocate(self, rows: int, dtype: torch.dtype) -> dict[str, Tensor]:
        """Return uninitialised columns; rows without an entry are never read."""
        fields = {
            name: torch.empty(rows, *width_of(name, self._dimensions), dtype=kind, device=self._device)
            for name, (kind, _) in FIELDS.items()
        }
        return {
            "fitness": torch.empty(rows, dtype=torch.float64, device=self._device),
            "descriptor": torch.empty(rows, self._dimensions, dtype=torch.float64, device=self._device),
            "genome": allocate(rows, self._parameters, dtype, self._device),
            **fields,
        }

    def _grow(self, count: int) -> None:
        """Make room for `count` more entries, up to the capacity, by at least doubling the rows."""
        needed = self.stored + count
        rows = min(max(needed, 2 * self._size), self._capacity or 2**62)
        if needed <= self._size or rows == self._size:
            return
        larger, numbers = self._allocate(rows, self.columns["genome"].dtype), self.numbers
        for name, column in self.columns.items():
            copy_rows(column, self._rows(numbers), larger[name], numbers % rows)
        self.columns = larger
