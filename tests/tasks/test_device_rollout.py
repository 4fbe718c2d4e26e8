"""Whole batches of episodes on a device, on Warp's CPU device, beside the slots of C MuJoCo."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from click.testing import CliRunner

from qdrl.archives.hdf5 import content_digest, open_archive
from qdrl.cli import qdrl
from qdrl.config import load_experiment
from qdrl.errors import UserError
from qdrl.evaluation import Candidates, Evaluation
from qdrl.physics import gpu
from qdrl.ranks import OneProcess
from qdrl.replays import replay
from qdrl.run import resume, start
from qdrl.tasks import make_task
from tests.mpi import mpirun
from tests.physics.test_gpu import DEVICES

ROWS = 7


def evaluated(
    device: str, name: str = "walker2d_uni", *, worlds: int = ROWS, normalize: bool = True, length: int = 24
) -> Evaluation:
    policy = {"hidden_sizes": (8,), "normalize_observations": normalize}
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


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("normalize", [False, True])
@pytest.mark.parametrize("name", ["walker2d_uni", "hopper_uni"])
def test_episodes_are_those_of_c_mujoco_to_single_precision(name: str, normalize: bool, device: str) -> None:
    ours, theirs = (evaluated(place, name, normalize=normalize) for place in (device, "cpu"))
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


@pytest.mark.parametrize("device", DEVICES)
def test_transitions_are_those_of_c_mujoco(device: str) -> None:
    ours, theirs = (evaluated(place).transitions for place in (device, "cpu"))
    assert ours is not None
    assert theirs is not None
    for name in ("row", "terminated", "truncated"):
        assert torch.equal(getattr(ours, name), getattr(theirs, name))
    assert theirs.terminated.any()
    assert theirs.truncated.any()
    for name in ("observation", "action", "reward", "next_observation"):
        torch.testing.assert_close(getattr(ours, name), getattr(theirs, name), rtol=1e-2, atol=5e-2)


def test_the_descriptor_of_omni_tasks_is_where_each_episode_ended() -> None:
    evaluation = evaluated("warp-cpu", "humanoid_omni", length=30, normalize=False)
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


@pytest.mark.parametrize("worlds", [3, 11])
def test_results_are_the_same_for_any_number_of_worlds(worlds: int) -> None:
    assert same(evaluated("warp-cpu"), evaluated("warp-cpu", worlds=worlds))


def test_a_batch_that_ran_out_of_room_is_done_again_with_more(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    expected = evaluated("warp-cpu", "hopper_uni")
    monkeypatch.setattr(gpu, "_needed", lambda _: (0, 0))
    monkeypatch.setattr(gpu, "_LEAST", 1)
    assert same(evaluated("warp-cpu", "hopper_uni"), expected)
    assert "a world needed more room" in caplog.text


def test_more_worlds_than_memory_holds_are_refused_with_how_many_fit(monkeypatch: pytest.MonkeyPatch) -> None:
    policy = {"hidden_sizes": (8,)}
    monkeypatch.setattr(gpu, "free_memory", lambda _: 10_000_000)
    with pytest.raises(
        UserError, match=r"4000 worlds take 0\.04\d+ GB of cpu, of which 0\.01 GB are free: at most \d+$"
    ):
        make_task("hopper_uni", policy=policy, worlds=4000, device="warp-cpu")
    fitting: Any = make_task("hopper_uni", policy=policy, worlds=100, device="warp-cpu", episode_length=1000)
    genomes = torch.zeros(100, fitting.parameters)
    none = torch.zeros(100, dtype=torch.int64)
    candidates = Candidates(0, range(100), genomes, none, none, none, wants_transitions=True)
    with pytest.raises(UserError, match="at most"):  # steps kept for a critic take more than worlds
        fitting.evaluate(candidates)


def test_tasks_without_mujoco_are_refused_on_a_device() -> None:
    with pytest.raises(UserError, match="only locomotion runs on 'cuda', not point_omni"):
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


@pytest.mark.mpi
def test_a_run_is_the_same_on_two_ranks_and_after_a_stop_and_goes_on_with_its_own_device(tmp_path: Path) -> None:
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


def test_an_unknown_device_is_refused() -> None:
    with pytest.raises(SystemExit):
        qdrl(["evolve", "x.toml", "--device", "gpu"])
