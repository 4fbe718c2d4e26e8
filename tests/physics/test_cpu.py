"""Many worlds compared with one world, and with direct calls of MuJoCo."""

from pathlib import Path

import mujoco
import numpy as np
import pytest
import torch
from torch import Tensor

from qdrl.physics import Worlds
from qdrl.physics.cpu import BatchWorlds, LoopWorlds, make_cpu_worlds
from qdrl.tasks.locomotion.models import build_model
from qdrl.tasks.locomotion.robots import ROBOTS

STEPS = 60
FIELDS = {
    BatchWorlds: ("qpos", "qvel", "sensordata", "xpos", "xipos"),
    LoopWorlds: ("qpos", "qvel", "sensordata", "xpos", "xipos", "cfrc_ext"),
}


@pytest.fixture(autouse=True, params=FIELDS, ids=lambda kind: kind.__name__)
def _kind(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Run every test with both kinds of worlds."""
    monkeypatch.setattr(Episode, "kind", request.param, raising=False)


class Episode:
    """A robot's model, an initial state and controls, which determine the physics of a world."""

    kind: type[BatchWorlds] | type[LoopWorlds]

    def __init__(self, robot: str, seed: int, steps: int = STEPS) -> None:
        draw = np.random.default_rng(seed)
        self.frame_skip = ROBOTS[robot].frame_skip
        self.model = build_model(ROBOTS[robot], touch=True)
        self.qpos = torch.from_numpy(self.model.qpos0 + draw.uniform(-0.05, 0.05, self.model.nq))
        self.qvel = torch.from_numpy(draw.normal(0, 0.1, self.model.nv))
        low, high = self.model.actuator_ctrlrange.T
        self.controls = torch.from_numpy(draw.uniform(low, high, (steps, self.model.nu)))

    def worlds(self, count: int, threads: int = 1) -> Worlds:
        worlds = make_cpu_worlds(
            self.model, count, frame_skip=self.frame_skip, fields=FIELDS[self.kind], threads=threads
        )
        assert type(worlds) is self.kind
        for tensor in worlds.state.values():
            tensor.fill_(torch.nan)
        return worlds

    def start(self, worlds: Worlds, slot: int) -> None:
        worlds.reset([slot], self.qpos[None], self.qvel[None])

    def alone(self) -> list[dict[str, Tensor]]:
        """Return the states after each step in a single world."""
        worlds = self.worlds(1)
        self.start(worlds, 0)
        return [self.go(worlds, 0, step) for step in range(len(self.controls))]

    def go(self, worlds: Worlds, slot: int, step: int) -> dict[str, Tensor]:
        worlds.control[slot] = self.controls[step]
        worlds.step(worlds.count)
        return states(worlds, slot)


def states(worlds: Worlds, slot: int) -> dict[str, Tensor]:
    return {name: tensor[slot].clone() for name, tensor in worlds.state.items()}


def assert_same(ours: dict[str, Tensor], theirs: dict[str, Tensor]) -> None:
    for name, tensor in ours.items():
        assert torch.isfinite(tensor).all(), name
        assert torch.equal(tensor, theirs[name]), name


@pytest.mark.parametrize("robot", ["hopper", "ant"])
def test_a_world_is_mujoco_stepped_by_hand(robot: str) -> None:
    episode = Episode(robot, seed=1)
    data = mujoco.MjData(episode.model)
    data.qpos[:], data.qvel[:] = episode.qpos.numpy(), episode.qvel.numpy()
    mujoco.mj_forward(episode.model, data)
    for control, state in zip(episode.controls, episode.alone(), strict=True):
        data.ctrl[:] = control.numpy()
        for _ in range(episode.frame_skip):
            mujoco.mj_step(episode.model, data)
        mujoco.mj_rnePostConstraint(episode.model, data)
        for name in FIELDS[Episode.kind]:
            np.testing.assert_array_equal(state[name].numpy(), getattr(data, name), err_msg=name)


@pytest.mark.parametrize("threads", [1, 3])
@pytest.mark.parametrize("robot", ["walker2d", "ant"])
def test_a_world_does_not_depend_on_its_slot_or_other_worlds(robot: str, threads: int) -> None:
    episodes = [Episode(robot, seed) for seed in range(5)]
    worlds = episodes[0].worlds(5, threads)
    slots = [3, 0, 4, 1, 2]
    for slot, episode in zip(slots, episodes, strict=True):
        episode.start(worlds, slot)
    expected = [episode.alone() for episode in episodes]
    for step in range(STEPS):
        for slot, episode in zip(slots, episodes, strict=True):
            worlds.control[slot] = episode.controls[step]
        worlds.step(5)
        for slot, alone in zip(slots, expected, strict=True):
            assert_same(states(worlds, slot), alone[step])


@pytest.mark.parametrize("threads", [1, 3])
@pytest.mark.parametrize("count", [0, 1, 2, 4])
def test_a_step_advances_the_first_worlds_only(count: int, threads: int) -> None:
    episode = Episode("hopper", seed=2)
    worlds = episode.worlds(5, threads)
    for slot in range(5):
        episode.start(worlds, slot)
    before = worlds.state["qpos"].clone()
    worlds.step(count)
    moved = (worlds.state["qpos"] != before).any(dim=1)
    assert moved.tolist() == [slot < count for slot in range(5)]


def test_a_reset_sets_the_requested_state() -> None:
    episode = Episode("walker2d", seed=3)
    worlds = episode.worlds(2)
    episode.start(worlds, 1)
    assert torch.equal(worlds.state["qpos"][1], episode.qpos)
    assert torch.equal(worlds.state["qvel"][1], episode.qvel)
    assert worlds.state["qpos"][0].isnan().all()
    data = mujoco.MjData(episode.model)
    data.qpos[:], data.qvel[:] = episode.qpos.numpy(), episode.qvel.numpy()
    mujoco.mj_forward(episode.model, data)
    np.testing.assert_array_equal(worlds.state["xpos"][1].numpy(), data.xpos)


@pytest.mark.parametrize("robot", ["walker2d", "ant", "humanoid"])
def test_a_reset_removes_all_state_of_the_episode_before(robot: str) -> None:
    """Otherwise the solver's warm start and the last control would change the first steps."""
    earlier, later = Episode(robot, seed=4), Episode(robot, seed=5)
    fallen = Episode(robot, seed=6).alone()[-1]  # on the ground, so that the solver has contacts from the first step
    later.qpos, later.qvel = fallen["qpos"], fallen["qvel"]
    worlds = later.worlds(1)
    earlier.start(worlds, 0)
    for step in range(STEPS):
        earlier.go(worlds, 0, step)
    later.start(worlds, 0)
    for step, alone in enumerate(later.alone()):
        assert_same(later.go(worlds, 0, step), alone)


def test_the_warm_start_is_kept_between_steps() -> None:
    """The warm start makes the states below differ from those without it, as in `mujoco.rollout`."""
    episode = Episode("humanoid", seed=6)
    kept = episode.alone()[-1]["qpos"]
    data = mujoco.MjData(episode.model)
    data.qpos[:], data.qvel[:] = episode.qpos.numpy(), episode.qvel.numpy()
    for control in episode.controls:
        data.qacc_warmstart[:] = 0
        data.ctrl[:] = control.numpy()
        mujoco.mj_step(episode.model, data, episode.frame_skip)
    assert not np.array_equal(kept.numpy(), data.qpos)


@pytest.mark.parametrize("robot", ["walker2d", "humanoid"])
def test_a_moved_world_continues_exactly_and_its_old_slot_can_be_reset(robot: str) -> None:
    episode, other = Episode(robot, seed=7), Episode(robot, seed=8)
    worlds = episode.worlds(3)
    for slot in range(3):
        (episode if slot == 2 else other).start(worlds, slot)
    expected = episode.alone()
    for step in range(STEPS // 2):
        episode.go(worlds, 2, step)
    at_the_move = states(worlds, 2)
    worlds.move(2, 0)
    assert_same(states(worlds, 0), at_the_move)
    other.start(worlds, 2)
    fresh = other.alone()
    for step in range(STEPS // 2, STEPS):
        worlds.control[2] = other.controls[step - STEPS // 2]
        assert_same(episode.go(worlds, 0, step), expected[step])
        assert_same(states(worlds, 2), fresh[step - STEPS // 2])


@pytest.mark.parametrize("threads", [1, 3])
@pytest.mark.parametrize("fault", ["nan control", "huge speed", "nan position"])
def test_a_broken_world_is_reported_until_its_reset_and_writes_no_log(
    fault: str, threads: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    episode = Episode("walker2d", seed=9)
    worlds = episode.worlds(3, threads)
    for slot in range(3):
        episode.start(worlds, slot)
    if fault == "nan control":
        worlds.control[1] = torch.nan
    elif fault == "huge speed":
        worlds.reset([1], episode.qpos[None], torch.full_like(episode.qvel, 1e12)[None])
    else:
        worlds.reset([1], torch.full_like(episode.qpos, torch.nan)[None], episode.qvel[None])
    worlds.control[[0, 2]] = episode.controls[0]
    worlds.step(3)
    assert [worlds.unstable(slot) for slot in range(3)] == [False, True, False]
    assert_same(states(worlds, 0), episode.alone()[0])
    worlds.move(1, 0)
    assert worlds.unstable(0)
    episode.start(worlds, 0)
    assert not worlds.unstable(0)
    assert list(tmp_path.iterdir()) == []
    assert capfd.readouterr() == ("", "")


def test_only_the_requested_fields_are_stored() -> None:
    model = build_model(ROBOTS["hopper"], touch=True)
    worlds = make_cpu_worlds(model, 2, frame_skip=4, fields=("qpos", "xpos"))
    assert {name: tuple(t.shape) for name, t in worlds.state.items()} == {
        "qpos": (2, model.nq),
        "xpos": (2, model.nbody, 3),
    }
    assert worlds.control.shape == (2, model.nu)
    assert worlds.control.dtype == worlds.state["qpos"].dtype == torch.float64
