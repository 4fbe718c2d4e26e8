"""image_hard_maze: the hard maze, seen from above ("Image Hard Maze" of Such et al. 2017).

Physics, reward and descriptor are those of `hard_maze`. The observation is the last four images of the maze, 84 x 84
pixels each, as channels with the latest one last. Walls and the robot's front half have the value 1, the goal 0.75, the
robot's rear half 0.5, and the rest 0. At the first step all four images are equal. The paper does not specify how its
images were drawn.
"""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from qdrl.compute.arithmetic import Arithmetic
from qdrl.tasks.base import TaskSetup
from qdrl.tasks.episodic import EpisodicTask
from qdrl.tasks.maze import RADIUS, MazeWorlds, maze_spec
from qdrl.tasks.mazes import MAZES, Maze, walls
from qdrl.tasks.settings import ImageMazeSettings

_SIDE, _STACK = 84, 4
_WALL, _GOAL, _FRONT, _REAR = 1.0, 0.75, 1.0, 0.5


class ImageMazeWorlds(MazeWorlds):
    """Robots in a maze, observed as images; see `qdrl.tasks.episodes.worlds.EpisodeWorlds`.

    Args:
        maze: Maze of all worlds.
        lines: `(walls, 4)`: x1, y1, x2, y2 of each wall, in units of the maze.
        count: Number of worlds.
        episode_length: Control steps after which an episode ends.
        arithmetic: Method of computing sines of headings.
    """

    def __init__(self, maze: Maze, lines: np.ndarray, count: int, episode_length: int, arithmetic: Arithmetic) -> None:
        super().__init__(maze, count, episode_length, arithmetic)
        low, high = lines.reshape(-1, 2).min(axis=0), lines.reshape(-1, 2).max(axis=0)
        self._low, self._scale = low[:, None], (_SIDE - 1) / (high - low).max()
        self._background = self._drawn(maze, lines)
        self._pictures = np.zeros((count, _STACK, _SIDE, _SIDE), np.float32)
        reach = int(np.ceil(RADIUS * self._scale)) + 1
        self._patch = np.arange(-reach, reach + 1)

    def reset(self, slots: Sequence[int], seeds: Sequence[int]) -> None:
        """Start a new episode in each of these worlds."""
        super().reset(slots, seeds)
        index = list(slots)
        self._pictures[index] = self._picture(index)[:, None]

    def observe(self, ages: Tensor) -> Tensor:
        """Return the observations of the first worlds."""
        return torch.from_numpy(self._pictures[: len(ages)].reshape(len(ages), -1).copy())

    def step(self, actions: Tensor) -> tuple[Tensor, Tensor]:
        """Apply actions; return rewards and terminated."""
        result, count = super().step(actions), len(actions)
        self._pictures[:count, :-1] = self._pictures[:count, 1:]
        self._pictures[:count, -1] = self._picture(list(range(count)))
        return result

    def move(self, source: int, target: int) -> None:
        """Copy the state of world `source` into world `target`."""
        super().move(source, target)
        self._pictures[target] = self._pictures[source]

    def _picture(self, slots: list[int]) -> np.ndarray:
        """Return images `(slots, side, side)` float32 of the worlds; a broken world shows no robot."""
        pictures = np.repeat(self._background[None], len(slots), axis=0)
        whole = [index for index, slot in enumerate(slots) if not self.failed(slot)]
        state = self._state[:, [slots[index] for index in whole]]
        x, y = (state[:2] - self._low) * self._scale
        columns, rows = (np.rint(place).astype(int)[:, None] + self._patch for place in (x, y))
        across, along = (columns - x[:, None])[:, None, :], (rows - y[:, None])[:, :, None]
        inside = across**2 + along**2 <= (RADIUS * self._scale) ** 2
        inside &= ((columns >= 0) & (columns < _SIDE))[:, None, :] & ((rows >= 0) & (rows < _SIDE))[:, :, None]
        ahead = across * state[2][:, None, None] + along * state[3][:, None, None] > 0
        world, row, column = np.nonzero(inside)
        value = np.where(ahead[world, row, column], _FRONT, _REAR)
        pictures[np.array(whole, int)[world], rows[world, row], columns[world, column]] = value
        return pictures

    def _drawn(self, maze: Maze, lines: np.ndarray) -> np.ndarray:
        """Return the image of the maze without a robot, `(side, side)` float32, rows along y."""
        picture = np.zeros((_SIDE, _SIDE), np.float32)
        row, column = np.mgrid[:_SIDE, :_SIDE]
        points = np.stack([column, row]).astype(np.float64)
        goal = (np.array(maze.goal)[:, None] - self._low) * self._scale
        picture[((points - goal[..., None]) ** 2).sum(axis=0) <= (RADIUS * self._scale / 2) ** 2] = _GOAL
        for x1, y1, x2, y2 in lines:
            first, second = ((np.array([[x], [y]]) - self._low) * self._scale for x, y in ((x1, y1), (x2, y2)))
            along = second - first
            share = ((points - first[..., None]) * along[..., None]).sum(axis=0) / (along**2).sum()
            nearest = first[..., None] + np.clip(share, 0, 1) * along[..., None]
            picture[((points - nearest) ** 2).sum(axis=0) <= 0.5] = _WALL
        return picture


def make_image_maze_task(settings: ImageMazeSettings, setup: TaskSetup) -> EpisodicTask:
    """Return the task that settings describe.

    Args:
        settings: Settings of the task.
        setup: How the task computes.
    """
    maze, length = MAZES["hard_maze"], settings.episode_length
    spec = replace(
        maze_spec("hard_maze", length),
        name=settings.name,
        summary="The hard maze, seen from above.",
        observation=f"the last {_STACK} pictures of the maze, {_SIDE} x {_SIDE}",
        observation_size=_STACK * _SIDE * _SIDE,
        image=(_STACK, _SIDE, _SIDE),
        options=settings.model_dump(),
        arithmetic=setup.arithmetic,
    )
    lines = walls("hard_maze")

    def make_worlds(count: int) -> ImageMazeWorlds:
        return ImageMazeWorlds(maze, lines, count, length, setup.arithmetic)

    return EpisodicTask(spec, make_worlds, policy=setup.policy, worlds=setup.worlds)
