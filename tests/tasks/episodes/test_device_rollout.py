"""Batches of episodes on Warp's CPU device, compared with the rollout of C MuJoCo."""

from functools import cache
from pathlib import Path
from typing import Any

import mujoco
import numpy as np
import pytest
import torch
from click.testing import CliRunner
from torch._subclasses.fake_tensor import FakeTensorMode

from qdrl.analysis.rerun import replay
from qdrl.archives.hdf5 import content_digest, open_archive
from qdrl.cli import qdrl
from qdrl.compute import devices
from qdrl.config import load_experiment
from qdrl.errors import UserError
from qdrl.evaluation import Candidates, Evaluation, Transitions
from qdrl.parallel.ranks import OneProcess
from qdrl.physics import budget
from qdrl.run.resume import resume
from qdrl.run.start import start
from qdrl.tasks.episodes import device_rollout
from qdrl.tasks.episodes.device_episodes import DeviceEpisodes
from qdrl.tasks.episodes.device_transitions import Record
from qdrl.tasks.locomotion.device_worlds import DeviceLocomotionWorlds
from qdrl.tasks.locomotion.settings import LOCOMOTION_NAMES
from qdrl.tasks.registry import make_task
from tests.helpers.devices import WARP_DEVICES
from tests.helpers.processes import mpirun
from tests.helpers.recorded import without_numpy

ROWS = 7
LENGTH = 9  # control steps, so that some episodes are terminated and others truncated; Warp takes 0.1 s for each
OTHERS = ("hopper", "halfcheetah", "humanoid")


@cache
def expected(device: str, name: str = "walker2d_uni", *, normalize: bool = True) -> Evaluation:
    """Return the evaluation that several tests compare with."""
    return evaluated(device, name, normalize=normalize)


def evaluated(
    device: str, name: str = "walker2d_uni", *, worlds: int = ROWS, normalize: bool = True, length: int = LENGTH
) -> Evaluation:
    policy = {"hidden_sizes": (8,), "normalize_observations": normalize, "observation_clip": 1, "deviation_floor": 0.5}
    task: Any = make_task(name, policy=policy, worlds=worlds, device=device, episode_length=length)
    genomes = np.stack([3 * task.initial(np.random.default_rng(row)) for row in range(ROWS)])
    none = torch.zeros(ROWS, dtype=torch.int64)
    candidates = Candidates(
        generation=0,
        rows=range(20, 20 + ROWS),
        genomes=torch.from_numpy(genomes),
        seeds=torch.arange(ROWS) + 100,
        emitter=none,
        parent_cell=none - 1,
        wants_transitions=True,
    )
    return task.evaluate(candidates)


@pytest.mark.parametrize("device", WARP_DEVICES)
@pytest.mark.parametrize(
    ("name", "normalize"),
    [
        ("hopper_uni", True),
        pytest.param("walker2d_uni", False, marks=pytest.mark.slow),
        pytest.param("walker2d_uni", True, marks=pytest.mark.slow),
        pytest.param("hopper_uni", False, marks=pytest.mark.slow),
    ],
)
def test_episodes_are_those_of_c_mujoco_to_single_precision(name: str, normalize: bool, device: str) -> None:
    ours, theirs = (expected(place, name, normalize=normalize) for place in (device, "cpu"))
    assert len(set(theirs.steps.tolist())) > 2
    assert torch.equal(ours.steps, theirs.steps)
    assert torch.equal(ours.descriptor, theirs.descriptor)
    assert not ours.failed.any()
    torch.testing.assert_close(ours.fitness, theirs.fitness, rtol=5e-3, atol=2e-2)
    assert (ours.observations is None) == (not normalize)
    if ours.observations is not None and theirs.observations is not None:
        assert torch.equal(ours.observations.count, theirs.observations.count)
        torch.testing.assert_close(ours.observations.mean, theirs.observations.mean, rtol=1e-2, atol=5e-3)
        torch.testing.assert_close(ours.observations.deviation, theirs.observations.deviation, rtol=2e-2, atol=1e-2)


@pytest.mark.parametrize("device", WARP_DEVICES)
def test_transitions_are_those_of_c_mujoco(device: str) -> None:
    ours, theirs = (expected(place).transitions for place in (device, "cpu"))
    assert ours is not None
    assert theirs is not None
    ours = Transitions(**{name: column.cpu() for name, column in vars(ours).items()})
    for name in ("row", "terminated", "truncated"):
        assert torch.equal(getattr(ours, name), getattr(theirs, name))
    assert theirs.terminated.any()
    assert theirs.truncated.any()
    for name in ("observation", "action", "reward", "next_observation"):
        torch.testing.assert_close(getattr(ours, name), getattr(theirs, name), rtol=1e-2, atol=5e-2)


@pytest.mark.slow
def test_the_descriptor_of_omni_tasks_is_the_final_position() -> None:
    evaluation = evaluated("warp-cpu", "humanoid_omni", length=18, normalize=False)
    assert len(set(evaluation.steps.tolist())) > 2
    seen = evaluation.transitions
    assert seen is not None
    ended = seen.next_observation[seen.terminated | seen.truncated]
    torch.testing.assert_close(ended[:, -3:-1].double() * 10.0, evaluation.descriptor, rtol=0, atol=1e-5)


def same(one: Evaluation, other: Evaluation) -> bool:
    assert one.transitions is not None
    assert other.transitions is not None
    transitions = zip(vars(one.transitions).values(), vars(other.transitions).values(), strict=True)
    columns = zip(one.columns().values(), other.columns().values(), strict=True)
    return all(torch.equal(a, b) for a, b in (*transitions, *columns))


@pytest.mark.parametrize("worlds", [3, pytest.param(11, marks=pytest.mark.slow)])
def test_results_are_the_same_for_any_number_of_worlds(worlds: int) -> None:
    assert same(expected("warp-cpu"), evaluated("warp-cpu", worlds=worlds))


@pytest.mark.slow
def test_a_batch_that_overflows_its_buffers_is_repeated_with_larger_ones(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    enough = expected("warp-cpu", "hopper_uni")
    monkeypatch.setattr(budget, "_needed", lambda _: (2, 2))
    monkeypatch.setattr(budget, "_LEAST", 1)
    assert same(evaluated("warp-cpu", "hopper_uni"), enough)
    assert "contacts overflowed in a world" in caplog.text


def test_the_error_for_too_many_worlds_names_how_many_fit(monkeypatch: pytest.MonkeyPatch) -> None:
    policy = {"hidden_sizes": (8,)}
    monkeypatch.setattr(devices, "free_memory", lambda _: 10_000_000)
    task: Any = make_task("hopper_uni", policy=policy, worlds=4000, device="warp-cpu")
    message = r"4000 worlds take 0\.0\d+ GB of cpu, of which 0\.01 GB are free for this rank: at most \d+$"
    with pytest.raises(UserError, match=message):
        task.rollout()
    fitting: Any = make_task("hopper_uni", policy=policy, worlds=100, device="warp-cpu", episode_length=1000)
    genomes = torch.zeros(100, fitting.parameters)
    none = torch.zeros(100, dtype=torch.int64)
    candidates = Candidates(0, range(100), genomes, none, none, none, wants_transitions=True)
    with pytest.raises(UserError, match="at most"):  # the recorded steps of a critic need more memory than the worlds
        fitting.evaluate(candidates)


@pytest.mark.slow
def test_rows_that_overflow_the_largest_buffers_fail_and_the_others_succeed(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    enough = expected("warp-cpu", "hopper_uni")
    starved = torch.zeros(ROWS, dtype=torch.int32)
    starved[2] = 1
    monkeypatch.setattr(device_rollout, "_ATTEMPTS", 2)
    monkeypatch.setattr(DeviceLocomotionWorlds, "overflows", property(lambda worlds: starved[: worlds.count]))
    found = evaluated("warp-cpu", "hopper_uni")
    assert found.failed.tolist() == [row == 2 for row in range(ROWS)]
    others = ~found.failed
    assert torch.equal(found.fitness[others], enough.fitness[others])
    assert found.transitions is not None
    assert 22 not in found.transitions.row.tolist()
    assert "1 rows still overflow the contact buffers after 1 doublings" in caplog.text


def test_a_broken_row_fails_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    whole, reset = expected("warp-cpu", "hopper_uni"), DeviceLocomotionWorlds.reset

    def breaking(worlds: DeviceLocomotionWorlds, slots: Any, seeds: Any) -> None:
        reset(worlds, slots, seeds)
        worlds.physics.state["qvel"][3, 0] = 1e12

    monkeypatch.setattr(DeviceLocomotionWorlds, "reset", breaking)
    found = evaluated("warp-cpu", "hopper_uni")
    assert found.failed.tolist() == [row == 3 for row in range(ROWS)]
    others = ~found.failed
    assert torch.equal(found.fitness[others], whole.fitness[others])
    assert torch.equal(found.descriptor[others], whole.descriptor[others])


def test_a_rank_without_rows_returns_empty_results() -> None:
    task: Any = make_task("hopper_uni", policy={"hidden_sizes": (8,)}, device="warp-cpu", episode_length=5)
    none = torch.zeros(0, dtype=torch.int64)
    genomes = torch.zeros(0, task.parameters)
    evaluation = task.evaluate(Candidates(0, range(0), genomes, none, none, none, wants_transitions=True))
    assert len(evaluation.fitness) == len(evaluation.transitions) == 0


class Nowhere:
    """Physics of tensors without data; see `qdrl.physics.gpu.WarpWorlds`."""

    count, device = ROWS, torch.device("meta")

    def __init__(self, model: mujoco.MjModel, fields: tuple[str, ...]) -> None:
        shapes = {name: np.shape(getattr(mujoco.MjData(model), name)) for name in (*fields, "ctrl")}
        self.state = {name: torch.zeros(ROWS, *shape, device=self.device) for name, shape in shapes.items()}
        self.control = self.state.pop("ctrl")
        self.unstable_worlds = torch.zeros(ROWS, dtype=torch.bool, device=self.device)
        self.overflows = torch.zeros(ROWS, dtype=torch.int32, device=self.device)

    def watch(self) -> None:
        self.unstable_worlds |= self.state["qpos"].isnan().any(1)


@pytest.mark.parametrize("normalize", [False, True])
@pytest.mark.parametrize("name", LOCOMOTION_NAMES)
def test_a_control_step_reads_nothing_from_its_device_and_moves_no_tensor(name: Any, normalize: bool) -> None:
    """A graph cannot read values from the device; tensors without data raise an error when read."""
    task: Any = make_task(name, policy={"hidden_sizes": (8,), "normalize_observations": normalize})
    made = task.make_worlds(1)
    with FakeTensorMode(allow_non_fake_inputs=True):
        physics: Any = Nowhere(made.model, tuple(made.physics.state))
        worlds = DeviceLocomotionWorlds(made._robot, made.model, physics, task.spec.observation_size)
        record = Record(5, ROWS, task.policy.observation_size, task.policy.action_size, physics.device)
        episodes = DeviceEpisodes(worlds, task.policy, len(task.spec.axes), record)
        before = dict(vars(episodes))
        for _ in range(2):
            episodes._decide()
            episodes._count()
        episodes.record_final_observation()
    assert all(vars(episodes)[attribute] is value for attribute, value in before.items())


@pytest.mark.parametrize(
    "name", ["ant_omni", *(pytest.param(f"{robot}_uni", marks=pytest.mark.slow) for robot in OTHERS)]
)
def test_tensors_on_a_gpu_compute_the_same_as_arrays_on_the_cpu(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    by_arrays = evaluated("warp-cpu", name, length=2)
    without_numpy(monkeypatch)
    by_tensors = evaluated("warp-cpu", name, length=2)
    torch.testing.assert_close(by_tensors.fitness, by_arrays.fitness, rtol=1e-3, atol=1e-3)
    torch.testing.assert_close(by_tensors.descriptor, by_arrays.descriptor, rtol=1e-3, atol=1e-3)


def test_tasks_without_mujoco_are_an_error_on_a_device() -> None:
    with pytest.raises(UserError, match="'point_omni' runs on cpu, not on 'cuda'"):
        make_task("point_omni", device="cuda")


CONFIG = """
name = "walker"
seed = 3
[task]
name = "walker2d_uni"
episode_length = 12
[policy]
hidden_sizes = [8]
normalize_observations = true
[archive]
cells = 32
samples = 2000
[algorithm]
name = "dcrl_map_elites"
batch_size = 12
gradient_rows = 3
actor_rows = 3
replay_capacity = 2000
critic = { steps = 4, hidden_sizes = [8], batch_size = 10 }
gradient = { steps = 3, batch_size = 10 }
[run]
generations = 3
checkpoint_seconds = 0
[compute]
worlds = 5
"""


@pytest.mark.slow
@pytest.mark.mpi
def test_a_run_is_the_same_on_two_ranks_and_after_a_stop_and_keeps_its_device(tmp_path: Path) -> None:
    config = tmp_path / "config.toml"
    config.write_text(CONFIG)
    experiment = load_experiment(config, ["compute.device=warp-cpu"])
    start(experiment, OneProcess(), folder=tmp_path / "alone", progress=False)
    digest = content_digest(tmp_path / "alone" / "archive.h5")
    command = ["-m", "qdrl", "evolve", config, "--device", "warp-cpu", "--output", tmp_path / "run"]
    job = mpirun(2, [*command, "--set", "run.generations=2"], timeout=180)
    assert job.returncode == 0, job.stderr
    with pytest.raises(UserError, match=r"compute\.device"):
        resume(tmp_path / "run", OneProcess(), overrides=["compute.device=cpu", "run.generations=3"])
    resume(tmp_path / "run", OneProcess(), overrides=["run.generations=3"], progress=False)
    assert content_digest(tmp_path / "run" / "archive.h5") == digest
    archive = open_archive(tmp_path / "run" / "archive.h5")
    assert archive.meta["config"]["compute"]["device"] == "warp-cpu"
    assert replay(archive, int(archive.elites["cell"][0])).same is None
    shown = CliRunner().invoke(
        qdrl, ["archive", "show", str(tmp_path / "run"), str(archive.elites["cell"][0]), "--replay"]
    )
    assert shown.exit_code == 0
    assert "by C MuJoCo; the file's numbers are MuJoCo Warp's" in shown.output


@pytest.mark.gpu
@pytest.mark.mpi
def test_ranks_that_share_a_gpu_give_one_archive_and_resume_after_a_stop(tmp_path: Path) -> None:
    config = tmp_path / "config.toml"
    config.write_text(CONFIG)
    command = ["-m", "qdrl", "evolve", config, "--device", "cuda", "--output", tmp_path / "run"]
    job = mpirun(2, [*command, "--set", "run.generations=3"], timeout=300)
    assert job.returncode == 0, job.stderr
    before = open_archive(tmp_path / "run" / "archive.h5")
    resume(tmp_path / "run", OneProcess(), overrides=["run.generations=6"], progress=False)
    after = open_archive(tmp_path / "run" / "archive.h5")
    assert after.history["generation"].tolist() == list(range(6))
    assert np.isfinite(after.elites["fitness"]).all()
    assert after.statistics().qd_score > before.statistics().qd_score
    assert sum(after.history["added_gradient"]) + sum(after.history["added_actor"]) > 0


def test_an_unknown_device_is_refused() -> None:
    with pytest.raises(SystemExit):
        qdrl(["evolve", "x.toml", "--device", "gpu"])
