"""point_omni: a point mass in the plane, a cheap task for tests.

As in the other omni tasks, fitness does not depend on where an episode ends.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from qdrl.archives.axes import Axis
from qdrl.streams import generator_from_seed
from qdrl.tasks.base import TaskSetup, TaskSpec
from qdrl.tasks.episodes.worlds import EpisodeWorlds
from qdrl.tasks.episodic import EpisodicTask
from qdrl.tasks.settings import PointSettings

_STEP = 0.1  # s
_DRAG = 0.5  # 1/s
_THRUST = 2.0  # m/s^2 at full action
_REACH = 10.0  # m
_NOISE = 0.1  # m
_SPEED = 4.0  # m/s, unit of velocities in the observation


class PointWorlds(EpisodeWorlds):
    """Point masses; see `qdrl.tasks.episodes.worlds.EpisodeWorlds`.

    Args:
        count: Number of worlds.
        episode_length: Control steps after which an episode is truncated.
    """

    def __init__(self, count: int, episode_length: int) -> None:
        self.count = count
        self._episode_length = episode_length
        self._state = torch.zeros(count, 4, dtype=torch.float64)  # x, y [m], velocity [m/s]
        self._scale = torch.tensor([_REACH, _REACH, _SPEED, _SPEED], dtype=torch.float64)

    def reset(self, slots: Sequence[int], seeds: Sequence[int]) -> None:
        """Start a new episode in each of these worlds."""
        for slot, seed in zip(slots, seeds, strict=True):
            self._state[slot] = 0.0
            self._state[slot, :2] = torch.from_numpy(generator_from_seed(seed).uniform(-_NOISE, _NOISE, 2))

    def observe(self, ages: Tensor) -> Tensor:
        """Return the observations of the first worlds."""
        left = 1.0 - ages / self._episode_length
        return torch.cat([self._state[: len(ages)] / self._scale, left[:, None]], dim=1).float()

    def step(self, actions: Tensor) -> tuple[Tensor, Tensor]:
        """Apply actions; return rewards and terminated."""
        state, force = self._state[: len(actions)], actions.double()
        velocity = state[:, 2:]
        velocity += _STEP * (_THRUST * force - _DRAG * velocity)
        state[:, :2] += _STEP * velocity
        reward = 1.0 - 0.5 * (force[:, 0].square() + force[:, 1].square())
        return reward, torch.zeros(len(actions), dtype=torch.bool)

    def descriptor(self, slot: int, steps: int) -> Tensor:  # noqa: ARG002
        """Return the descriptor of an ended episode."""
        return self._state[slot, :2]

    def move(self, source: int, target: int) -> None:
        """Copy the state of world `source` into world `target`."""
        self._state[target] = self._state[source]


def make_point_task(settings: PointSettings, setup: TaskSetup) -> EpisodicTask:
    """Return the task that settings describe.

    Args:
        settings: Settings of the task.
        setup: How the task computes.
    """
    length = settings.episode_length
    spec = TaskSpec(
        name="point_omni",
        summary="Point mass in the plane: end anywhere, spend little. Standing still is the fitness optimum.",
        axes=(Axis("final x", "m", -_REACH, _REACH), Axis("final y", "m", -_REACH, _REACH)),
        fitness_name="sum of 1 - |action|^2 / 2 over the episode",
        episode_length=length,
        qd_offset=0.0,
        reward_offset=0.0,
        observation="position / 10 m, velocity / 4 m/s, fraction of the episode left",
        observation_size=5,
        action_size=2,
        initial_noise="position uniform within 0.1 m of the origin, velocity zero",
        options=settings.model_dump(),
        arithmetic=setup.arithmetic,
    )
    return EpisodicTask(spec, lambda count: PointWorlds(count, length), policy=setup.policy, worlds=setup.worlds)
