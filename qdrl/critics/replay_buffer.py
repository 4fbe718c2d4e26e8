"""What the critics learn from: the newest transitions, first in, first out."""

from collections.abc import Mapping
from dataclasses import dataclass, fields
from itertools import accumulate, pairwise
from typing import Any

import numpy as np
import torch
from torch import Tensor

from qdrl.compute.arrays import load_array
from qdrl.compute.devices import free_memory
from qdrl.compute.random import integers
from qdrl.errors import UserError


@dataclass(frozen=True)
class LabelledTransitions:
    """Steps of episodes, side by side. Flags are float32 of 0 or 1 where a replay gives them.

    Attributes:
        observation: `(..., observation)` as policies see it.
        action: `(..., action)` taken, in [-1, 1].
        reward: `(...,)`.
        next_observation: `(..., observation)`.
        terminated: `(...,)` the episode ended there, and nothing comes after.
        truncated: `(...,)` the episode was cut there, though it could have gone on.
        descriptor: `(..., d)` normalised, of the whole episode; of no dimensions where critics are unconditioned.
        target_descriptor: `(..., d)` normalised, which the policy aimed at; `descriptor` itself where it aimed at none.
    """

    observation: Tensor
    action: Tensor
    reward: Tensor
    next_observation: Tensor
    terminated: Tensor
    truncated: Tensor
    descriptor: Tensor
    target_descriptor: Tensor


COLUMNS = tuple(field.name for field in fields(LabelledTransitions))


class ReplayBuffer:
    """The last `capacity` transitions, in memory taken once: on a GPU when the first come.

    A transition is one row of one table, so that sampling it touches one place in memory.

    Args:
        capacity: transitions kept.
        observation_size: numbers in an observation.
        action_size: numbers in an action.
        dimensions: numbers in a descriptor; 0 for unconditioned critics.
        device: where they live.

    Raises:
        UserError: a GPU has no room for them.
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
            raise ValueError(f"capacity of a replay must be at least 1, got {capacity}")
        self.capacity, self.dimensions = capacity, dimensions
        widths = dict.fromkeys(COLUMNS, 1) | {"observation": observation_size, "next_observation": observation_size}
        widths |= {"action": action_size, "descriptor": dimensions, "target_descriptor": dimensions}
        ends = accumulate((widths[name] for name in COLUMNS), initial=0)
        self._columns = dict(zip(COLUMNS, pairwise(ends), strict=True))
        self._width, self._device = sum(widths.values()), torch.device(device)
        self._taken: Tensor | None = None
        if self._device.type == "cpu":
            # numpy's zeros take no memory until they are written: many ranks never fill a replay.
            self._taken = torch.from_numpy(np.zeros((capacity, self._width), np.float32))
        elif self._device.type == "cuda":
            _check_memory(capacity, 4 * self._width, self._device)
        self._size = self._next = 0

    def __len__(self) -> int:
        return self._size

    def add(self, transitions: LabelledTransitions) -> None:
        """Keep `(n, ...)` transitions, in their order, in place of the oldest; more than fit leave the newest.

        Raises:
            ValueError: a shape does not fit, a number is not finite, or, with descriptors, a reward is negative: the
                further from its target an episode ends, the less its rewards count, which must never be a gain.
                Nothing is then kept.
        """
        rows = self._checked(transitions)
        kept = min(rows, self.capacity)
        start = (self._next + rows - kept) % self.capacity
        first = min(kept, self.capacity - start)
        source = rows - kept
        for name in COLUMNS:
            values = getattr(transitions, name)[source:].reshape(kept, self._width_of(name))
            column = self._column(name)
            column[start : start + first] = values[:first]
            column[: kept - first] = values[first:]
        self._next = (self._next + rows) % self.capacity
        self._size = min(self._size + rows, self.capacity)

    def draw(self, generator: np.random.Generator, shape: tuple[int, ...]) -> Tensor:
        """Which transitions to take, uniformly with replacement: int64 ages of the given shape, 0 for the oldest.

        Args:
            generator: the only source of chance.
            shape: the last number is a minibatch's size, as in `(steps, batch)`.

        Raises:
            RuntimeError: there are fewer transitions than a minibatch takes.
        """
        if self._size < shape[-1]:
            raise RuntimeError(
                f"the replay holds {self._size} transitions, a minibatch takes {shape[-1]}: add episodes first"
            )
        return integers(generator, self._size, shape, self._device)

    def take(self, ages: Tensor) -> LabelledTransitions:
        """The transitions of these ages, each field `(*ages.shape, ...)`."""
        oldest = self._next if self._size == self.capacity else 0
        rows = self._table.index_select(0, (ages.reshape(-1) + oldest) % self.capacity)
        return self._cut(rows.view(*ages.shape, rows.shape[1]))

    def sample(self, generator: np.random.Generator, shape: tuple[int, ...]) -> LabelledTransitions:
        """Transitions of a whole training phase at once: `take` of `draw`."""
        return self.take(self.draw(generator, shape))

    def state_dict(self) -> dict[str, Any]:
        """Arrays `(n, ...)` by name, oldest transition first."""
        oldest, rows = self._next if self._size == self.capacity else 0, self._table[: self._size].cpu()
        held = self._cut(torch.cat([rows[oldest:], rows[:oldest]]))
        return {name: getattr(held, name).numpy().copy() for name in COLUMNS}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Put back what `state_dict` gave, in place of whatever is held.

        Raises:
            ValueError: the arrays are those of a replay of another shape, or more than this one's capacity.
        """
        self.check_state(state)
        count = len(state["reward"])
        views = self._cut(self._table[:count])
        for name in COLUMNS:
            load_array(getattr(views, name), state[name], f"the replay's {name}")
        self._size, self._next = count, count % self.capacity

    def check_state(self, state: Mapping[str, Any]) -> None:
        """Refuse what `load_state_dict` would refuse, without reading arrays that are still in a file.

        Raises:
            ValueError: the arrays are those of a replay of another shape, or more than this one's capacity.
        """
        if (count := len(state["reward"])) > self.capacity:
            raise ValueError(f"the stored replay holds {count} transitions, this one at most {self.capacity}")
        views = self._cut(torch.empty(count, self._width, device="meta"))
        for name in COLUMNS:
            stored, expected = tuple(np.shape(state[name])), tuple(getattr(views, name).shape)
            if stored != expected:
                raise ValueError(f"the replay's {name} is stored as {stored}, expected {expected}")

    @property
    def _table(self) -> Tensor:
        """`(capacity, width)`."""
        if self._taken is None:
            self._taken = torch.zeros(self.capacity, self._width, device=self._device)
        return self._taken

    def _checked(self, transitions: LabelledTransitions) -> int:
        rows = len(transitions.reward)
        for name in COLUMNS:
            values, width = getattr(transitions, name), self._width_of(name)
            expected = (rows,) if self._is_number(name) else (rows, width)
            if tuple(values.shape) != expected:
                raise ValueError(f"transitions.{name} has shape {tuple(values.shape)}, expected {expected}")
            if not torch.isfinite(values).all():
                raise ValueError(f"transitions.{name} is not finite: leave failed episodes out of the replay")
        if self.dimensions and rows and transitions.reward.min() < 0:
            raise ValueError(
                f"transitions.reward has {float(transitions.reward.min()):.4g}, but critics with descriptors need "
                "rewards >= 0: add the task's offset and cut what is left at zero"
            )
        return rows

    def _cut(self, rows: Tensor) -> LabelledTransitions:
        """Views of rows of the table `(..., width)` as fields."""
        parts = {name: rows[..., slice(*self._columns[name])] for name in COLUMNS}
        return LabelledTransitions(
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


def _check_memory(capacity: int, bytes_each: int, device: torch.device) -> None:
    free = free_memory(device)
    if capacity * bytes_each > free:
        raise UserError(
            f"algorithm.replay_capacity: {capacity} transitions take {capacity * bytes_each / 1e9:.3g} GB of {device},"
            f" of which {free / 1e9:.3g} GB are free for this rank: at most {free // bytes_each}"
        )
