"""The replay buffer: the newest transitions, first in, first out."""

from collections.abc import Mapping
from dataclasses import dataclass, fields
from itertools import accumulate, pairwise
from typing import Any

import numpy as np
import torch
from torch import Tensor

from qdrl.compute.arrays import all_finite, load_array
from qdrl.compute.devices import free_memory
from qdrl.compute.random import integers
from qdrl.errors import UserError


class IndexedRows:
    """The rows `source[index]`, copied on access only; a tensor of these rows can be used in its place.

    Args:
        source: `(m, ...)`.
        index: `(n,)` int64, rows of `source`.
    """

    def __init__(self, source: Tensor, index: Tensor) -> None:
        self.source, self.index = source, index

    @property
    def shape(self) -> tuple[int, ...]:
        """Return the shape of the rows, `(n, ...)`."""
        return (len(self.index), *self.source.shape[1:])

    def __getitem__(self, rows: slice) -> Tensor:
        """Return a copy of some of the rows."""
        return self.source.index_select(0, self.index[rows])


@dataclass(frozen=True)
class LabelledTransitions:
    """Transitions with the descriptors of their episodes.

    Observations may be `IndexedRows` of observations that are stored once.

    Attributes:
        observation: `(..., observation)` as policies see it.
        action: `(..., action)` of the policy, in [-1, 1].
        reward: `(...,)`.
        next_observation: `(..., observation)`.
        terminated: `(...,)`, whether the task ended the episode with this step.
        truncated: `(...,)`, whether a time limit ended the episode with this step.
        descriptor: `(..., d)` of the whole episode, normalised; d is 0 for unconditioned critics.
        target_descriptor: `(..., d)` of the policy's target, normalised; `descriptor` where it had none.
    """

    observation: Tensor | IndexedRows
    action: Tensor
    reward: Tensor
    next_observation: Tensor | IndexedRows
    terminated: Tensor
    truncated: Tensor
    descriptor: Tensor
    target_descriptor: Tensor


@dataclass(frozen=True)
class SampledTransitions(LabelledTransitions):
    """Transitions from a replay buffer: all fields are float32 tensors, flags 0 or 1."""

    observation: Tensor
    next_observation: Tensor


COLUMNS = tuple(field.name for field in fields(LabelledTransitions))
_BLOCK_ROWS = 4096  # transitions written at a time: their observations fit into the cache


class ReplayBuffer:
    """The last `capacity` transitions. Memory is allocated once; on a GPU, when the first transitions come.

    A transition is one row of one table, with both of its observations. With observations in a table of their own, ant
    would need 37 % less memory and sampling 2.5 times as long (300,000 transitions of a million: 43 ms against 17 ms).
    The size would depend on the lengths of episodes, which are unknown when memory is checked before a run.

    Args:
        capacity: largest number of transitions.
        observation_size: numbers in an observation.
        action_size: numbers in an action.
        dimensions: numbers in a descriptor; 0 for unconditioned critics.
        device: where they are stored.

    Raises:
        UserError: they do not fit into the memory of a GPU.
    """

    def __init__(
        self,
        capacity: int,
        observation_size: int,
        action_size: int,
        dimensions: int = 0,
        device: str | torch.device = "cpu",
    ) -> None:
        if capacity < 1:
            raise ValueError(f"capacity of a replay buffer must be at least 1, got {capacity}")
        self.capacity, self.dimensions = capacity, dimensions
        widths = dict.fromkeys(COLUMNS, 1) | {"observation": observation_size, "next_observation": observation_size}
        widths |= {"action": action_size, "descriptor": dimensions, "target_descriptor": dimensions}
        ends = accumulate((widths[name] for name in COLUMNS), initial=0)
        self._columns = dict(zip(COLUMNS, pairwise(ends), strict=True))
        self._width, self._device = sum(widths.values()), torch.device(device)
        self._allocated: Tensor | None = None
        if self._device.type == "cpu":
            # numpy's zeros take no memory until they are written: only learners fill their buffers.
            self._allocated = torch.from_numpy(np.zeros((capacity, self._width), np.float32))
        elif self._device.type == "cuda":
            _check_memory(capacity, 4 * self._width, self._device)
        self._size = self._next = 0

    def __len__(self) -> int:
        return self._size

    def add(self, transitions: LabelledTransitions) -> None:
        """Add `(n, ...)` transitions in their order; they replace the oldest.

        Raises:
            ValueError: a shape is unexpected, a number is not finite, or, with descriptors, a reward is negative.
                Rewards are scaled down with the distance of an episode from its target, which must never be a gain.
                The buffer is then unchanged.
        """
        rows = self._checked(transitions)
        kept = min(rows, self.capacity)
        position = (self._next + rows - kept) % self.capacity
        for start in range(rows - kept, rows, _BLOCK_ROWS):
            stop = min(start + _BLOCK_ROWS, rows)
            self._write(transitions, slice(start, stop), position)
            position = (position + stop - start) % self.capacity
        self._next = position
        self._size = min(self._size + rows, self.capacity)

    def draw(self, generator: np.random.Generator, shape: tuple[int, ...]) -> Tensor:
        """Draw transitions uniformly with replacement; return their ages, int64, 0 for the oldest.

        Args:
            generator: the only source of randomness.
            shape: shape of the ages; the last number is the size of a minibatch, as in `(steps, batch)`.

        Raises:
            RuntimeError: the buffer holds fewer transitions than a minibatch.
        """
        if self._size < shape[-1]:
            raise RuntimeError(
                f"the replay buffer holds {self._size} transitions, a minibatch needs {shape[-1]}: add episodes first"
            )
        return integers(generator, self._size, shape, self._device)

    def gather(self, ages: Tensor) -> SampledTransitions:
        """Return the transitions of these ages, each field `(*ages.shape, ...)`."""
        oldest = self._next if self._size == self.capacity else 0
        rows = self._table.index_select(0, (ages.reshape(-1) + oldest) % self.capacity)
        return self._cut(rows.view(*ages.shape, rows.shape[1]))

    def sample(self, generator: np.random.Generator, shape: tuple[int, ...]) -> SampledTransitions:
        """Draw and return transitions: `gather` of `draw`."""
        return self.gather(self.draw(generator, shape))

    def state_dict(self) -> dict[str, Any]:
        """Return copies of all transitions, arrays `(n, ...)` by name, oldest first."""
        oldest, rows = self._next if self._size == self.capacity else 0, self._table[: self._size].cpu()
        stored = self._cut(torch.cat([rows[oldest:], rows[:oldest]]))
        return {name: getattr(stored, name).numpy().copy() for name in COLUMNS}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Replace all transitions by those of a state that `state_dict` returned.

        Raises:
            ValueError: see `check_state`.
        """
        self.check_state(state)
        count = len(state["reward"])
        views = self._cut(self._table[:count])
        for name in COLUMNS:
            load_array(getattr(views, name), state[name], f"the replay buffer's {name}")
        self._size, self._next = count, count % self.capacity

    def check_state(self, state: Mapping[str, Any]) -> None:
        """Check a state for `load_state_dict` without reading arrays that are still in a file.

        Raises:
            ValueError: a transition has another shape, or there are more transitions than the capacity.
        """
        if (count := len(state["reward"])) > self.capacity:
            raise ValueError(f"the stored replay buffer holds {count} transitions, this one at most {self.capacity}")
        views = self._cut(torch.empty(count, self._width, device="meta"))
        for name in COLUMNS:
            stored, expected = tuple(np.shape(state[name])), tuple(getattr(views, name).shape)
            if stored != expected:
                raise ValueError(f"the replay buffer's {name} is stored as {stored}, expected {expected}")

    @property
    def _table(self) -> Tensor:
        """Return the table, `(capacity, width)`, allocating it if necessary."""
        if self._allocated is None:
            self._allocated = torch.zeros(self.capacity, self._width, device=self._device)
        return self._allocated

    def _checked(self, transitions: LabelledTransitions) -> int:
        """Return the number of transitions after checking shapes and values."""
        rows = len(transitions.reward)
        for name in COLUMNS:
            values = getattr(transitions, name)
            expected = (rows,) if self._is_number(name) else (rows, self._width_of(name))
            if tuple(values.shape) != expected:
                raise ValueError(f"transitions.{name} has shape {tuple(values.shape)}, expected {expected}")
        for name in ("observation", "next_observation", "action", "reward", "descriptor", "target_descriptor"):
            if not _all_finite(getattr(transitions, name)):
                raise ValueError(f"transitions.{name} is not finite: leave failed episodes out of the replay buffer")
        if self.dimensions and rows and transitions.reward.min() < 0:
            raise ValueError(
                f"transitions.reward has {float(transitions.reward.min()):.4g}, but critics with descriptors need "
                "rewards >= 0: add the task's offset and clip the sum at zero"
            )
        return rows

    def _write(self, transitions: LabelledTransitions, rows: slice, position: int) -> None:
        """Write some transitions to the table from a position on; they may wrap around its end once."""
        count = rows.stop - rows.start
        first = min(count, self.capacity - position)
        for name in COLUMNS:
            values = getattr(transitions, name)[rows].reshape(count, self._width_of(name))
            column = self._column(name)
            column[position : position + first] = values[:first]
            column[: count - first] = values[first:]

    def _cut(self, rows: Tensor) -> SampledTransitions:
        """Return the fields of table rows `(..., width)` as views."""
        parts = {name: rows[..., slice(*self._columns[name])] for name in COLUMNS}
        return SampledTransitions(
            **{name: part[..., 0] if self._is_number(name) else part for name, part in parts.items()}
        )

    def _column(self, name: str) -> Tensor:
        return self._table[:, slice(*self._columns[name])]

    def _width_of(self, name: str) -> int:
        start, end = self._columns[name]
        return end - start

    @staticmethod
    def _is_number(name: str) -> bool:
        return name in ("reward", "terminated", "truncated")


def _all_finite(rows: Tensor | IndexedRows) -> bool:
    if isinstance(rows, IndexedRows):  # the source may hold observations of steps that were left out
        return all_finite(rows.source) or all_finite(rows[:])
    return all_finite(rows)


def _check_memory(capacity: int, bytes_each: int, device: torch.device) -> None:
    free = free_memory(device)
    if capacity * bytes_each > free:
        raise UserError(
            f"algorithm.replay_capacity: {capacity} transitions take {capacity * bytes_each / 1e9:.3g} GB of {device},"
            f" of which {free / 1e9:.3g} GB are free for this rank: at most {free // bytes_each}"
        )
