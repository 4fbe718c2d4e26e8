"""hard_maze and medium_maze: a robot with range finders in a maze whose walls block the direct way to the goal.

The deceptive mazes of Lehman and Stanley 2011, "Abandoning Objectives: Evolution through the Search for Novelty Alone"
(https://doi.org/10.1162/EVCO_a_00025), with the robot of the code published with Such et al. 2017, whose policies set
velocities, not accelerations. Published programs differ; docs/decisions/0010-mazes.md lists the differences. This
module uses these conventions:

- Lengths are in units of the maze, angles in degrees from +x towards +y. The papers' figures draw y downwards, so that
  positive angles are to the robot's right there.
- Actions (a1, a2), clipped to [-1, 1], request a turn of 3 a1 degrees and a speed of 3 a2 units per step. Published
  networks output (o1, o2) in [0, 1] and request 6 (o - 0.5), which is the same: o = (a + 1) / 2.
- In a step, turn and speed change by at most 0.2 each towards the requested values, so that they stay within +-3. The
  robot, a disc of radius 8, moves by `speed` along its heading; then the heading changes by `turn`. The robot does not
  move if its centre would be nearer to a wall than its radius; turn, speed and heading change nevertheless.
- A policy observes 11 numbers: 1; the distance from the robot's centre to the nearest wall at -90, -45, 0, 45, 90 and
  180 degrees from the heading, divided by 100 and at most 1; and four flags for the quadrants [-45, 45), [45, 135),
  [135, 225) and [225, 315) degrees from the heading. The flag of the goal's quadrant is 1, the others are 0.
- The reward of the last step is minus the distance to the goal; all other rewards are 0. There is no randomness.
"""

import math
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from qdrl.archives.axes import Axis
from qdrl.compute.arithmetic import PORTABLE, Arithmetic
from qdrl.compute.arithmetic.trigonometry import sines_in
from qdrl.tasks.base import TaskSetup, TaskSpec
from qdrl.tasks.episodes.worlds import EpisodeWorlds
from qdrl.tasks.episodic import EpisodicTask
from qdrl.tasks.mazes import MAZES, Maze
from qdrl.tasks.settings import MazeSettings

SUCCESS = 10.0
"""Final distance to the goal, in units of the maze, below which a robot has solved the maze: fitness above -10."""

RADIUS = 8.0
"""Radius of the robot, in units of the maze."""
_RANGE = 100.0
_FASTEST = 3.0  # units (speed) and degrees (turn) per step
_CHANGE = 0.2  # largest change of speed and turn per step


class MazeWorlds(EpisodeWorlds):
    """Robots in a maze, one per world; see `qdrl.tasks.episodes.worlds.EpisodeWorlds`.

    The last axis of arrays is the world. Only element-wise operations and minima are used, so that a world's state and
    observation are the same bits for any number of worlds.

    Args:
        maze: Maze of all worlds.
        count: Number of worlds.
        episode_length: Control steps after which an episode ends.
        arithmetic: Method of computing sines of headings.
    """

    def __init__(self, maze: Maze, count: int, episode_length: int, arithmetic: Arithmetic = PORTABLE) -> None:
        self.count = count
        self._sines = sines_in(arithmetic)
        self._goal = np.array(maze.goal, np.float64)[:, None]
        self._body, self._eyes = _Body(maze), _Eyes(maze, count)
        # x, y; cosine and sine of the heading; turn and speed; heading; steps left
        self._first_state = np.array([*maze.start, 1, 0, 0, 0, 0, episode_length], np.float64)[:, None]
        self._state = np.tile(self._first_state, count)
        self._observation = torch.zeros(count, 11)
        self._observed = self._observation.numpy()

    def reset(self, slots: Sequence[int], seeds: Sequence[int]) -> None:  # noqa: ARG002
        """Start a new episode in each of these worlds."""
        self._state[:, list(slots)] = self._first_state

    def observe(self, ages: Tensor) -> Tensor:
        """Return the observations of the first worlds."""
        count = len(ages)
        self._observed[:count, 0] = 1.0
        self._observed[:count, 1:] = self._eyes.look(self._state[:2, :count], self._state[2:4, :count]).T
        return self._observation[:count]

    def step(self, actions: Tensor) -> tuple[Tensor, Tensor]:
        """Apply actions; return rewards and terminated."""
        state = self._state[:, : len(actions)]
        place, direction, velocity, heading, left = state[:2], state[2:4], state[4:6], state[6], state[7]
        requested = _FASTEST * _clip(actions.numpy().T, 1.0).astype(np.float64)
        velocity += _clip(requested - velocity, _CHANGE)
        turn, speed = velocity
        ahead = place + speed * direction
        np.copyto(place, ahead, where=~self._body.touches(ahead))
        heading += turn
        direction[1], direction[0] = self._sines(np.radians(heading))
        left -= 1
        return self._pay(place, heading, left == 0)

    def _pay(self, place: np.ndarray, heading: np.ndarray, ended: np.ndarray) -> tuple[Tensor, Tensor]:
        reward = place[0] + heading
        reward -= reward  # 0, or NaN where a policy's NaN broke the world
        if ended.any():
            x, y = self._goal - place[:, ended]
            reward[ended] -= np.sqrt(x * x + y * y)
        return torch.from_numpy(reward), torch.from_numpy(ended)

    def descriptor(self, slot: int, steps: int) -> Tensor:  # noqa: ARG002
        """Return the descriptor of an ended episode."""
        place = self._state[:2, slot]
        return torch.from_numpy(np.full_like(place, np.nan) if self.failed(slot) else place)

    def failed(self, slot: int) -> bool:
        """Return whether the simulation broke since the reset."""
        return bool(np.isnan(self._state[:, slot]).any())

    def move(self, source: int, target: int) -> None:
        """Copy the state of world `source` into world `target`."""
        self._state[:, target] = self._state[:, source]


class _Body:
    """Collision test, in the frame of each wall: the origin is its middle, x is along it."""

    def __init__(self, maze: Maze) -> None:
        first, second = _ends(maze)
        length = _lengths(second - first)
        self._middle = ((first + second) / 2)[..., None]
        self._cosine, self._sine = ((second - first) / length)[..., None]
        self._half = (length / 2)[:, None]

    def touches(self, place: np.ndarray) -> np.ndarray:
        """Return whether a wall is nearer than the radius to places `(2, n)`: `(n,)` bool, False for NaN."""
        x, y = place[:, None] - self._middle
        across = y * self._cosine - x * self._sine
        beyond = np.maximum(np.abs(x * self._cosine + y * self._sine) - self._half, 0.0)  # one of its ends
        return np.minimum.reduce(across * across + beyond * beyond, axis=0) < RADIUS**2


class _Eyes:
    """Range finders and goal radar.

    Range finders measure along four lines through the robot, at -90, -45, 0 and 45 degrees from the heading; along the
    first and the third line also backwards. A wall crosses a line if its ends are on different sides of it. The signed
    distance of the crossing, negative behind the robot, is area / (offset of the second end - offset of the first end).
    Offsets are signed distances of the ends from the line. The area is the cross product of the ends relative to the
    robot and is the same for all lines. The largest inverse distance is the nearest crossing ahead, the smallest is the
    nearest crossing behind, and 0 means no crossing.
    """

    def __init__(self, maze: Maze, count: int) -> None:
        first, second = _ends(maze)
        points = np.concatenate([first, second, np.array([maze.goal]).T], axis=1)
        self._points, self._walls = points[..., None], first.shape[1]
        half = math.sqrt(0.5)
        self._cosine, self._sine = np.array([[0.0, half, 1.0, half], [-1.0, -half, 0.0, half]])[..., None]
        # Allocated once: with new arrays in every call, `look` took a third longer.
        self._seen = np.empty((*points.shape, count))
        self._offset, self._other = (np.empty((points.shape[1], 4, count)) for _ in range(2))
        self._side = np.empty((points.shape[1], 4, count), bool)

    def look(self, place: np.ndarray, direction: np.ndarray) -> np.ndarray:
        """Return the observation without the constant 1.

        Args:
            place: `(2, n)` positions.
            direction: `(2, n)` unit vectors of the headings.

        Returns:
            `(10, n)`: six ranges, four flags.
        """
        count = place.shape[1]
        seen, offset, other = self._seen[..., :count], self._offset[..., :count], self._other[..., :count]
        np.subtract(self._points, place[:, None], out=seen)
        (x, y), (cosine, sine) = seen, direction
        np.multiply(self._cosine * cosine - self._sine * sine, y[:, None], out=offset)
        np.multiply(self._sine * cosine + self._cosine * sine, x[:, None], out=other)
        offset -= other
        sensed = np.empty((10, count))
        self._find_walls(x, y, offset, sensed[:6])
        self._find_goal(offset[-1, 1], offset[-1, 3], sensed[6:])
        return sensed

    def _find_walls(self, x: np.ndarray, y: np.ndarray, offset: np.ndarray, sensed: np.ndarray) -> None:
        """Write ranges `(6, n)`, from points relative to the robot `(p, n)` and their offsets `(p, 4, n)`."""
        count, first, second = x.shape[1], slice(self._walls), slice(self._walls, 2 * self._walls)
        area = x[first] * y[second] - y[first] * x[second]
        area += 1e-200  # avoids division by zero for a wall in line with the robot, which crosses no line
        side = np.greater(offset, 0.0, out=self._side[..., :count])
        inverse = np.subtract(offset[second], offset[first], out=self._other[first, :, :count])
        inverse *= side[first] != side[second]
        inverse *= (_RANGE / area)[:, None]
        np.maximum.reduce(inverse, axis=0, out=sensed[:4])
        np.minimum.reduce(inverse[:, ::2], axis=0, out=sensed[4:])
        sensed[4:] *= -1.0
        np.maximum(sensed, 1.0, out=sensed)
        np.reciprocal(sensed, out=sensed)

    @staticmethod
    def _find_goal(low: np.ndarray, high: np.ndarray, sensed: np.ndarray) -> None:
        """Write flags `(4, n)`, from the goal's offsets `(n,)` from the lines at -45 and 45 degrees."""
        np.logical_and(low >= 0.0, high < 0.0, out=sensed[0])
        np.logical_and(high >= 0.0, low > 0.0, out=sensed[1])
        np.logical_and(low <= 0.0, high > 0.0, out=sensed[2])
        np.logical_and(high <= 0.0, low < 0.0, out=sensed[3])


def _ends(maze: Maze) -> tuple[np.ndarray, np.ndarray]:
    """Return the first and second ends of the walls, `(2, walls)` each."""
    ends = np.array(maze.walls, np.float64).T
    return ends[:2], ends[2:]


def _lengths(vectors: np.ndarray) -> np.ndarray:
    """Return the correctly rounded Euclidean lengths of vectors `(2, n)`, which libm's hypot does not guarantee."""
    x, y = vectors
    return np.sqrt(x * x + y * y)


def _clip(values: np.ndarray, bound: float) -> np.ndarray:
    return np.maximum(np.minimum(values, bound), -bound)


def make_maze_task(settings: MazeSettings, setup: TaskSetup) -> EpisodicTask:
    """Return the task that settings describe.

    Args:
        settings: Settings of the task.
        setup: How the task computes.
    """
    maze, length = MAZES[settings.name], settings.episode_length
    spec = replace(maze_spec(settings.name, length), options=settings.model_dump(), arithmetic=setup.arithmetic)

    def make_worlds(count: int) -> MazeWorlds:
        return MazeWorlds(maze, count, length, setup.arithmetic)

    return EpisodicTask(spec, make_worlds, policy=setup.policy, worlds=setup.worlds)


def maze_spec(name: str, length: int) -> TaskSpec:
    """Return the description of a maze task, without options and arithmetic.

    Args:
        name: Name of the maze.
        length: Control steps after which an episode ends.
    """
    maze, unit = MAZES[name], "unit of the maze"
    corners = np.concatenate(_ends(maze), axis=1)
    (left, low), (right, high) = corners.min(axis=1).tolist(), corners.max(axis=1).tolist()
    furthest = _lengths(corners - np.array([maze.goal]).T).max()  # no place inside is further than every corner
    return TaskSpec(
        name=name,
        summary="Find the goal of a maze; the way there leads away from it first, and fitness deceives.",
        axes=(Axis("final x", unit, left, right), Axis("final y", unit, low, high)),
        fitness_name=f"minus the final distance to the goal [{unit}]; solved above {-SUCCESS:g}",
        episode_length=length,
        qd_offset=-float(furthest),
        reward_offset=None,
        observation="1, distances to walls / 100 at -90, -45, 0, 45, 90, 180 degrees, flags of the goal's quadrant",
        observation_size=11,
        action_size=2,
        initial_noise=f"none: at x = {maze.start[0]:g}, y = {maze.start[1]:g}, at rest, heading along +x",
    )
