"""The hard maze in pictures from above: the same physics, and correct pictures."""

from itertools import pairwise
from typing import Any

import numpy as np
import pytest
import torch

from qdrl.tasks.episodic import EpisodicTask
from qdrl.tasks.image_maze import ImageMazeWorlds
from qdrl.tasks.registry import make_task
from tests.tasks.builders import candidates, first_genomes

POLICY = {
    "kind": "conv",
    "convolutions": ({"filters": 2, "size": 8, "stride": 8},),
    "hidden_sizes": (4,),
}


def task_of(name: str = "image_hard_maze", worlds: int = 3, **options: Any) -> EpisodicTask:
    task = make_task(name, policy=POLICY if name.startswith("image") else None, worlds=worlds, **options)
    assert isinstance(task, EpisodicTask)
    return task


def driven(task: EpisodicTask, count: int, steps: int) -> tuple[object, list[torch.Tensor]]:
    worlds, draw, seen = task.make_worlds(count), np.random.default_rng(1), []
    worlds.reset(range(count), range(count))
    for _ in range(steps):
        action = torch.from_numpy(draw.uniform(-1, 1, (1, 2)).astype(np.float32))
        worlds.step(action.expand(count, 2))
        seen.append(worlds.observe(torch.zeros(count)).reshape(count, 4, 84, 84)[-1])
    return worlds, seen


def test_physics_and_payoff_are_those_of_the_hard_maze() -> None:
    found = []
    for name in ("hard_maze", "image_hard_maze"):
        worlds = task_of(name).make_worlds(2)
        worlds.reset([0, 1], [0, 0])
        actions = torch.from_numpy(np.random.default_rng(0).uniform(-1, 1, (400, 2, 2)).astype(np.float32))
        rewards = [worlds.step(action)[0].clone() for action in actions]
        found.append([torch.stack(rewards), worlds.descriptor(0, 400), worlds.descriptor(1, 400)])
    assert all(torch.equal(one, other) for one, other in zip(*found, strict=True))


def test_the_picture_shows_the_robots_position_and_heading() -> None:
    worlds = task_of().make_worlds(1)
    assert isinstance(worlds, ImageMazeWorlds)
    worlds.reset([0], [0])
    first = worlds.observe(torch.zeros(1)).reshape(4, 84, 84)
    assert all(torch.equal(picture, first[0]) for picture in first)
    robot = (first[0].numpy() != worlds._background).nonzero()
    scale = 83 / 197  # the maze is 197 units high and less wide
    assert robot[1].mean() == pytest.approx((36 - 3) * scale, abs=0.5)
    assert robot[0].mean() == pytest.approx((184 - 5) * scale, abs=0.5)
    assert len(robot[0]) == pytest.approx(np.pi * (8 * scale) ** 2, rel=0.15)
    front = (first[0].numpy() == 1.0) & (worlds._background == 0)
    rear = first[0].numpy() == 0.5
    assert front.nonzero()[1].mean() > rear.nonzero()[1].mean() + 2  # its heading is +x


def test_the_latest_picture_is_the_last_channel() -> None:
    _, seen = driven(task_of(), 1, 12)
    for before, after in pairwise(seen):
        assert torch.equal(before[1:], after[:-1])
    assert not torch.equal(seen[-1][3], seen[-1][2])


def test_pictures_do_not_depend_on_other_worlds() -> None:
    (_, one), (_, many) = driven(task_of(), 1, 30), driven(task_of(), 5, 30)
    assert all(torch.equal(a, b) for a, b in zip(one, many, strict=True))


def test_a_moved_world_keeps_its_pictures() -> None:
    worlds, seen = driven(task_of(), 3, 10)
    assert isinstance(worlds, ImageMazeWorlds)
    worlds.move(2, 0)
    assert torch.equal(worlds.observe(torch.zeros(1)).reshape(4, 84, 84), seen[-1])


def test_an_episode_does_not_depend_on_the_number_of_worlds() -> None:
    found = [
        task.evaluate(candidates(first_genomes(task, 5)))
        for task in (task_of(worlds=count, episode_length=30) for count in (1, 2, 5))
    ]
    for evaluation in found[1:]:
        assert torch.equal(evaluation.fitness, found[0].fitness)
        assert torch.equal(evaluation.descriptor, found[0].descriptor)
    assert (found[0].fitness < 0).all()


def test_a_broken_world_shows_no_robot() -> None:
    worlds = task_of().make_worlds(2)
    worlds.reset([0, 1], [0, 0])
    worlds.step(torch.tensor([[torch.nan, 0.0], [0.0, 0.0]]))
    worlds.step(torch.zeros(2, 2))
    assert worlds.failed(0)
    assert not worlds.failed(1)
    assert torch.isfinite(worlds.observe(torch.zeros(2))).all()
