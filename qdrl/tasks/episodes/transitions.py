"""Every control step of a batch of episodes, kept for critics."""

import numpy as np
import torch

from qdrl.evaluation import Transitions


class TransitionLog:
    """Room for each row's episode; memory that a short episode does not reach is never touched.

    Args:
        rows: episodes.
        episode_length: most control steps of one.
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
        """One control step of these rows, each at its own age."""
        self._observations[rows, ages] = observations
        self._actions[rows, ages] = actions
        self._rewards[rows, ages] = rewards

    def end(self, row: int, steps: int, observation: np.ndarray, *, terminated: bool) -> None:
        """A row's episode is over after `steps`, and this is what could be seen then."""
        self._observations[row, steps] = observation
        self._steps[row], self._terminated[row] = steps, terminated

    def transitions(self, first_row: int, failed: np.ndarray) -> Transitions:
        """All of them, without rows that failed.

        Args:
            first_row: row of the generation that row 0 here is.
            failed: `(rows,)` bool.
        """
        steps = np.where(failed, 0, self._steps)
        taken = np.arange(self._actions.shape[1]) < steps[:, None]
        rows = np.repeat(np.arange(len(steps)), steps)
        last = np.zeros(len(rows), bool)
        last[np.cumsum(steps[steps > 0]) - 1] = True
        terminated = last & self._terminated[rows]
        return Transitions(
            row=torch.from_numpy(rows + first_row),
            observation=torch.from_numpy(self._observations[:, :-1][taken]),
            action=torch.from_numpy(self._actions[taken]),
            reward=torch.from_numpy(self._rewards[taken]),
            next_observation=torch.from_numpy(self._observations[:, 1:][taken]),
            terminated=torch.from_numpy(terminated),
            truncated=torch.from_numpy(last & ~terminated),
        )
