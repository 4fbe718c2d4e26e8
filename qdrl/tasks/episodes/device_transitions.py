"""Control steps of episodes on a device, for critics; they stay there."""

import numpy as np
import torch
from torch import Tensor

from qdrl.evaluation import Transitions


class Record:
    """Every control step of a batch of worlds, whether their episodes go on or not.

    Args:
        length: most control steps of an episode.
        worlds: how many.
        observation: numbers in an observation.
        action: numbers in an action.
        device: where it lies.

    Attributes:
        observations: `(length + 1, worlds, observation)`.
        actions: `(length, worlds, action)`.
        rewards: `(length, worlds)` float32.
    """

    def __init__(self, length: int, worlds: int, observation: int, action: int, device: torch.device) -> None:
        self.observations = torch.empty(length + 1, worlds, observation, device=device)
        self.actions = torch.empty(length, worlds, action, device=device)
        self.rewards = torch.empty(length, worlds, device=device)


class DeviceLog:
    """Control steps of a batch; `transitions` is that of `qdrl.tasks.episodes.transitions.TransitionLog`."""

    def __init__(self) -> None:
        self._parts: list[dict[str, Tensor]] = []
        self._rows = 0

    def add(self, record: Record, steps: Tensor, terminated: Tensor) -> None:
        """Episodes of the next rows, which ran in the record's first worlds.

        Args:
            record: their steps.
            steps: `(rows,)` int64, how many of these belong to each episode.
            terminated: `(rows,)` bool, whether the task ended it.
        """
        ages = torch.arange(len(record.rewards), device=steps.device)
        row, time = torch.nonzero(ages < steps[:, None], as_tuple=True)
        last = time == steps[row] - 1
        self._parts.append(
            {
                "row": self._rows + row,
                "observation": record.observations[time, row],
                "action": record.actions[time, row],
                "reward": record.rewards[time, row],
                "next_observation": record.observations[time + 1, row],
                "terminated": last & terminated[row],
                "truncated": last & ~terminated[row],
            }
        )
        self._rows += len(steps)

    def transitions(self, first_row: int, failed: np.ndarray) -> Transitions:
        """All of them in order of row and time, without rows that failed."""
        columns = self._parts[0]
        if len(self._parts) > 1:
            columns = {name: torch.cat([part[name] for part in self._parts]) for name in columns}
        if failed.any():
            kept = ~torch.from_numpy(failed).to(columns["row"].device)[columns["row"]]
            columns = {name: column[kept] for name, column in columns.items()}
        return Transitions(**{**columns, "row": columns["row"] + first_row})
