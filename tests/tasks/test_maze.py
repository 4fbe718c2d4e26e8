"""hard_maze and medium_maze compared with hand-computed values and a plain simulation in scalars."""

import math
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from qdrl.errors import UserError
from qdrl.evaluation import Evaluation
from qdrl.tasks.base import Task
from qdrl.tasks.maze import SUCCESS, MazeWorlds
from qdrl.tasks.mazes import MAZES, Maze, walls
from qdrl.tasks.registry import make_task
from tests.tasks.builders import candidates, first_genomes

Wall = tuple[float, float, float, float]

NAMES = list(MAZES)
PUBLISHED = {
    "hard_maze": "41 5 3 8 | 3 8 4 49 | 4 49 57 53 | 4 49 7 202 | 7 202 195 198 | 195 198 186 8 | 186 8 39 5 |"
    "56 54 56 157 | 57 106 158 162 | 77 201 108 164 | 6 80 33 121 | 192 146 87 91 | 56 55 133 30",
    "medium_maze": "5 5 295 5 | 295 5 295 135 | 295 135 5 135 | 5 135 5 5 | 241 135 58 65 | 114 5 73 42 |"
    "130 91 107 46 | 196 5 139 51 | 219 125 182 63 | 267 5 214 63 | 271 135 237 88",
}
"""The walls of the files that came with Such et al. 2017 (hard_maze.txt) and goNEAT_NS (medium_maze.txt)."""

FINDERS = (-90, -45, 0, 45, 90, -180)
QUADRANTS = ((315, 405), (45, 135), (135, 225), (225, 315))
WAYS = {
    "hard_maze": [(109, 150), (166, 179), (172, 155), (72, 96), (84, 69), (152, 33), (139, 19)],
    "medium_maze": [(72, 56), (92, 45), (103, 33), (123, 38), (130, 61), (154, 66), (189, 45), (209, 77), (258, 76)],
}
"""Corners of a path to the goal."""


@dataclass
class SlowRobot:
    """The robot of the docstring of `qdrl.tasks.maze`, computed in scalars: one wall and one ray at a time."""

    maze: Maze
    x: float = math.nan
    y: float = math.nan
    heading: float = 0.0
    speed: float = 0.0
    turn: float = 0.0
    bumps: int = 0

    def __post_init__(self) -> None:
        self.x, self.y = self.maze.start

    def step(self, a1: float, a2: float) -> None:
        wanted_turn, wanted_speed = ((min(max(a, -1.0), 1.0) + 1.0) / 2.0 for a in (a1, a2))
        self.turn += min(max((wanted_turn - 0.5) * 6.0 - self.turn, -0.2), 0.2)
        self.speed += min(max((wanted_speed - 0.5) * 6.0 - self.speed, -0.2), 0.2)
        x = self.x + self.speed * math.cos(math.radians(self.heading))
        y = self.y + self.speed * math.sin(math.radians(self.heading))
        self.heading = (self.heading + self.turn) % 360.0
        if all(self.distance_to_wall(wall, x, y) >= 8.0 for wall in self.maze.walls):
            self.x, self.y = x, y
        else:
            self.bumps += 1

    @staticmethod
    def distance_to_wall(wall: Wall, x: float, y: float) -> float:
        x1, y1, x2, y2 = wall
        share = ((x - x1) * (x2 - x1) + (y - y1) * (y2 - y1)) / ((x2 - x1) ** 2 + (y2 - y1) ** 2)
        share = min(max(share, 0.0), 1.0)
        return math.hypot(x - x1 - share * (x2 - x1), y - y1 - share * (y2 - y1))

    def range_finder(self, angle: float) -> float:
        """Solve robot + t * direction = first end + share * wall by Cramer's rule."""
        dx, dy = math.cos(math.radians(self.heading + angle)), math.sin(math.radians(self.heading + angle))
        nearest = 100.0
        for x1, y1, x2, y2 in self.maze.walls:
            determinant = dx * (y1 - y2) - dy * (x1 - x2)
            if determinant == 0:
                continue
            t = ((x1 - self.x) * (y1 - y2) - (y1 - self.y) * (x1 - x2)) / determinant
            share = (dx * (y1 - self.y) - dy * (x1 - self.x)) / determinant
            if t > 0 and 0 <= share <= 1:
                nearest = min(nearest, t)
        return nearest

    def observation(self) -> list[float]:
        gx, gy = self.maze.goal
        angle = (math.degrees(math.atan2(gy - self.y, gx - self.x)) - self.heading) % 360.0
        flags = [float(low <= angle < high or low <= angle + 360.0 < high) for low, high in QUADRANTS]
        return [1.0, *(self.range_finder(finder) / 100.0 for finder in FINDERS), *flags]

    def towards(self, place: tuple[float, float]) -> tuple[float, float]:
        """Return an action towards a place: turn first, then drive, at rates that still allow stopping in time."""
        angle = math.degrees(math.atan2(place[1] - self.y, place[0] - self.x)) - self.heading
        left = (angle + 180.0) % 360.0 - 180.0
        turn = math.copysign(min(math.sqrt(0.4 * abs(left)), 0.5 * abs(left)), left)
        speed = math.sqrt(0.3 * math.dist((self.x, self.y), place)) if abs(left) < 30.0 else 0.0
        return turn / 3.0, speed / 3.0

    def distance_to_goal(self) -> float:
        return math.hypot(self.maze.goal[0] - self.x, self.maze.goal[1] - self.y)


def room(*inside: Wall, goal: tuple[float, float] = (1, 0), size: float = 500) -> Maze:
    """Return a maze with these walls in a square around the robot, which starts at the origin."""
    corners = [(-size, -size), (size, -size), (size, size), (-size, size), (-size, -size)]
    return Maze((0, 0), goal, (*inside, *((*first, *second) for first, second in pairwise(corners))))


def look(worlds: MazeWorlds) -> list[float]:
    return worlds.observe(torch.zeros(1, dtype=torch.int64))[0].tolist()


def drive(worlds: MazeWorlds, actions: list[tuple[float, float]]) -> np.ndarray:
    """Return the positions of world 0 before and after each action, `(actions + 1, 2)`."""
    places = [worlds.descriptor(0, 0).numpy().copy()]
    for action in actions:
        worlds.step(torch.tensor([action]))
        places.append(worlds.descriptor(0, 0).numpy().copy())
    return np.stack(places)


def restless(steps: int, count: int, seed: int = 0) -> Tensor:
    """Return actions `(steps, count, 2)` float32 held for ten steps each, so that robots move far; some exceed 1."""
    drawn = np.random.default_rng(seed).uniform(-1.2, 1.2, (-(-steps // 10), count, 2)) + np.array([0.0, 0.5])
    return torch.from_numpy(np.repeat(drawn, 10, axis=0)[:steps].astype(np.float32))


def still(task: Task) -> Evaluation:
    return task.evaluate(candidates(torch.zeros(1, task.parameters)))


def test_range_finders_at_the_start_of_hard_maze_equal_plain_geometry() -> None:
    """Each reading is the intersection of a line through (36, 184) with one wall of the published list."""
    readings = [
        100.0,  # -90 degrees: the wall 4 49 57 53 at y = 51.4 is out of range
        (57 + 101 * 57 / 157 - 36) * math.sqrt(2),  # x + y = 220 on 57 106 158 162
        77 + 31 * 17 / 37 - 36,  # y = 184 on 77 201 108 164
        (7 + 188 * 47 / 192 - 36) * math.sqrt(2),  # y - x = 148 on 7 202 195 198
        202 - 4 * 29 / 188 - 184,  # x = 36 on 7 202 195 198
        36 - (4 + 3 * 135 / 153),  # y = 184 on 4 49 7 202
    ]
    goal_is_up_and_a_little_behind = [0.0, 0.0, 0.0, 1.0]
    expected = [1.0, *(reading / 100 for reading in readings), *goal_is_up_and_a_little_behind]
    assert look(MazeWorlds(MAZES["hard_maze"], 1, 400)) == pytest.approx(expected, abs=1e-7)


@pytest.mark.parametrize(
    ("goal", "quadrant"),
    [
        ((60, 0), 0),
        ((60, 9), 0),
        ((60, -60), 0),
        ((60, 60), 1),
        ((3, 60), 1),
        ((-60, 60), 2),
        ((-60, 1), 2),
        ((-60, -60), 3),
        ((-5, -164), 3),
        ((59, -60), 3),
    ],
)
def test_the_radar_names_the_quadrant_of_the_goal_lower_border_included(
    goal: tuple[float, float], quadrant: int
) -> None:
    assert look(MazeWorlds(room(goal=goal), 1, 1))[7:] == [float(index == quadrant) for index in range(4)]


def test_the_radar_turns_with_the_robot() -> None:
    worlds, flags = MazeWorlds(room(goal=(0, 100)), 1, 1000), []
    drive(worlds, [(1.0, 0.0)] * 8)
    for _ in range(120):  # 3 degrees each from here on
        flags.append(look(worlds)[7:].index(1.0))
        drive(worlds, [(1.0, 0.0)])
    changes = [flags[0], *(after for before, after in pairwise(flags) if before != after)]
    assert changes in ([1, 0, 3, 2, 1], [1, 0, 3, 2])
    assert [flags.count(quadrant) for quadrant in range(4)] == [30] * 4


def test_range_finders_see_no_further_than_a_hundred_units() -> None:
    assert look(MazeWorlds(room(size=99), 1, 1))[1:7] == pytest.approx([0.99, 1, 0.99, 1, 0.99, 0.99])
    assert look(MazeWorlds(room(size=101), 1, 1))[1:7] == [1.0] * 6


def test_a_range_finder_reads_the_nearest_of_several_walls_and_none_that_it_passes_by() -> None:
    maze = room((60, -9, 60, 9), (40, -9, 40, 9), (20, 1, 20, 9), (-30, -9, -30, 9))
    assert look(MazeWorlds(maze, 1, 1))[1:7] == pytest.approx([1, 1, 0.4, 1, 1, 0.3])


def test_a_wall_parallel_to_a_range_finder_is_ignored() -> None:
    maze = room((30, 0, 60, 0), (0, -20, 0, -50), (20, 20, 30, 30))
    assert look(MazeWorlds(maze, 1, 1))[1:7] == [1.0] * 6


def test_velocity_follows_the_old_heading_and_grows_by_a_fifth_a_step() -> None:
    places = drive(MazeWorlds(room(), 1, 100), [(1.0, 1.0)] * 3)
    first, second = math.radians(0.2), math.radians(0.2 + 0.4)
    x, y = np.diff(places, axis=0).T
    np.testing.assert_allclose(x, [0.2, 0.4 * math.cos(first), 0.6 * math.cos(second)], rtol=0, atol=1e-12)
    np.testing.assert_allclose(y, [0.0, 0.4 * math.sin(first), 0.6 * math.sin(second)], rtol=0, atol=1e-12)


@pytest.mark.parametrize("action", [(1.0, 1.0), (-1.0, 1.0), (1.0, -1.0), (70.0, 70.0), (-math.inf, math.inf)])
def test_speed_and_turn_stop_growing_at_three(action: tuple[float, float]) -> None:
    steps = np.diff(drive(MazeWorlds(room(), 1, 100), [action] * 40), axis=0)
    speeds, headings = np.hypot(*steps.T), np.unwrap(np.arctan2(*steps.T[::-1]))
    np.testing.assert_allclose(speeds[14:], 3.0)
    assert (speeds[:14] < 2.9).all()
    np.testing.assert_allclose(np.degrees(np.diff(headings))[15:], math.copysign(3.0, action[0]))


@pytest.mark.parametrize(("asked", "reached"), [((0.0, 0.0), 0.0), ((0.0, 0.5), 1.5), ((0.0, -0.25), -0.75)])
def test_an_action_is_a_share_of_the_full_speed(asked: tuple[float, float], reached: float) -> None:
    places = drive(MazeWorlds(room(), 1, 100), [asked] * 20)
    assert places[-1][0] - places[-2][0] == pytest.approx(reached)


def test_a_wall_stops_the_robot_but_not_its_speed() -> None:
    worlds = MazeWorlds(room((50, -300, 50, 300)), 1, 1000)
    into_the_wall = drive(worlds, [(0.0, 1.0)] * 40)[:, 0]
    assert 50 - 8 - 3 < into_the_wall[-1] == into_the_wall[-2] <= 50 - 8
    along_it = np.hypot(*np.diff(drive(worlds, [(1.0, 1.0)] * 50), axis=0).T)
    away = np.flatnonzero(along_it > 0)[0]
    assert away > 20  # it had to turn first
    np.testing.assert_allclose(along_it[away:], 3.0)


@pytest.mark.parametrize("end", [(30, 0), (30, 5), (30, -5)])
def test_the_end_of_a_wall_is_round(end: tuple[float, float]) -> None:
    """A robot that drives along y = 0 stops before its distance to the end of the next wall falls below 8."""
    worlds = MazeWorlds(room((*end, 90, end[1])), 1, 1000)
    nearest = end[0] - math.sqrt(64 - end[1] ** 2)
    x = drive(worlds, [(0.0, 1.0)] * 40)[-1, 0]
    assert nearest - 3 < x <= nearest


@pytest.mark.parametrize("name", NAMES)
def test_whole_episodes_equal_those_of_a_plain_simulation(name: str) -> None:
    count, length = 24, 400
    slow, worlds = [SlowRobot(MAZES[name]) for _ in range(count)], MazeWorlds(MAZES[name], count, length)
    flags = set()
    for age, actions in enumerate(restless(length, count)):
        seen = worlds.observe(torch.full((count,), age)).numpy()
        expected = np.array([robot.observation() for robot in slow])
        np.testing.assert_allclose(seen, expected, atol=1e-7)  # float32
        flags |= set(expected[:, 7:].argmax(1))
        rewards, ended = worlds.step(actions)
        for robot, action in zip(slow, actions.tolist(), strict=True):
            robot.step(*action)
        places = np.stack([worlds.descriptor(slot, age) for slot in range(count)])
        np.testing.assert_allclose(places, [(robot.x, robot.y) for robot in slow], rtol=0, atol=1e-9)
        assert ended.tolist() == [age == length - 1] * count
        paid = [-robot.distance_to_goal() if age == length - 1 else 0.0 for robot in slow]
        np.testing.assert_allclose(rewards, paid, rtol=0, atol=1e-9)
    assert flags == {0, 1, 2, 3}
    assert sum(robot.bumps > 20 for robot in slow) > 5
    assert len({(round(robot.x), round(robot.y)) for robot in slow}) > 20


@given(count=st.integers(1, 70), room_for=st.integers(0, 9), slot=st.integers(0, 69), seed=st.integers(0, 2**32 - 1))
def test_the_bits_of_a_world_do_not_depend_on_other_worlds(count: int, room_for: int, slot: int, seed: int) -> None:
    slot %= count
    actions = restless(30, count, seed)
    many, alone = MazeWorlds(MAZES["hard_maze"], count + room_for, 30), MazeWorlds(MAZES["hard_maze"], 1, 30)
    for step in actions:
        ages = torch.zeros(count, dtype=torch.int64)
        assert torch.equal(many.observe(ages)[slot], alone.observe(ages[:1])[0])
        rewards, ended = many.step(step)
        reward, over = alone.step(step[slot : slot + 1])
        assert torch.equal(rewards[slot], reward[0])
        assert torch.equal(ended[slot], over[0])
    assert torch.equal(many.descriptor(slot, 30), alone.descriptor(0, 30))


@pytest.mark.parametrize("name", NAMES)
def test_a_robot_steered_around_the_walls_reaches_the_goal_in_time(name: str) -> None:
    slow, worlds, way, rewards = SlowRobot(MAZES[name]), MazeWorlds(MAZES[name], 1, 400), list(WAYS[name]), []
    for _ in range(400):
        if way and math.dist((slow.x, slow.y), way[0]) < 5:
            way.pop(0)
        action = slow.towards(way[0] if way else slow.maze.goal)
        slow.step(*action)
        rewards.append(worlds.step(torch.tensor([action], dtype=torch.float64))[0].item())
    assert not way
    assert 0 > sum(rewards) == rewards[-1] > -SUCCESS


def test_the_fitness_of_standing_still_is_minus_the_distance_from_start_to_goal() -> None:
    for name, distance in (("hard_maze", math.hypot(5, 164)), ("medium_maze", math.hypot(240, 78))):
        evaluation = still(make_task(name, policy={"hidden_sizes": (4,)}))
        assert evaluation.fitness.item() == pytest.approx(-distance, abs=1e-12)
        assert evaluation.descriptor[0].tolist() == list(MAZES[name].start)
        assert evaluation.steps.item() == 400


def test_fitness_is_minus_the_distance_from_the_descriptor_to_the_goal() -> None:
    task = make_task("hard_maze", policy={"hidden_sizes": (8,)}, episode_length=150)
    evaluation = task.evaluate(candidates(first_genomes(task, 50, 3.0)))
    distances = torch.linalg.norm(evaluation.descriptor - torch.tensor([31.0, 20.0]), dim=1)
    torch.testing.assert_close(evaluation.fitness, -distances, rtol=0, atol=1e-12)
    assert len(evaluation.fitness.unique()) > 40


@pytest.mark.parametrize(("name", "furthest"), [("hard_maze", (164, 178)), ("medium_maze", (265, 95))])
def test_descriptor_and_fitness_stay_within_the_stated_bounds(name: str, furthest: tuple[float, float]) -> None:
    task = make_task(name, policy={"hidden_sizes": (8,)}, worlds=128)
    evaluation = task.evaluate(candidates(first_genomes(task, 300, 3.0)))
    assert task.spec.qd_offset == pytest.approx(-math.hypot(*furthest))
    assert (evaluation.fitness > task.spec.qd_offset).all()
    assert (evaluation.fitness <= 0).all()
    assert (evaluation.descriptor > torch.tensor(task.spec.lower)).all()
    assert (evaluation.descriptor < torch.tensor(task.spec.upper)).all()
    assert task.spec.reward_offset is None


def test_bounds_are_those_of_the_outer_walls() -> None:
    spec = make_task("hard_maze").spec
    assert (spec.lower, spec.upper) == ([3, 5], [195, 202])
    assert {axis.unit for axis in spec.axes} == {"unit of the maze"}


def test_seeds_change_nothing() -> None:
    task = make_task("hard_maze", policy={"hidden_sizes": (8,)}, episode_length=60)
    genomes = first_genomes(task, 5, 3.0)
    one, other = (task.evaluate(candidates(genomes, seeds)) for seeds in (range(5), range(70, 75)))
    assert torch.equal(one.fitness, other.fitness)
    assert torch.equal(one.descriptor, other.descriptor)


def test_an_action_that_is_not_a_number_fails_its_world_alone() -> None:
    for broken in ([math.nan, 0.0], [0.0, math.nan]):
        worlds = MazeWorlds(MAZES["hard_maze"], 2, 10)
        rewards, _ = worlds.step(torch.tensor([broken, [1.0, 1.0]]))
        assert rewards.isnan().tolist() == [True, False]
        assert [worlds.failed(slot) for slot in (0, 1)] == [True, False]
        assert worlds.descriptor(0, 1).isnan().all()
        worlds.observe(torch.zeros(2))
        worlds.reset([0], [0])
        assert worlds.descriptor(0, 0).tolist() == [36, 184]
        assert not worlds.failed(0)


def test_a_moved_world_continues_unchanged() -> None:
    actions, ages = restless(40, 3), torch.zeros(3, dtype=torch.int64)
    whole, moved = (MazeWorlds(MAZES["hard_maze"], 3, 40) for _ in range(2))
    for age, step in enumerate(actions):
        if age == 20:
            moved.move(2, 0)
        rewards, ended = whole.step(step)
        again, over = moved.step(step if age < 20 else step[[2, 1, 2]])
    assert torch.equal(again[0], rewards[2])
    assert torch.equal(over, ended)
    assert torch.equal(moved.observe(ages)[0], whole.observe(ages)[2])
    assert torch.equal(moved.descriptor(0, 40), whole.descriptor(2, 40))


@pytest.mark.parametrize("name", NAMES)
def test_walls_are_the_published_ones_and_can_be_drawn(name: str) -> None:
    published = [[float(number) for number in wall.split()] for wall in PUBLISHED[name].split("|")]
    drawn = walls(name)
    assert drawn.tolist() == published
    drawn[:] = 0
    assert walls(name).tolist() == published


def test_the_error_for_an_unknown_maze_names_the_nearest() -> None:
    with pytest.raises(UserError, match=r"no maze 'hard_mase'.*hard_maze"):
        walls("hard_mase")
