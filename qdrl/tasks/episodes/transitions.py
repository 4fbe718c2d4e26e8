"""Transitions of a batch of episodes, as training data of critics."""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from qdrl.evaluation import Transitions


class TransitionLog:
    """A log of the control steps of each row's episode.

    Memory after the end of an episode is allocated but never written.

    Args:
        rows: Number of episodes.
        episode_length: Maximum number of control steps of an episode.
        observation_size: Length of an observation.
        action_size: Length of an action.
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
        """Record one control step of several rows.

        Args:
            rows: `(n,)` rows.
            ages: `(n,)` number of control steps before this one, for each row.
            observations: `(n, observation_size)`, before the step.
            actions: `(n, action_size)`.
            rewards: `(n,)`.
        """
        self._observations[rows, ages] = observations
        self._actions[rows, ages] = actions
        self._rewards[rows, ages] = rewards

    def end(self, row: int, steps: int, observation: np.ndarray, *, terminated: bool) -> None:
        """Record the end of a row's episode.

        Args:
            row: Row of the episode.
            steps: Number of control steps of the episode.
            observation: `(observation_size,)`, observation after the last step.
            terminated: Whether the task, and not a time limit, ended the episode.
        """
        self._observations[row, steps] = observation
        self._steps[row], self._terminated[row] = steps, terminated

    def transitions(self, first_row: int, failed: np.ndarray) -> Transitions:
        """Return the recorded transitions of all rows that did not fail.

        Args:
            first_row: Position in the generation of the log's row 0.
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
    """Return the columns of `Transitions` that follow from the lengths of the episodes.

    Args:
        rows: `(episodes,)` int64, ascending.
        steps: `(episodes,)` int64, number of control steps of each episode, at least 1.

    Returns:
        For n steps in total: row of each step, `(n,)` int64; position of its observation, `(n,)` int64; whether it is
        the last step of its episode, `(n,)` bool.
    """
    episode = torch.repeat_interleave(torch.arange(len(rows), device=rows.device), steps)
    index = torch.arange(len(episode), device=rows.device) + episode  # every earlier episode has one observation more
    last = torch.zeros(len(episode), dtype=torch.bool, device=rows.device)
    last[steps.cumsum(0) - 1] = True
    return rows[episode], index, last


def _beginnings(column: np.ndarray, rows: Sequence[int] | np.ndarray, counts: np.ndarray) -> Tensor:
    """Return the first `counts` entries of each of these rows of `(rows, length, ...)`, concatenated."""
    length, rest = column.shape[1], column.shape[2:]
    if len(rows) == len(column) and (counts == length).all():
        return torch.from_numpy(column.reshape(-1, *rest))  # a view: all episodes have the full length
    parts = [column[row, :count] for row, count in zip(rows, counts.tolist(), strict=True)]
    return torch.from_numpy(np.concatenate(parts or [column[0:0].reshape(0, *rest)]))
