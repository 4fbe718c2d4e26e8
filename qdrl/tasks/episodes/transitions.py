"""Logs of every control step of a batch of episodes, for critics."""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from qdrl.evaluation import Transitions


class TransitionLog:
    """Records the control steps of each row's episode; memory beyond the end of an episode is never touched.

    Args:
        rows: number of episodes.
        episode_length: largest number of control steps of an episode.
        observation_size: numbers in an observation.
        action_size: numbers in an action.
    """

    def __init__(self, rows: int, episode_length: int, observation_size: int, action_size: int) -> None:
        self._observations = np.empty((rows, episode_length + 1, observation_size), np.float32)
        self._actions = np.empty((rows, episode_length, action_size), np.float32)
        self._rewards = np.empty((rows, episode_length), np.float32)
        self._steps = np.zeros(rows, np.int64)
        self._terminated = np.zeros(rows, bool)

    def add(
        self, rows: np.ndarray, ages: np.ndarray, observations: np.ndarray, actions: np.ndarray, rewards: np.ndarray
    ) -> None:
        """Record one control step of these rows, each at its own age."""
        self._observations[rows, ages] = observations
        self._actions[rows, ages] = actions
        self._rewards[rows, ages] = rewards

    def end(self, row: int, steps: int, observation: np.ndarray, *, terminated: bool) -> None:
        """Record the end of a row's episode.

        Args:
            row: the row.
            steps: control steps of the episode.
            observation: the observation after the last step.
            terminated: whether the task ended it, and not a limit of time.
        """
        self._observations[row, steps] = observation
        self._steps[row], self._terminated[row] = steps, terminated

    def transitions(self, first_row: int, failed: np.ndarray) -> Transitions:
        """Return the recorded transitions of all rows that did not fail.

        Args:
            first_row: row of the generation of row 0.
            failed: `(rows,)` bool.
        """
        rows = np.flatnonzero(~failed & (self._steps > 0))
        steps = self._steps[rows]
        row, index, last = step_columns(torch.from_numpy(rows), torch.from_numpy(steps))
        terminated = last & torch.from_numpy(self._terminated)[row]
        return Transitions(
            row=row + first_row,
            observations=_beginnings(self._observations, rows, steps + 1),
            index=index,
            action=_beginnings(self._actions, rows, steps),
            reward=_beginnings(self._rewards, rows, steps),
            terminated=terminated,
            truncated=last & ~terminated,
        )


def step_columns(rows: Tensor, steps: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return what `Transitions` hold besides the numbers of the episodes: row, index, and whether a step is the last.

    Args:
        rows: `(episodes,)` int64, ascending.
        steps: `(episodes,)` int64, control steps of each, at least 1.

    Returns:
        `(n,)` int64, `(n,)` int64 and `(n,)` bool for n steps.
    """
    episode = torch.repeat_interleave(torch.arange(len(rows), device=rows.device), steps)
    index = torch.arange(len(episode), device=rows.device) + episode  # every earlier episode has one observation more
    last = torch.zeros(len(episode), dtype=torch.bool, device=rows.device)
    last[steps.cumsum(0) - 1] = True
    return rows[episode], index, last


def _beginnings(column: np.ndarray, rows: Sequence[int] | np.ndarray, counts: np.ndarray) -> Tensor:
    """Return the first `counts` entries of these rows of `(rows, length, ...)`, one row after the other."""
    length, rest = column.shape[1], column.shape[2:]
    if len(rows) == len(column) and (counts == length).all():
        return torch.from_numpy(column.reshape(-1, *rest))  # a view: all episodes have the full length
    parts = [column[row, :count] for row, count in zip(rows, counts.tolist(), strict=True)]
    return torch.from_numpy(np.concatenate(parts or [column[0:0].reshape(0, *rest)]))
