"""Misbehaviour of users' environments and descriptor functions fails one episode and leaves the others unchanged."""

import os
from pathlib import Path
from typing import Any

import pytest
import torch

from qdrl.archives.hdf5 import content_digest
from qdrl.errors import UserError
from qdrl.evaluation import Evaluation
from qdrl.tasks.episodic import EpisodicTask
from qdrl.tasks.registry import make_task
from tests.helpers.processes import mpirun
from tests.tasks.builders import candidates, first_genomes
from tests.tasks.environments.misbehaving import DESCRIPTOR, ODD_BUT_FINE, RESET, STEP

RUN = """
[task]
name = "gym:tests.tasks.environments.misbehaving:Misbehaving-v0"
descriptor = "tests.tasks.environments.misbehaving:described"
axes = [{ name = "u", lower = -1.0, upper = 1.0 }, { name = "v", lower = -1.0, upper = 1.0 }]
episode_length = 6
kwargs = { fault = "by seed" }
[policy]
hidden_sizes = [4]
[archive]
kind = "grid"
shape = [4, 4]
[algorithm]
batch_size = 12
[run]
generations = 3
[compute]
worlds = 4
isolate = true
episode_seconds = 3.0
"""
ROWS = 15
FAULTY = [row % 3 == 1 for row in range(ROWS)]


def task_of(fault: str = "", *, worlds: int = 4, pids: str = "", **limits: Any) -> EpisodicTask:
    made = make_task(
        "gym:tests.tasks.environments.misbehaving:Misbehaving-v0",
        policy={"hidden_sizes": (4,)},
        worlds=worlds,
        descriptor="tests.tasks.environments.misbehaving:described",
        axes=[{"name": name, "lower": -1.0, "upper": 1.0} for name in "uv"],
        episode_length=6,
        kwargs={"fault": fault, "pids": pids},
        **limits,
    )
    assert isinstance(made, EpisodicTask)
    return made


def evaluate(task: EpisodicTask) -> Evaluation:
    return task.evaluate(candidates(first_genomes(task, ROWS)))


@pytest.fixture(scope="module")
def healthy() -> Evaluation:
    evaluation = evaluate(task_of())
    assert not evaluation.failed.any()
    return evaluation


def assert_failed_alone(evaluation: Evaluation, healthy: Evaluation) -> None:
    faulty = torch.tensor(FAULTY)
    assert torch.equal(evaluation.failed, faulty)
    assert evaluation.fitness[faulty].isnan().all()
    assert evaluation.descriptor[faulty].isnan().all()
    assert torch.equal(evaluation.fitness[~faulty], healthy.fitness[~faulty])
    assert torch.equal(evaluation.descriptor[~faulty], healthy.descriptor[~faulty])


@pytest.mark.parametrize("fault", [*RESET, *STEP, *DESCRIPTOR])
def test_misbehaviour_fails_its_evaluation_only_and_is_reported_once(
    fault: str, healthy: Evaluation, caplog: pytest.LogCaptureFixture
) -> None:
    task = task_of(fault)
    assert_failed_alone(evaluate(task), healthy)
    assert len(caplog.records) == 1
    assert "Misbehaving-v0: the evaluation with seed " in caplog.text
    assert task.first_failure is not None
    assert task.first_failure.count("\n") == 0
    assert task.first_failure in caplog.text
    assert ("Traceback" in caplog.text) == ("raises" in fault)


@pytest.mark.parametrize("fault", ODD_BUT_FINE)
def test_unusual_but_usable_answers_give_the_same_bits(fault: str, healthy: Evaluation) -> None:
    evaluation = evaluate(task_of(fault))
    assert torch.equal(evaluation.fitness, healthy.fitness)
    assert torch.equal(evaluation.descriptor, healthy.descriptor)


def test_ctrl_c_does_not_count_as_a_failed_evaluation(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(STEP, "ctrl-c", lambda answer: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        evaluate(task_of("ctrl-c"))


def test_a_hanging_step_fails_after_its_time_limit_and_other_rows_keep_their_bits(
    healthy: Evaluation, caplog: pytest.LogCaptureFixture
) -> None:
    evaluation = evaluate(task_of("hang", episode_seconds=0.7))
    assert_failed_alone(evaluation, healthy)
    assert len(caplog.records) == sum(FAULTY)
    for seed in (1, 4):
        line = f"seed {seed} failed after 2 steps: the episode exceeded compute.episode_seconds = 0.7 in 'step'"
        assert line in caplog.text


def test_the_end_of_a_worker_process_fails_its_evaluation_only(
    healthy: Evaluation, caplog: pytest.LogCaptureFixture, tmp_path: Path
) -> None:
    task = task_of("by seed", pids=str(tmp_path), isolate=True, episode_seconds=3.0)
    assert_failed_alone(evaluate(task), healthy)
    ends = ("exit code 3", "SIGABRT", "SIGSEGV", "compute.episode_seconds = 3 in 'step'", "exit code 3")
    for seed, end in zip(range(1, ROWS, 3), ends, strict=True):
        assert [end in line for line in caplog.text.splitlines() if f"seed {seed} " in line] == [True]
    pids = [int(path.name) for path in tmp_path.iterdir()]
    assert len(pids) > 4  # worlds whose process ended got a new process
    assert os.getpid() not in pids
    task.close()
    assert [pid for pid in pids if Path(f"/proc/{pid}").exists()] == []


def test_a_descriptor_function_that_exits_fails_its_evaluation_only(
    healthy: Evaluation, caplog: pytest.LogCaptureFixture
) -> None:
    task = task_of("descriptor exits", isolate=True)
    assert_failed_alone(evaluate(task), healthy)
    assert "exit code 5 in 'describe'" in caplog.text


@pytest.mark.slow
@pytest.mark.mpi
def test_workers_that_are_started_after_mpi_give_the_same_archive_on_any_number_of_ranks(tmp_path: Path) -> None:
    config = tmp_path / "config.toml"
    config.write_text(RUN)
    digests = set()
    for name, ranks, options in (("alone", 1, []), ("two", 2, []), ("survivors", 3, ["--with-ft", "ulfm"])):
        job = mpirun(ranks, ["-m", "qdrl", "evolve", config, "--output", tmp_path / name], 200, options)
        assert job.returncode == 0, job.stderr
        assert "SIGSEGV" in job.stderr
        assert "exceeded compute.episode_seconds" in job.stderr
        digests.add(content_digest(tmp_path / name / "archive.h5"))
    assert len(digests) == 1


@pytest.mark.parametrize("limit", [{"isolate": True}, {"episode_seconds": 1.0}])
def test_limits_of_users_code_are_an_error_for_tasks_without_users_code(limit: dict[str, Any]) -> None:
    match = rf"compute.{next(iter(limit))}: applies only to tasks behind 'gym:', not to 'arm'"
    with pytest.raises(UserError, match=match):
        make_task("arm", **limit)


def test_an_environment_that_no_worker_can_make_is_an_error_of_one_line() -> None:
    with pytest.raises(UserError, match=r"compute.isolate: .*entry_point='module:Class'"):
        make_task(
            "gym:CartPole-v1",
            descriptor="tests.tasks.environments.misbehaving:described",
            axes=[{"name": "u", "lower": 0.0, "upper": 1.0}],
            kwargs={"render_mode": lambda: None},
            isolate=True,
        )
