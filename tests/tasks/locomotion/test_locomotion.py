"""Locomotion tasks compared with Gymnasium's environments or, if there is none, with hand-computed values."""

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import gymnasium
import mujoco
import numpy as np
import pytest
import torch

from qdrl.archives.statistics import Offsets
from qdrl.errors import UserError
from qdrl.streams import generator_from_seed
from qdrl.tasks.episodic import EpisodicTask
from qdrl.tasks.locomotion.behaviour import noisy_state
from qdrl.tasks.locomotion.models import build_model
from qdrl.tasks.locomotion.robots import ROBOTS
from qdrl.tasks.locomotion.settings import LOCOMOTION_NAMES
from qdrl.tasks.locomotion.worlds import LocomotionWorlds
from qdrl.tasks.registry import make_task
from tests.tasks.builders import candidates, first_genomes

UNI = ("walker2d_uni", "halfcheetah_uni", "hopper_uni", "ant_uni", "humanoid_uni")
OMNI = ("ant_omni", "anttrap_omni", "humanoid_omni")
# One geom for each foot, since Ant's foot bodies have no names.
FEET = {
    "walker2d_uni": ("foot_geom", "foot_left_geom"),
    "halfcheetah_uni": ("bfoot", "ffoot"),
    "hopper_uni": ("foot_geom",),
    "ant_uni": ("left_ankle_geom", "right_ankle_geom", "third_ankle_geom", "fourth_ankle_geom"),
    "humanoid_uni": ("right_foot", "left_foot"),
}
STEPS = 1000


def locomotion(name: str, **options: Any) -> EpisodicTask:
    task = make_task(name, worlds=1, **options)
    assert isinstance(task, EpisodicTask)
    return task


def worlds_of(task: EpisodicTask, count: int = 1) -> LocomotionWorlds:
    worlds = task.make_worlds(count)
    assert isinstance(worlds, LocomotionWorlds)
    return worlds


@contextmanager
def gymnasium_twin(task: EpisodicTask, worlds: LocomotionWorlds) -> Iterator[Any]:
    """Yield Gymnasium's environment in the state of world 0; unwrapped, so that it continues after a fall."""
    assert task.spec.gymnasium is not None
    made = gymnasium.make(task.spec.gymnasium["id"], **task.spec.gymnasium["kwargs"], disable_env_checker=True)
    twin: Any = made.unwrapped
    mujoco.mj_resetData(twin.model, twin.data)
    twin.set_state(*(worlds.physics.state[name][0].numpy() for name in ("qpos", "qvel")))
    yield twin
    made.close()


def pressed(twin: Any, probe: Any, control: np.ndarray, feet: tuple[str, ...]) -> list[bool]:
    """Return whether a contact with a force presses each foot, by a loop over all contacts.

    Sensors describe the beginning of the last physics step of a control step, so `probe`, a copy, is stepped to there.
    """
    model, force = twin.model, np.zeros(6)
    mujoco.mj_copyData(probe, model, twin.data)
    probe.ctrl[:] = control
    mujoco.mj_step(model, probe, twin.frame_skip - 1)
    mujoco.mj_forward(model, probe)
    bodies = [model.geom_bodyid[model.geom(name).id] for name in feet]
    found = [False] * len(feet)
    for index, contact in enumerate(probe.contact):
        mujoco.mj_contactForce(model, probe, index, force)
        for foot, body in enumerate(bodies):
            found[foot] |= bool(force[0] > 0 and body in model.geom_bodyid[contact.geom])
    return found


@pytest.mark.parametrize(
    ("name", "options"),
    [
        *(pytest.param(name, {}, marks=[] if name == "ant_uni" else [pytest.mark.slow]) for name in UNI),
        ("hopper_uni", {"healthy_reward": 0.0}),
    ],
)
def test_a_thousand_random_actions_give_exactly_the_states_of_gymnasium(name: str, options: dict[str, float]) -> None:
    task, draw = locomotion(name, **options), np.random.default_rng(0)
    worlds = worlds_of(task)
    for tensor in worlds.physics.state.values():
        tensor.fill_(torch.nan)
    worlds.reset([0], [123])
    touched, fallen = np.zeros(len(FEET[name])), 0
    with gymnasium_twin(task, worlds) as twin:
        probe = mujoco.MjData(twin.model)
        for step in range(1, STEPS + 1):
            action = torch.from_numpy(draw.uniform(-1, 1, (1, task.spec.action_size)))
            reward, terminated = worlds.step(action)
            control = worlds.physics.control[0].numpy()
            touched += pressed(twin, probe, control, FEET[name])
            observation, gym_reward, gym_terminated, _, _ = twin.step(control)
            assert np.array_equal(worlds.physics.state["qpos"][0].numpy(), twin.data.qpos), step
            assert np.array_equal(worlds.physics.state["qvel"][0].numpy(), twin.data.qvel), step
            assert abs(reward.item() - gym_reward) <= 1e-12, step
            assert terminated.item() == gym_terminated, step
            seen = worlds.observe(torch.tensor([step]))[0]
            assert np.array_equal(seen.numpy(), observation.astype(np.float32)), step
            assert np.array_equal(worlds.descriptor(0, step).numpy(), touched / step), step
            fallen += gym_terminated
    assert touched.min() > 0
    assert touched.max() < STEPS
    assert fallen > 0 or name == "halfcheetah_uni"
    assert not worlds.failed(0)


@pytest.mark.parametrize("name", UNI)
def test_actions_span_gymnasiums_action_space(name: str) -> None:
    task = locomotion(name)
    worlds = worlds_of(task)
    worlds.reset([0], [1])
    with gymnasium_twin(task, worlds) as twin:
        for sign, bound in ((-1.0, twin.action_space.low), (1.0, twin.action_space.high)):
            worlds.step(torch.full((1, task.spec.action_size), sign))
            np.testing.assert_array_equal(worlds.physics.control[0].numpy().astype(np.float32), bound)


@pytest.mark.parametrize("name", LOCOMOTION_NAMES)
def test_the_description_of_a_task_fits_its_worlds(name: str) -> None:
    task = locomotion(name)
    worlds = worlds_of(task, 2)
    worlds.reset([0, 1], [1, 2])
    reward, terminated = worlds.step(torch.zeros(2, task.spec.action_size))
    assert worlds.observe(torch.ones(2, dtype=torch.int64)).shape == (2, task.spec.observation_size)
    assert (reward.dtype, terminated.dtype) == (torch.float64, torch.bool)
    assert worlds.descriptor(1, 1).shape == (len(task.spec.axes),)
    assert task.spec.offsets == Offsets(step_offset=task.spec.reward_offset or 0.0)
    assert make_task(**task.spec.options).spec == task.spec


@pytest.mark.parametrize("offset", [0.0, 0.9])  # some rewards of these episodes are below -0.9
def test_an_offset_in_fitness_is_added_to_every_reward_before_the_clip_at_zero(offset: float) -> None:
    options: dict[str, Any] = {"episode_length": 40, "reward_offset": offset}
    plain = locomotion("walker2d_uni", **options)
    shifted = locomotion("walker2d_uni", **options, offset_in_fitness=True)
    assert plain.spec.offsets == Offsets(step_offset=offset)
    assert shifted.spec.offsets == Offsets(included_offset=offset)
    assert (shifted.spec.reward_offset, shifted.spec.gymnasium) == (0.0, None)
    rows = replace(candidates(first_genomes(plain, 6, scale=3.0)), wants_transitions=True)
    before, after = plain.evaluate(rows), shifted.evaluate(rows)
    assert before.transitions is not None
    assert after.transitions is not None
    assert torch.equal(before.descriptor, after.descriptor)
    reward, row = before.transitions.reward, before.transitions.row
    assert bool((reward + offset < 0).any())
    lifted = (reward + offset).clamp(min=0)
    torch.testing.assert_close(after.transitions.reward, lifted)
    by_hand = torch.stack([lifted[row == index].double().sum() for index in range(6)])
    torch.testing.assert_close(after.fitness, by_hand, rtol=0, atol=1e-4)


@pytest.mark.parametrize("name", ["walker2d_uni", "ant_uni"])
def test_initial_states_have_gymnasiums_distribution_and_depend_on_the_seed_only(name: str) -> None:
    task = locomotion(name)
    worlds = worlds_of(task)
    robot = ROBOTS[name.removesuffix("_uni")]
    draws = [(generator_from_seed(seed), robot.noise, robot.velocity_noise) for seed in range(400)]
    ours = np.array([np.concatenate(noisy_state(worlds.model, *draw)) for draw in draws])
    assert task.spec.gymnasium is not None
    with gymnasium.make(task.spec.gymnasium["id"], **task.spec.gymnasium["kwargs"], disable_env_checker=True) as env:
        twin: Any = env.unwrapped
        theirs = []
        for seed in range(400):
            env.reset(seed=seed)
            theirs.append(twin.state_vector())
    np.testing.assert_allclose(ours.mean(0), np.mean(theirs, axis=0), atol=0.4 * robot.noise)
    np.testing.assert_allclose(ours.std(0), np.std(theirs, axis=0), rtol=0.25, atol=1e-12)
    worlds.reset([0], [17])
    np.testing.assert_array_equal(
        np.concatenate([worlds.physics.state[part][0].numpy() for part in ("qpos", "qvel")]), ours[17]
    )


def test_without_noise_every_episode_starts_in_the_models_initial_state() -> None:
    worlds = worlds_of(locomotion("hopper_uni", initial_noise=0.0), 2)
    worlds.reset([0, 1], [1, 2])
    assert torch.equal(worlds.physics.state["qpos"][0], torch.from_numpy(worlds.model.qpos0))
    assert torch.equal(worlds.physics.state["qpos"][0], worlds.physics.state["qpos"][1])
    assert not worlds.physics.state["qvel"].any()


@pytest.mark.parametrize("name", UNI)
def test_the_rewards_of_a_row_do_not_depend_on_other_rows(name: str) -> None:
    task = locomotion(name)
    many, alone = worlds_of(task, 13), worlds_of(task)
    actions = torch.from_numpy(np.random.default_rng(1).uniform(-1, 1, (30, 13, task.spec.action_size)))
    many.reset(range(13), range(13))
    rewards = torch.stack([many.step(action)[0].clone() for action in actions])
    for world in (0, 5, 12):
        alone.reset([0], [world])
        same = torch.cat([alone.step(action[world : world + 1])[0].clone() for action in actions])
        assert torch.equal(rewards[:, world], same)


@pytest.mark.parametrize(("name", "alive", "cost"), [("ant_omni", 1.0, 0.5), ("humanoid_omni", 5.0, 0.1)])
def test_omni_tasks_reward_survival_and_low_effort_only(name: str, alive: float, cost: float) -> None:
    worlds = worlds_of(locomotion(name))
    worlds.reset([0], [1])
    speeds = worlds.physics.state["qvel"].clone()
    speeds[0, 0], speeds[0, 2] = 3.0, 5.0  # m/s: forward, which has no reward, and up, out of the healthy range
    worlds.physics.reset([0], worlds.physics.state["qpos"].clone(), speeds)
    actions = torch.from_numpy(np.random.default_rng(2).uniform(-1, 1, (200, 1, worlds.model.nu)))
    ends = []
    for action in actions:
        reward, terminated = worlds.step(action)
        spent = cost * np.square(worlds.physics.control[0].numpy()).sum()
        height = worlds.physics.state["qpos"][0, 2].item()
        healthy = 0.2 <= height <= 1.0 if name == "ant_omni" else 1.0 < height < 2.0
        assert reward.item() == pytest.approx(alive * healthy - spent, abs=1e-12)
        assert terminated.item() is not healthy
        ends.append(terminated.item())
    place = worlds.physics.state["qpos"][0, :2]
    assert torch.equal(worlds.descriptor(0, 200), place)
    assert place[0] > 0.3
    assert any(ends)


def test_omni_policies_observe_position_and_remaining_time() -> None:
    task = locomotion("ant_omni", episode_length=40, reach=20.0)
    worlds = worlds_of(task)
    worlds.reset([0], [3])
    worlds.step(torch.zeros(1, 8))
    seen = worlds.observe(torch.tensor([10]))[0]
    qpos, qvel = worlds.physics.state["qpos"][0], worlds.physics.state["qvel"][0]
    expected = torch.cat([qpos[2:], qvel, qpos[:2] / 20.0, torch.tensor([0.75])])
    assert torch.equal(seen, expected.float())
    assert (task.spec.axes[0].lower, task.spec.axes[0].upper) == (-20.0, 20.0)


WALLS = {  # by name of the wall: initial position of the ant in m and initial velocity in m/s
    "trap back": ((10.5, 0.0), (8.0, 0.0)),
    "trap left": ((9.5, 1.5), (0.0, 8.0)),
    "trap right": ((9.5, -1.5), (0.0, -8.0)),
}


@pytest.mark.parametrize("wall", WALLS)
def test_an_ant_pushed_into_the_trap_is_stopped_by_its_wall(wall: str) -> None:
    assert farthest("ant_omni", wall) > 1.5
    assert farthest("anttrap_omni", wall) < 1.5


def test_the_trap_is_open_in_front_and_has_no_walls_elsewhere() -> None:
    model = build_model(ROBOTS["ant"], touch=False, trap=True)
    boxes = [(model.geom(wall).pos, model.geom(wall).size) for wall in WALLS]
    lower, upper = (np.array([p + sign * s for p, s in boxes]) for sign in (-1, 1))
    np.testing.assert_allclose(lower.min(0), [7, -3.25, 0])
    np.testing.assert_allclose(upper.max(0), [12.25, 3.25, 1])
    mouth = np.array([7.0, 0.0, 0.5])
    assert not ((lower <= mouth) & (mouth <= upper)).all(1).any()


def farthest(name: str, wall: str) -> float:
    """Return how far the torso moves towards a wall, in m; in the trap, also check for contacts with the wall."""
    worlds = worlds_of(locomotion(name))
    model, data = worlds.model, mujoco.MjData(worlds.model)
    start, push = WALLS[wall]
    data.qpos[:] = model.qpos0
    data.qpos[:2], data.qvel[:2] = start, push
    qpos, qvel = (torch.from_numpy(part.copy())[None] for part in (data.qpos, data.qvel))
    worlds.physics.reset([0], qpos, qvel)
    distances, touched = [], set()
    for _ in range(40):
        worlds.step(torch.zeros(1, 8))
        mujoco.mj_step(model, data, 5)
        assert np.array_equal(worlds.descriptor(0, 1).numpy(), data.qpos[:2])
        touched |= {model.geom(geom).name for contact in data.contact for geom in contact.geom}
        distances.append(float(np.dot(data.qpos[:2] - start, push) / np.linalg.norm(push)))
    assert (wall in touched) == (name == "anttrap_omni")
    return max(distances)


@pytest.mark.parametrize("name", LOCOMOTION_NAMES)
def test_the_stored_model_simulates_exactly_like_the_compiled_one(name: str) -> None:
    task, draw = locomotion(name), np.random.default_rng(3)
    assert task.mjcf is not None
    models = mujoco.MjModel.from_xml_string(task.mjcf), worlds_of(task).model
    datas = [mujoco.MjData(model) for model in models]
    for _ in range(100):
        control = draw.uniform(*models[0].actuator_ctrlrange.T)
        for data, model in zip(datas, models, strict=True):
            data.ctrl[:] = control
            mujoco.mj_step(model, data, 5)
        np.testing.assert_array_equal(datas[0].qpos, datas[1].qpos)


def test_making_a_task_writes_nothing_and_warns_of_nothing(tmp_path: Path) -> None:
    """Run in a new process: MuJoCo's warnings, once silenced, stay silenced in a process."""
    code = "from qdrl.tasks.registry import make_task; make_task('halfcheetah_uni')"
    done = subprocess.run([sys.executable, "-W", "error", "-c", code], cwd=tmp_path, capture_output=True, check=True)
    assert (done.stdout, done.stderr) == (b"", b"")
    assert list(tmp_path.iterdir()) == []


def test_robots_that_cannot_fall_have_no_reward_for_health() -> None:
    with pytest.raises(UserError, match="halfcheetah_uni has no healthy state"):
        make_task("halfcheetah_uni", healthy_reward=0.0)
    without, usual = locomotion("walker2d_uni", healthy_reward=0.0), locomotion("walker2d_uni")
    assert without.spec.gymnasium is not None
    assert without.spec.gymnasium["kwargs"]["healthy_reward"] == 0.0
    assert usual.spec.options["healthy_reward"] == 1.0


def test_reach_is_an_error_for_a_task_without_it() -> None:
    with pytest.raises(UserError, match="reach"):
        make_task("ant_uni", reach=5.0)
