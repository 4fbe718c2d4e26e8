"""Tasks from Gymnasium environments, with the descriptor functions of this module."""

import contextlib
import gc
import json
import logging
import tracemalloc
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import gymnasium
import h5py
import numpy as np
import pytest
import torch
from gymnasium.envs.mujoco.half_cheetah_v5 import HalfCheetahEnv
from gymnasium.spaces import Box, Dict, Discrete, MultiBinary

from qdrl.archives.seals import write_seal
from qdrl.config import parse_experiment
from qdrl.errors import UserError
from qdrl.evaluation import Evaluation
from qdrl.parallel.ranks import OneProcess
from qdrl.run.build import build
from qdrl.run.resume import resume
from qdrl.run.start import start
from qdrl.tasks.episodic import EpisodicTask
from qdrl.tasks.gym import Trajectory
from qdrl.tasks.registry import make_task
from tests.tasks.builders import candidates, first_genomes

UNIT = {"name": "u", "lower": 0.0, "upper": 1.0}
ROWS = 7


def last_place(trajectory: Trajectory) -> list[float]:
    return [trajectory.observations[-1][0], len(trajectory.rewards) / 500]


def raises_on_odd_lengths(trajectory: Trajectory) -> list[float]:
    if len(trajectory.rewards) % 2:
        raise RuntimeError("an odd episode")
    return last_place(trajectory)


def three_numbers(trajectory: Trajectory) -> list[float]:
    return [0.1, 0.2, 0.3]


def looks_closely(trajectory: Trajectory) -> list[float]:
    steps = len(trajectory.rewards)
    assert isinstance(trajectory.observations, np.ndarray)
    assert trajectory.observations.shape == (steps + 1, 4)
    assert trajectory.observations.dtype == np.float64
    assert np.shape(trajectory.actions) == (steps,)
    assert len(trajectory.infos) == steps
    assert trajectory.terminated or steps == 500
    assert np.array_equal(np.float32(trajectory.env.unwrapped.state), trajectory.observations[-1])
    return [float(np.mean(trajectory.actions)), 0.0]


def first_of_every_observation(trajectory: Trajectory) -> list[float]:
    return [float(np.ptp(np.asarray(trajectory.observations)[:, 0])), trajectory.observations[-1][0]]


not_a_function = 3


class Counting(gymnasium.Env):
    """Observe the number of steps, always in the same array; `fault` names an error in some episodes."""

    observation_space = Box(-np.inf, np.inf, (2,), np.float64)
    action_space: gymnasium.Space = Box(-1, 3, (1,), np.float64)
    made = closed = 0

    def __init__(self, fault: str = "", action_space: Any = None, observation_space: Any = None) -> None:
        type(self).made += 1
        self.fault, self.buffer = fault, np.zeros(2)
        self.action_space = action_space or self.action_space
        self.observation_space = observation_space or self.observation_space

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[np.ndarray, dict]:
        super().reset(seed=seed)
        self.buffer[:] = 0
        self.faulty = bool(seed and seed % 3 == 1)
        if self.faulty and self.fault == "reset":
            raise RuntimeError("cannot begin")
        return self.buffer, {}

    def close(self) -> None:
        type(self).closed += 1

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict]:
        self.buffer += 1
        fault = self.fault if self.faulty and self.buffer[0] == 3 else ""
        if fault == "step":
            raise RuntimeError("cannot continue")
        observation = np.zeros(5) if fault == "shape" else self.buffer
        reward = {"nan": np.nan, "text": "much"}.get(fault, float(np.sum(action)))
        return observation, reward, False, False, {}  # pyright: ignore[reportReturnType]


@pytest.fixture(autouse=True)
def _registered() -> Iterator[None]:
    gymnasium.register("QdrlCounting-v0", entry_point=f"{__name__}:Counting", disable_env_checker=True)
    yield
    for name in [name for name in gymnasium.registry if name.startswith("Qdrl")]:
        del gymnasium.registry[name]


def gym_task(
    name: str, describe: str = "last_place", *, worlds: int = 3, axes: int = 2, **options: Any
) -> EpisodicTask:
    task = make_task(
        f"gym:{name}",
        worlds=worlds,
        policy=options.pop("policy", {"hidden_sizes": (4,)}),
        descriptor=f"tests.tasks.test_gym:{describe}",
        axes=[UNIT] * axes,
        **options,
    )
    assert isinstance(task, EpisodicTask)
    return task


def counting(describe: str = "last_place", *, worlds: int = 3, **kwargs: Any) -> EpisodicTask:
    return gym_task("QdrlCounting-v0", describe, worlds=worlds, episode_length=6, kwargs=kwargs)


def evaluate(task: EpisodicTask) -> Evaluation:
    return task.evaluate(candidates(first_genomes(task, ROWS)))


@pytest.mark.parametrize("name", ["CartPole-v1", "Pendulum-v1"])
def test_a_row_is_an_episode_of_plain_gymnasium(name: str) -> None:
    task = gym_task(name)
    evaluation, genomes, population = evaluate(task), first_genomes(task, ROWS), task.policy.population(1)
    with gymnasium.make(name) as plain:
        for row in range(ROWS):
            population.load([0], genomes[row : row + 1])
            observation, _ = plain.reset(seed=row)
            total, steps, over = 0.0, 0, False
            while not over:
                output = population.act(torch.from_numpy(observation)[None].float())[0].numpy()
                action: Any = int(output.argmax()) if name == "CartPole-v1" else 2 * output
                observation, reward, terminated, truncated, _ = plain.step(action)
                total, steps, over = total + float(reward), steps + 1, terminated or truncated
            assert evaluation.fitness[row].item() == total
            assert evaluation.steps[row] == steps
            assert evaluation.descriptor[row].tolist() == [observation[0], steps / 500]


@pytest.mark.parametrize("worlds", [1, 2, 20])
def test_results_do_not_depend_on_the_number_of_worlds(worlds: int) -> None:
    ours, reference = evaluate(gym_task("CartPole-v1", worlds=worlds)), evaluate(gym_task("CartPole-v1"))
    assert torch.equal(ours.fitness, reference.fitness)
    assert torch.equal(ours.descriptor, reference.descriptor)


def test_a_descriptor_function_receives_the_whole_episode_as_arrays() -> None:
    assert not evaluate(gym_task("CartPole-v1", "looks_closely")).failed.any()


def test_observations_are_copied_if_an_environment_reuses_its_array() -> None:
    assert evaluate(counting("first_of_every_observation")).descriptor.tolist() == [[6.0, 6.0]] * ROWS


def test_outputs_are_scaled_to_the_action_space() -> None:
    task = counting()
    genomes = torch.zeros(3, task.parameters)
    genomes[:, -1] = torch.tensor([-50.0, 0.0, 50.0])  # the last bias: tanh gives -1, 0, 1
    assert task.evaluate(candidates(genomes)).fitness.tolist() == [-6.0, 6.0, 18.0]


def test_a_discrete_space_may_start_at_another_number_than_zero() -> None:
    task = counting(action_space=Discrete(3, start=5))
    genomes = torch.zeros(1, task.parameters)
    genomes[0, -1] = 1.0
    assert task.evaluate(candidates(genomes)).fitness.tolist() == [42.0]


def test_a_raising_descriptor_function_fails_its_evaluation_only(
    caplog: pytest.LogCaptureFixture,
) -> None:
    evaluation = evaluate(gym_task("CartPole-v1", "raises_on_odd_lengths"))
    odd = evaluation.steps % 2 == 1
    assert odd.any()
    assert not odd.all()
    assert torch.equal(evaluation.failed, odd)
    assert torch.equal(evaluation.fitness.isnan(), odd)
    assert torch.equal(evaluation.descriptor.isnan().all(1), odd)
    assert [record.levelno for record in caplog.records] == [logging.WARNING]
    assert "an odd episode" in caplog.text


def test_a_descriptor_of_the_wrong_shape_fails_and_the_log_names_the_expected_one(
    caplog: pytest.LogCaptureFixture,
) -> None:
    assert evaluate(gym_task("CartPole-v1", "three_numbers")).failed.all()
    assert "returned shape (3,), expected (2,)" in caplog.text


@pytest.mark.parametrize("worlds", [1, 3, 20])
@pytest.mark.parametrize(("fault", "steps"), [("step", 3), ("reset", 1), ("shape", 3), ("nan", 3), ("text", 3)])
def test_a_raising_environment_fails_its_evaluation_only(
    fault: str, steps: int, worlds: int, caplog: pytest.LogCaptureFixture
) -> None:
    healthy, evaluation = evaluate(counting(worlds=worlds)), evaluate(counting(worlds=worlds, fault=fault))
    faulty = torch.tensor([row % 3 == 1 for row in range(ROWS)])
    assert torch.equal(evaluation.failed, faulty)
    assert evaluation.steps.tolist() == [steps if is_faulty else 6 for is_faulty in faulty]
    assert torch.equal(evaluation.fitness[~faulty], healthy.fitness[~faulty])
    assert torch.equal(evaluation.descriptor[~faulty], healthy.descriptor[~faulty])
    assert len(caplog.records) == 1


def test_an_environment_that_raised_is_replaced() -> None:
    task = counting(worlds=1, fault="step")
    evaluate(task)
    made = Counting.made
    evaluate(task)
    assert Counting.made == made + 2  # rows 1 and 4 of 7 broke it


def test_environments_are_made_on_demand_and_closed_when_replaced_or_at_the_end() -> None:
    gc.collect()  # closes the environments of earlier tests
    Counting.made = Counting.closed = 0
    task = counting(worlds=64)
    evaluate(task)
    assert (Counting.made, Counting.closed) == (ROWS, 0)
    task.close()
    assert Counting.closed == ROWS
    gc.collect()  # closes the environments of earlier tests
    Counting.made = Counting.closed = 0
    task = counting(worlds=64, fault="step")
    evaluate(task)
    assert (Counting.made, Counting.closed) == (ROWS, 2)
    del task
    gc.collect()
    assert Counting.closed == Counting.made


def test_an_environment_that_cannot_be_used_is_closed() -> None:
    Counting.made = Counting.closed = 0
    with pytest.raises(UserError, match="bounded Box"):
        counting(action_space=MultiBinary(2))
    assert (Counting.made, Counting.closed) == (1, 1)


class Reusing(Counting):
    """Reuse one info dict in every step, and modify the actions."""

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict]:
        observation, _, *rest = super().step(action)
        self.info = getattr(self, "info", {"array": np.zeros(1), "nested": {"steps": [0]}})
        self.info["array"][:] = self.info["nested"]["steps"][0] = self.info["number"] = self.buffer[0]
        action[:] = 99
        return observation, 0.0, *rest[:2], self.info  # pyright: ignore[reportReturnType]


def every_info_and_action(trajectory: Trajectory) -> list[float]:
    numbers = [(info["array"][0], info["nested"]["steps"][0], info["number"]) for info in trajectory.infos]
    assert numbers == [(step, step, step) for step in range(1, 7)]
    return [0.5, float(np.abs(trajectory.actions).max())]


def test_values_that_an_environment_reuses_or_changes_are_copied() -> None:
    gymnasium.register("QdrlReusing-v0", entry_point=f"{__name__}:Reusing", disable_env_checker=True)
    evaluation = evaluate(gym_task("QdrlReusing-v0", "every_info_and_action", episode_length=6))
    assert not evaluation.failed.any()
    assert (evaluation.descriptor[:, 1] <= 3).all()


@pytest.mark.parametrize("output", ["tanh", "clip", "linear"])
def test_actions_are_clipped_to_their_box(output: str) -> None:
    task = gym_task("QdrlCounting-v0", episode_length=6, policy={"hidden_sizes": (), "output": output})
    genomes = torch.zeros(2, task.parameters)
    genomes[:, -1] = torch.tensor([-1e9, 1e9])
    assert task.evaluate(candidates(genomes)).fitness.tolist() == [-6.0, 18.0]


def test_discrete_actions_are_the_argmax_of_linear_outputs() -> None:
    kwargs = {"action_space": Discrete(3)}
    task = gym_task("QdrlCounting-v0", episode_length=6, kwargs=kwargs, policy={"hidden_sizes": ()})
    genomes = torch.zeros(1, task.parameters)
    genomes[0, -3:] = torch.tensor([30.0, 31.0, 32.0])  # a float32 tanh is 1 for all of them
    assert task.evaluate(candidates(genomes)).fitness.item() == 12.0
    assert task.describe_policy()["output"] == "linear"  # pyright: ignore[reportOptionalSubscript]
    as_stored = gym_task(
        "QdrlCounting-v0", episode_length=6, kwargs=kwargs, policy={"hidden_sizes": ()}, policy_as_given=True
    )
    assert as_stored.evaluate(candidates(genomes)).fitness.item() == 0.0


def test_a_run_with_discrete_actions_from_a_tanh_is_not_resumed_with_linear_outputs(tmp_path: Path) -> None:
    axes = [UNIT | {"unit": "1"}] * 2
    experiment = {
        "name": "x",
        "task": {"name": "gym:CartPole-v1", "descriptor": "tests.tasks.test_gym:last_place", "axes": axes},
        "policy": {"hidden_sizes": []},
        "archive": {"kind": "grid", "shape": [2, 2]},
        "algorithm": {"name": "map_elites", "batch_size": 2},
        "run": {"generations": 1},
    }
    start(parse_experiment(experiment), OneProcess(), folder=tmp_path / "run", progress=False)
    checkpoint: Any = h5py.File(tmp_path / "run" / "checkpoint.h5", "r+")
    with checkpoint as file:
        policy = json.loads(file["meta/policy"].asstr()[()])
        assert policy["output"] == "linear"
        del file["meta/policy"]
        file["meta/policy"] = json.dumps(policy | {"output": "tanh"})
    write_seal(tmp_path / "run" / "checkpoint.h5")
    with pytest.raises(UserError, match=r"policies have policy.output 'tanh', this version gives them 'linear'"):
        resume(tmp_path / "run", OneProcess(), overrides=["run.generations=2"], progress=False)


class Filming(gymnasium.Env):
    """Observe images of a constant value."""

    observation_space = Box(0, 255, (64, 64, 3), np.uint8)
    action_space = Box(-1, 1, (1,), np.float32)

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[np.ndarray, dict]:
        self.steps = 0
        return np.zeros((64, 64, 3), np.uint8), {}

    def step(self, action: Any) -> tuple[np.ndarray, float, bool, bool, dict]:
        self.steps += 1
        return np.full((64, 64, 3), self.steps, np.uint8), 0.0, False, False, {}


def shape_of_images(trajectory: Trajectory) -> list[float]:
    assert trajectory.observations.dtype == np.uint8
    assert trajectory.observations[-1, -1] == len(trajectory.rewards)
    return [len(trajectory.observations), trajectory.observations.shape[1]]


@pytest.mark.parametrize(("keep", "images"), [(None, 101), ("all", 101), ("last", 1)])
def test_images_keep_their_dtype_and_are_freed_after_their_episode(keep: str | None, images: int) -> None:
    gymnasium.register("QdrlFilming-v0", entry_point=f"{__name__}:Filming", disable_env_checker=True)
    linear = {"hidden_sizes": ()}
    task = gym_task("QdrlFilming-v0", "shape_of_images", episode_length=100, keep_observations=keep, policy=linear)
    batch = candidates(first_genomes(task, 3))
    task.evaluate(batch)
    tracemalloc.start()
    try:
        evaluation = task.evaluate(batch)
        now, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert evaluation.descriptor.tolist() == [[images, 64 * 64 * 3]] * 3
    image = 64 * 64 * 3
    assert peak < (3 * images + images + 20 * 4) * image  # three episodes, and one of them as an array
    assert now < 10 * image


def test_an_unversioned_id_is_stored_with_the_version_that_was_made() -> None:
    axes = [UNIT | {"unit": "1"}] * 2
    experiment = {
        "name": "x",
        "task": {"name": "gym:CartPole", "descriptor": "tests.tasks.test_gym:last_place", "axes": axes},
        "archive": {"kind": "grid", "shape": [2, 2]},
        "run": {"generations": 1},
    }
    parts = build(parse_experiment(experiment))
    assert parts.task.spec.name == parts.task.spec.options["name"] == "gym:CartPole-v1"
    assert parts.experiment.resolved()["task"]["name"] == "gym:CartPole-v1"
    assert parts.task.spec.gymnasium == {"id": "CartPole-v1", "kwargs": {}}


class Exploding(HalfCheetahEnv):
    def step(self, action: Any) -> Any:
        self.steps = getattr(self, "steps", 0) + 1
        if self.steps == 4:
            self.data.qvel[:] = 1e12
        return super().step(action)


def test_an_episode_whose_physics_explodes_fails(caplog: pytest.LogCaptureFixture, tmp_path: Path) -> None:
    gymnasium.register("QdrlExploding-v0", entry_point=f"{__name__}:Exploding", disable_env_checker=True)
    task = gym_task("QdrlExploding-v0", episode_length=10, worlds=2)
    with contextlib.chdir(tmp_path):  # MuJoCo writes a log
        evaluation = task.evaluate(candidates(first_genomes(task, 2)))
    assert evaluation.failed.all()
    assert evaluation.steps.tolist() == [4, 4]
    assert "MuJoCo warned of a bad state" in caplog.text


def remembering(**options: Any) -> gymnasium.Env:
    return gymnasium.wrappers.NormalizeObservation(gymnasium.make("Pendulum-v1", **options))


def test_a_run_warns_once_of_an_environment_that_keeps_state_between_episodes(tmp_path: Path) -> None:
    gymnasium.register("QdrlRemembering-v0", entry_point=f"{__name__}:remembering", disable_env_checker=True)
    experiment = {
        "name": "x",
        "task": {
            "name": "gym:QdrlRemembering-v0",
            "descriptor": "tests.tasks.test_gym:last_place",
            "axes": [UNIT | {"unit": "1"}] * 2,
            "episode_length": 5,
        },
        "policy": {"hidden_sizes": []},
        "archive": {"kind": "grid", "shape": [2, 2]},
        "algorithm": {"name": "map_elites", "batch_size": 2},
        "run": {"generations": 2},
    }
    start(parse_experiment(experiment), OneProcess(), folder=tmp_path / "run", progress=False)
    assert (tmp_path / "run" / "log.txt").read_text().count("elites cannot be rerun exactly") == 1


class Unseeded(Counting):
    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[np.ndarray, dict]:
        super().reset(seed=None)
        return self.np_random.uniform(size=2), {}


def test_unrepeatable_environments_are_found_in_a_few_steps() -> None:
    gymnasium.register("QdrlRemembering-v0", entry_point=f"{__name__}:remembering", disable_env_checker=True)
    gymnasium.register("QdrlUnseeded-v0", entry_point=f"{__name__}:Unseeded", disable_env_checker=True)
    for healthy in ("CartPole-v1", "Pendulum-v1", "QdrlCounting-v0"):
        assert gym_task(healthy, episode_length=50).find_warning() is None
    warning = gym_task("QdrlRemembering-v0", episode_length=50).find_warning()
    assert warning is not None
    assert "keeps state from one episode to the next, as its wrapper NormalizeObservation does" in warning
    assert "elites cannot be rerun exactly" in warning
    assert "\n" not in warning
    warning = gym_task("QdrlUnseeded-v0", episode_length=50).find_warning()
    assert warning is not None
    assert "gave different episodes for the same seed" in warning


MISTAKES = {
    "no such environment": ("Nope-v0", {}, "Nope"),
    "no limit": ("QdrlCounting-v0", {}, "episode_length: .*no limit"),
    "wrong kwargs": ("CartPole-v1", {"kwargs": {"gravity": 3}}, "gravity"),
    "unbounded actions": (
        "QdrlCounting-v0",
        {"episode_length": 5, "kwargs": {"action_space": Box(-np.inf, np.inf, (1,))}},
        "bounded Box",
    ),
    "binary actions": (
        "QdrlCounting-v0",
        {"episode_length": 5, "kwargs": {"action_space": MultiBinary(2)}},
        "Discrete",
    ),
    "dict observations": (
        "QdrlCounting-v0",
        {"episode_length": 5, "kwargs": {"observation_space": Dict(a=Discrete(2))}},
        "policies need a Box",
    ),
    "no such function": ("CartPole-v1", {"describe": "last_plaice"}, "did you mean 'last_place'"),
    "not a function": ("CartPole-v1", {"describe": "not_a_function"}, "not a function"),
    "no axes": ("CartPole-v1", {"axes": 0}, "axes"),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_users_mistake_is_an_error_of_one_line(mistake: str) -> None:
    name, options, message = MISTAKES[mistake]
    with pytest.raises(UserError, match=message) as caught:
        gym_task(name, **options)
    assert "\n" not in str(caught.value)


def test_the_error_for_a_missing_descriptor_module_names_it() -> None:
    with pytest.raises(UserError, match="nowhere"):
        make_task("gym:CartPole-v1", descriptor="nowhere.near:function", axes=[UNIT])


def test_the_options_make_the_same_task_again() -> None:
    task = gym_task("Pendulum-v1", episode_length=20, kwargs={"g": 9.0}, qd_offset=-400.0)
    again = make_task(**task.spec.options, policy=task.policy.settings)
    assert again.spec == task.spec
    assert torch.equal(evaluate(task).fitness, again.evaluate(candidates(first_genomes(again, ROWS))).fitness)


def test_observation_statistics_leave_out_failed_rows() -> None:
    task = gym_task(
        "QdrlCounting-v0",
        episode_length=6,
        kwargs={"fault": "step"},
        policy={"hidden_sizes": (), "normalize_observations": True},
    )
    evaluation = evaluate(task)
    task.update(evaluation)
    assert task.normalizer is not None
    assert task.normalizer.count == 6 * int((~evaluation.failed).sum())
    np.testing.assert_allclose(task.normalizer.mean, 2.5)
