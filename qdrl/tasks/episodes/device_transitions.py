"""Transitions of episodes on a device, as training data of critics; they stay on the device."""

from dataclasses import replace
from itertools import pairwise

import numpy as np
import torch
from torch import Tensor

from qdrl.evaluation import Transitions
from qdrl.tasks.episodes.transitions import step_columns


class Record:
    """Buffers of every control step of a batch of worlds, steps after the ends of episodes included.

    Args:
        length: Maximum number of control steps of an episode.
        worlds: Number of worlds.
        observation: Length of an observation.
        action: Length of an action.
        device: Device of the buffers.

    Attributes:
        observations: `(length + 1, worlds, observation)` float32.
        actions: `(length, worlds, action)` float32.
        rewards: `(length, worlds)` float32.
    """

    def __init__(self, length: int, worlds: int, observation: int, action: int, device: torch.device) -> None:
        self.observations = torch.empty(length + 1, worlds, observation, device=device)
        self.actions = torch.empty(length, worlds, action, device=device)
        self.rewards = torch.empty(length, worlds, device=device)


class DeviceLog:
    """Transitions of a batch of rows, copied from the record after each block of rows."""

    def __init__(self) -> None:
        self._parts: list[Transitions] = []
        self._rows = 0

    def add(self, record: Record, steps: Tensor, terminated: Tensor) -> None:
        """Append the episodes of the next rows, which ran in the first `rows` worlds.

        Args:
            record: Control steps of the worlds.
            steps: `(rows,)` int64, number of control steps of each episode.
            terminated: `(rows,)` bool, whether the task ended the episode.
        """
        rows = torch.nonzero(steps)[:, 0]
        row, index, last = step_columns(rows, steps[rows])
        ages = torch.arange(len(record.observations), device=steps.device)
        seen_row, seen_age = torch.nonzero((ages <= steps[:, None]) & (steps[:, None] > 0), as_tuple=True)
        taken_row, taken_age = torch.nonzero(ages[:-1] < steps[:, None], as_tuple=True)
        ends = last & terminated[row]
        self._parts.append(
            Transitions(
                row=row + self._rows,
                observations=record.observations[seen_age, seen_row],
                index=index,
                action=record.actions[taken_age, taken_row],
                reward=record.rewards[taken_age, taken_row],
                terminated=ends,
                truncated=last & ~ends,
            )
        )
        self._rows += len(steps)

    def transitions(self, first_row: int, failed: np.ndarray) -> Transitions:
        """Return the transitions of all rows that did not fail; see `TransitionLog.transitions`."""
        joined = Transitions.join(self._parts)
        if failed.any():
            edges = [-1, *np.flatnonzero(failed).tolist(), len(failed)]
            joined = Transitions.join([joined.within(range(start + 1, end)) for start, end in pairwise(edges)])
        return replace(joined, row=joined.row + first_row)
