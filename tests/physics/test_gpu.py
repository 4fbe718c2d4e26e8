"""MuJoCo Warp behind the physics interface, on Warp's CPU device, compared with C MuJoCo."""

import os
import sys
from collections.abc import Sequence

import mujoco
import numpy as np
import pytest
import torch
from torch import Tensor

from qdrl.compute.devices import check_memory, device_of
from qdrl.errors import UserError
from qdrl.physics import Worlds
from qdrl.physics.budget import ContactBudget
from qdrl.physics.cpu import make_cpu_worlds
from qdrl.physics.gpu import WarpWorlds, world_bytes
from qdrl.streams import generator_from_seed
from qdrl.tasks.locomotion.behaviour import noisy_state
from qdrl.tasks.locomotion.models import build_model
from qdrl.tasks.locomotion.robots import ROBOTS
from tests.helpers.devices import WARP_DEVICES

# After ten control steps of the same random controls from the same states: m or rad, and m/s or rad/s.
TOLERANCES = {
    "hopper": (2e-6, 2e-5),
    "walker2d": (2e-5, 5e-4),
    "halfcheetah": (3e-4, 4e-2),
    "ant": (5e-5, 5e-4),
    "humanoid": (2e-5, 5e-4),
}
SLOW = ("walker2d", "halfcheetah", "humanoid")
COMPARED = [pytest.param(name, marks=[pytest.mark.slow] if name in SLOW else []) for name in TOLERANCES]


def model_of(name: str) -> mujoco.MjModel:
    model = build_model(ROBOTS[name], touch=True)
    if name == "ant":
        # MuJoCo Warp rotates the friction pyramid of a leg steeper than 30 degrees from the vertical (mujoco issue
        # 2774). A friction cone has no orientation, so this difference disappears.
        model.opt.cone = mujoco.mjtCone.mjCONE_ELLIPTIC
    return model


def fields_of(name: str) -> tuple[str, ...]:
    return "qpos", "qvel", "sensordata", *ROBOTS[name].reward_fields


def worlds_of(name: str, count: int, budget: ContactBudget | None = None, device: str = "warp-cpu") -> WarpWorlds:
    model = model_of(name)
    return WarpWorlds(
        model,
        count,
        frame_skip=ROBOTS[name].frame_skip,
        fields=fields_of(name),
        budget=budget or ContactBudget(model),
        device=device_of(device),
    )


def states_of(name: str, seeds: Sequence[int]) -> tuple[Tensor, Tensor]:
    robot, model = ROBOTS[name], model_of(name)
    states = [noisy_state(model, generator_from_seed(seed), robot.noise, robot.velocity_noise) for seed in seeds]
    qpos, qvel = (torch.from_numpy(np.stack(part)) for part in zip(*states, strict=True))
    return qpos, qvel


def controls_of(name: str, steps: int, count: int) -> Tensor:
    limits = torch.from_numpy(model_of(name).actuator_ctrlrange.copy())
    uniform = torch.rand(steps, count, len(limits), dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    return limits[:, 0] + (limits[:, 1] - limits[:, 0]) * uniform


def everything(worlds: WarpWorlds, rows: Sequence[int]) -> dict[str, Tensor]:
    return {name: tensor[list(rows)].clone() for name, tensor in worlds.state.items()}


def apart(ours: WarpWorlds, theirs: Worlds, field: str) -> float:
    return float((ours.state[field].cpu() - theirs.state[field]).abs().max())


def same(one: dict[str, Tensor], other: dict[str, Tensor]) -> bool:
    return all(torch.equal(tensor, other[name]) for name, tensor in one.items())


@pytest.mark.parametrize("device", WARP_DEVICES)
@pytest.mark.parametrize("name", COMPARED)
def test_ten_control_steps_are_those_of_mujoco_and_the_same_feet_touch(name: str, device: str) -> None:
    count, robot = 6, ROBOTS[name]
    ours = worlds_of(name, count, device=device)
    theirs = make_cpu_worlds(model_of(name), count, frame_skip=robot.frame_skip, fields=fields_of(name))
    for worlds in (ours, theirs):
        worlds.reset(range(count), *states_of(name, range(count)))
    touched = 0
    for control in controls_of(name, 10, count):
        for worlds in (ours, theirs):
            worlds.control[:] = control
            worlds.step(count)
        same = (ours.state["sensordata"].cpu() > 0) == (theirs.state["sensordata"] > 0)
        assert bool(same.all())
        touched += int((theirs.state["sensordata"] > 0).sum())
    assert touched > 0
    for field, tolerance in zip(("qpos", "qvel"), TOLERANCES[name], strict=True):
        assert apart(ours, theirs, field) < tolerance
    for field in set(fields_of(name)) & {"xpos", "xipos"}:
        assert apart(ours, theirs, field) < TOLERANCES[name][0]
    if "cfrc_ext" in fields_of(name):
        assert apart(ours, theirs, "cfrc_ext") < 1e-3 * float(theirs.state["cfrc_ext"].abs().max()) + 1e-2
    assert not ours.overflows.any()


def test_torch_tensors_share_the_memory_of_the_simulation() -> None:
    worlds = worlds_of("hopper", 2)
    assert worlds.control.data_ptr() == worlds._data.ctrl.ptr
    assert worlds.state["qpos"].data_ptr() == worlds._data.qpos.ptr


def test_a_reset_clears_its_worlds_and_leaves_the_others_unchanged() -> None:
    controls = controls_of("hopper", 8, 3)
    worlds, alone = worlds_of("hopper", 3), worlds_of("hopper", 3)
    for each in (worlds, alone):
        each.reset(range(3), *states_of("hopper", (1, 2, 3)))
        for control in controls[:4]:
            each.control[:] = control
            each.step(3)
    before = everything(worlds, (0, 2))
    worlds.reset([1], *states_of("hopper", [7]))
    assert same(before, everything(worlds, (0, 2)))
    fresh = worlds_of("hopper", 3)
    fresh.reset(range(3), *states_of("hopper", (9, 7, 8)))
    assert same(everything(worlds, [1]), everything(fresh, [1]))
    for control in controls[4:]:
        for each in (worlds, alone, fresh):
            each.control[:] = control
            each.step(3)
    for one, other, rows in ((worlds, alone, (0, 2)), (worlds, fresh, (1,))):
        assert same(everything(one, rows), everything(other, rows))


def test_a_moved_world_continues_unchanged() -> None:
    controls = controls_of("hopper", 8, 3)
    worlds, alone = worlds_of("hopper", 3), worlds_of("hopper", 3)
    for each in (worlds, alone):
        each.reset(range(3), *states_of("hopper", (1, 2, 3)))
    for step, control in enumerate(controls):
        if step == 4:
            worlds.move(2, 0)
        for each in (worlds, alone):
            each.control[:] = control[2]
            each.step(3)
    assert same(everything(worlds, [0]), everything(alone, [2]))


@pytest.mark.parametrize("value", [torch.nan, 1e11])
def test_a_broken_world_is_reported_until_its_reset_and_breaks_no_other(value: float) -> None:
    worlds, alone = worlds_of("hopper", 3), worlds_of("hopper", 3)
    for each in (worlds, alone):
        each.reset(range(3), *states_of("hopper", (1, 2, 3)))
    worlds.state["qvel"][1, 0] = value
    for control in controls_of("hopper", 4, 3):
        for each in (worlds, alone):
            each.control[:] = control
            each.step(3)
    assert [worlds.unstable(world) for world in range(3)] == [False, True, False]
    assert same(everything(worlds, (0, 2)), everything(alone, (0, 2)))
    worlds.reset([1], *states_of("hopper", [1]))
    assert not worlds.unstable(1)


def test_an_overflow_of_the_contact_buffers_is_reported() -> None:
    budget = ContactBudget(model_of("hopper"))
    budget.contacts, budget.constraints = 1, 1
    worlds = worlds_of("hopper", 2, budget)
    worlds.reset(range(2), *states_of("hopper", (1, 2)))
    assert not worlds.overflows.any()
    for control in controls_of("hopper", 15, 2):
        worlds.control[:] = control
        worlds.step(2)
    assert worlds.overflows.all()
    worlds.reset([1], *states_of("hopper", [1]))
    assert (worlds.overflows != 0).tolist() == [True, False]
    budget.grow()
    assert (budget.contacts, budget.constraints) == (2, 2)


def test_a_solver_at_its_iteration_limit_is_not_an_overflow() -> None:
    worlds = worlds_of("hopper", 2)
    kinds = worlds._mjw.OverflowType
    worlds._overflow[0] = int(kinds.ITERATIONS | kinds.LS_ITERATIONS)
    worlds._overflow[1] = int(kinds.NEFC | kinds.ITERATIONS)
    assert worlds.overflows.tolist() == [0, int(kinds.NEFC)]


def test_the_memory_of_a_world_is_that_of_its_arrays() -> None:
    model = model_of("ant")
    budget = ContactBudget(model)
    each = world_bytes(model, budget)
    assert each > 8 * (model.nq + 5 * model.nv)
    budget.grow()
    assert world_bytes(model, budget) > each + 4 * model.nv * budget.constraints // 2


@pytest.mark.parametrize("name", TOLERANCES)
def test_the_contact_budget_is_at_least_twice_the_need_of_random_actions(name: str) -> None:
    model = model_of(name)
    budget, data = ContactBudget(model), mujoco.MjData(model)
    most = [0, 0]
    for control in controls_of(name, 400, 1):
        data.ctrl[:] = control[0]
        mujoco.mj_step(model, data)
        most = [max(most[0], data.ncon), max(most[1], data.nefc)]
    assert budget.contacts > most[0]
    assert budget.constraints > most[1]


def test_a_missing_gpu_or_library_is_an_error_of_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    if not torch.cuda.is_available():
        with pytest.raises(UserError, match="torch finds no GPU"):
            device_of("cuda")
    monkeypatch.setitem(sys.modules, "warp", None)
    with pytest.raises(UserError, match=r"pip install 'qdrl\[gpu\]'"):
        worlds_of("hopper", 1)


def test_ranks_of_a_node_use_its_gpus_in_turn(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    chosen = []
    monkeypatch.setattr(torch.cuda, "set_device", chosen.append)
    for rank, index in (("0", 0), ("1", 1), ("2", 0)):
        monkeypatch.setenv("OMPI_COMM_WORLD_LOCAL_RANK", rank)
        assert device_of("cuda") == chosen[-1] == torch.device("cuda", index)


def test_ranks_that_share_a_device_share_its_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sysconf", {"SC_AVPHYS_PAGES": 10, "SC_PAGE_SIZE": 100}.get)
    monkeypatch.setenv("OMPI_COMM_WORLD_LOCAL_SIZE", "3")
    known = {"device_count": 2, "mem_get_info": (1000, 5000), "memory_reserved": 80, "memory_allocated": 60}
    for name, value in known.items():
        monkeypatch.setattr(torch.cuda, name, lambda _=None, value=value: value)
    monkeypatch.setattr(torch.cuda, "synchronize", lambda _: None)
    check_memory(52, 10, torch.device("cuda", 0))  # half of 1000, and the 20 in torch's cache
    with pytest.raises(UserError, match=r"at most 52$"):
        check_memory(53, 10, torch.device("cuda", 0))
    with pytest.raises(UserError, match=r"at most 33$"):
        check_memory(34, 10, torch.device("cpu"))
