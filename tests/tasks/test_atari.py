"""Atari games: seeded, independent of other worlds, and counted in frames."""

from typing import Any

import numpy as np
import pytest
import torch

from qdrl.config import parse_experiment
from qdrl.errors import UserError
from qdrl.parallel.ranks import OneProcess
from qdrl.run.build import build
from qdrl.run.start import start
from qdrl.tasks.atari import AtariSettings, AtariWorlds
from qdrl.tasks.registry import make_task
from tests.tasks.builders import candidates, first_genomes

pytest.importorskip("ale_py")
pytestmark = pytest.mark.atari
POLICY = {
    "kind": "conv",
    "convolutions": ({"filters": 2, "size": 8, "stride": 8},),
    "hidden_sizes": (4,),
    "output": "linear",
}
EXPERIMENT = {
    "name": "atari",
    "task": {"name": "atari:frostbite", "episode_length": 20},
    "policy": {**POLICY, "convolutions": list(POLICY["convolutions"]), "hidden_sizes": [4]},
    "archive": {"kind": "grid", "shape": [5, 5]},
    "algorithm": {"name": "deep_ga", "batch_size": 6, "parents": 2, "candidates": 2, "candidate_episodes": 2},
    "run": {"frames": 600},
    "compute": {"worlds": 3},
}


def played(worlds: AtariWorlds, slots: range, seeds: list[int], steps: int = 25) -> list[Any]:
    """Return the observations and scores of these slots when all play the same buttons."""
    worlds.reset(slots, seeds)
    seen, buttons = [], np.random.default_rng(0).integers(18, size=steps)
    for button in buttons:
        actions = torch.zeros(slots.stop, 18)
        actions[:, button] = 1.0
        reward, over = worlds.step(actions)
        pictures = worlds.observe(torch.zeros(slots.stop))
        seen.append((reward[slots.start :].clone(), over[slots.start :].clone(), pictures[slots.start :].clone()))
    return seen


def same(one: list[Any], other: list[Any]) -> bool:
    steps = zip(one, other, strict=True)
    return all(torch.equal(a, b) for first, second in steps for a, b in zip(first, second, strict=True))


def test_a_game_depends_on_its_seed_only() -> None:
    settings = AtariSettings(name="atari:frostbite")
    two = AtariWorlds(settings, 2)
    first = played(two, range(2), [11, 12])
    again = played(two, range(2), [11, 12])  # after other games
    assert same(first, again)
    alone = played(AtariWorlds(settings, 1), range(1), [12])
    assert all(torch.equal(a[0], b[1]) for x, y in zip(alone, first, strict=True) for a, b in zip(x, y, strict=True))
    assert not all(torch.equal(pictures[0], pictures[1]) for _, _, pictures in first)


def test_a_world_moved_to_another_slot_continues_there() -> None:
    settings = AtariSettings(name="atari:pong")
    straight, moved = AtariWorlds(settings, 3), AtariWorlds(settings, 3)
    for worlds in (straight, moved):
        worlds.reset([0, 1, 2], [5, 6, 7])
    moved.move(2, 0)
    still = torch.zeros(3, 18)
    for _ in range(20):
        straight.step(still)
        moved.step(still[:2])
    assert torch.equal(moved.observe(torch.zeros(2)), straight.observe(torch.zeros(3))[[2, 1]])


def test_policies_observe_four_pictures_between_0_and_1() -> None:
    worlds = AtariWorlds(AtariSettings(name="atari:pong"), 2)
    *_, (_, _, pictures) = played(worlds, range(2), [1, 2], steps=8)
    assert pictures.shape == (2, 4 * 84 * 84)
    assert pictures.dtype == torch.float32
    assert 0.0 <= pictures.min() < pictures.max() <= 1.0
    assert len({picture.numpy().tobytes() for picture in pictures[0].view(4, -1)}) > 1


def test_descriptors_are_episode_length_and_share_of_button_presses() -> None:
    worlds = AtariWorlds(AtariSettings(name="atari:pong", episode_length=50), 1)
    worlds.reset([0], [3])
    for button in (1, 0, 17, 2):  # fire, nothing, down, left and fire, up
        actions = torch.zeros(1, 18)
        actions[0, button] = 1.0
        worlds.step(actions)
    assert worlds.descriptor(0, 4).tolist() == [4 / 50, 0.5]


@pytest.mark.parametrize("normalised", [0, pytest.param(4, marks=pytest.mark.slow)])
def test_a_rows_result_does_not_depend_on_the_number_of_games(normalised: int) -> None:
    found = []
    for worlds in (1, 3):
        policy = {**POLICY, "virtual_batch_norm": normalised}
        task = make_task("atari:frostbite", policy=policy, worlds=worlds, episode_length=10)
        found.append(task.evaluate(candidates(first_genomes(task, 5))))
    for evaluation in found[1:]:
        assert torch.equal(evaluation.fitness, found[0].fitness)
        assert torch.equal(evaluation.descriptor, found[0].descriptor)


def test_a_run_is_counted_in_frames(tmp_path: Any) -> None:
    outcome = start(parse_experiment(EXPERIMENT), OneProcess(), folder=tmp_path / "run", progress=False)
    lines = (outcome.folder / "metrics.csv").read_text().splitlines()
    names = lines[0].split(",")
    frames = [float(line.split(",")[names.index("frames")]) for line in lines[1:]]
    steps = [float(line.split(",")[names.index("env_steps")]) for line in lines[1:]]
    assert frames == [4 * count for count in steps]
    assert frames[-2] < 600 <= frames[-1]


def test_unknown_games_and_frames_of_other_tasks_are_errors() -> None:
    with pytest.raises(UserError, match=r"no game 'frostbit'; did you mean 'frostbite'"):
        make_task("atari:frostbit", policy=POLICY)
    point = {**EXPERIMENT, "task": {"name": "point_omni"}, "policy": {}}
    with pytest.raises(UserError, match="task 'point_omni' has no frames; set"):
        build(parse_experiment(point))
    with pytest.raises(UserError, match="convolutions need a task with image observations"):
        build(parse_experiment({**point, "policy": {"kind": "conv"}}))
