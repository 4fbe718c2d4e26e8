"""`qdrl.check_task` accepts tasks that keep the contract and names the rule that another task breaks."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import gymnasium
import numpy as np
import pytest
import torch
from torch import Tensor

import qdrl
from qdrl.errors import UserError
from qdrl.evaluation import Candidates, Evaluation, evaluated
from qdrl.policies.settings import MlpSettings
from qdrl.streams import generator_from_seed
from qdrl.tasks.base import Task
from qdrl.tasks.episodic import EpisodicTask
from qdrl.tasks.functions import FunctionTask
from qdrl.tasks.point import PointWorlds
from qdrl.tasks.registry import make_task

POINT = make_task("point_omni", episode_length=12).spec
ARM = make_task("arm").spec


class Points(PointWorlds):
    """The worlds of point_omni; each subclass breaks one rule of the contract."""

    def __init__(self, count: int) -> None:
        super().__init__(count, 12)


class Unseeded(Points):
    def reset(self, slots: Any, seeds: Any) -> None:
        super().reset(slots, np.random.default_rng().integers(2**31, size=len(seeds)).tolist())


class Remembering(Points):
    def reset(self, slots: Any, seeds: Any) -> None:
        for slot, seed in zip(slots, seeds, strict=True):
            self._state[slot, :2] = torch.from_numpy(generator_from_seed(seed).uniform(-0.1, 0.1, 2))


class Coupled(Points):
    def step(self, actions: Tensor) -> tuple[Tensor, Tensor]:
        self._state[: len(actions), 0] += 1e-12 * len(actions)
        return super().step(actions)


class LeftBehind(Points):
    def move(self, source: int, target: int) -> None:
        self._state[target, :3] = self._state[source, :3]


class ResettingAll(Points):
    def reset(self, slots: Any, seeds: Any) -> None:
        self._state[:, 2:] = 0.0
        super().reset(slots, seeds)


class NanReward(Points):
    def step(self, actions: Tensor) -> tuple[Tensor, Tensor]:
        reward, terminated = super().step(actions)
        return reward * torch.nan, terminated


class InfiniteDescriptor(Points):
    def descriptor(self, slot: int, steps: int) -> Tensor:
        return torch.tensor([0.0, torch.inf], dtype=torch.float64)


class AllFailed(Points):
    def failed(self, slot: int) -> bool:
        return True


class SomeFailed(Points):
    def step(self, actions: Tensor) -> tuple[Tensor, Tensor]:
        reward, terminated = super().step(actions)
        reward[self._state[: len(actions), 0] > 0] = torch.nan
        return reward, terminated

    def failed(self, slot: int) -> bool:
        return bool(self._state[slot, 0] > 0)


class Swapped(Points):
    def step(self, actions: Tensor) -> tuple[Tensor, Tensor]:
        return super().step(actions)[::-1]  # pyright: ignore[reportReturnType]


def points(worlds: Callable[[int], Any]) -> EpisodicTask:
    return EpisodicTask(POINT, worlds, policy=MlpSettings(hidden_sizes=(4,)), worlds=4)


def test_worlds_that_keep_the_contract_pass_and_what_was_checked_is_said() -> None:
    said = qdrl.check_task(points(Points))
    assert said.startswith("6 random genomes in episodes of up to 12 steps gave the same bits")
    assert "failed" not in said
    assert "failed" in qdrl.check_task(points(SomeFailed))


@pytest.mark.parametrize(
    ("worlds", "words"),
    [
        (Unseeded, "seed 1000 evaluated again gave .*must come from its seed"),
        (
            Remembering,
            r"seed 100\d after other episodes in its world gave .*Remembering.reset must set the whole state",
        ),
        (Coupled, "seed 1000 beside other worlds gave .*must not depend on other rows"),
        (LeftBehind, r"moved to another world during its episode gave .*LeftBehind.move must copy the whole state"),
        (ResettingAll, "in worlds that are used again gave .*must not depend on other rows"),
        (NanReward, "seed 1000: fitness is nan after 1 steps; .*NanReward.failed"),
        (InfiniteDescriptor, r"seed 1000: descriptor\[1\] is inf after 4 steps"),
        (AllFailed, r"all 6 evaluations failed; the first one: AllFailed.failed\(slot\) is True"),
        (Swapped, r"Swapped.step returned as rewards a tensor of shape \(1,\) and dtype bool"),
    ],
)
def test_worlds_that_break_the_contract_are_named(worlds: type[Points], words: str) -> None:
    with pytest.raises(UserError, match=f"task 'point_omni': .*{words}") as caught:
        qdrl.check_task(points(worlds))
    assert "\n" not in str(caught.value)


def test_episodes_that_would_take_too_long_are_cut() -> None:
    class Slow(Points):
        def step(self, actions: Tensor) -> tuple[Tensor, Tensor]:
            clock[0] += 0.005  # s
            return super().step(actions)

    clock = [0.0]
    spec = replace(POINT, episode_length=10_000)
    task = EpisodicTask(spec, Slow, policy=MlpSettings(hidden_sizes=(4,)), worlds=4)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("time.perf_counter", lambda: clock[0])
        assert "in episodes of up to 13 of 10000 steps" in qdrl.check_task(task)


def function(fault: str) -> Callable[[Tensor], tuple[Any, Any]]:
    def evaluate(genomes: Tensor) -> tuple[Any, Any]:
        fitness = genomes.square().cumsum(1)[:, -1]
        descriptor = genomes[:, :2].clone()
        match fault:
            case "coupled":
                fitness = fitness - fitness.mean()
            case "random":
                fitness = fitness + float(np.random.default_rng().random())
            case "ordered":
                fitness = fitness + 1e-9 * torch.arange(len(genomes))
            case "swapped":
                return descriptor, fitness
            case "wide":
                return fitness, genomes[:, :3]
            case "single":
                return fitness.float(), descriptor
            case "alone":
                return fitness, None
            case "nan":
                descriptor[:, 1] = torch.nan
        return fitness, descriptor

    return evaluate


@pytest.mark.parametrize(
    ("fault", "words"),
    [
        ("coupled", "evaluated alone gave fitness"),
        ("random", "evaluated again gave fitness .*must come from its seed"),
        ("ordered", "evaluated alone gave fitness"),
        ("swapped", r"as fitness a tensor of shape \(1, 2\) and dtype float64, expected shape \(1,\)"),
        ("wide", r"as descriptor a tensor of shape \(1, 3\) and dtype float64, expected shape \(1, 2\)"),
        ("single", r"the function of FunctionTask \('arm'\) returned as fitness a tensor .* dtype float32"),
        ("alone", "returned as descriptor None, expected a tensor"),
        ("nan", r"1 of 1 evaluations failed; .*seed 1000 failed after 1 steps: descriptor\[1\] is nan"),
    ],
)
def test_functions_that_break_the_contract_are_named(fault: str, words: str) -> None:
    with pytest.raises(UserError, match=f"task 'arm': .*{words}") as caught:
        qdrl.check_task(FunctionTask(ARM, 8, 1.0, function(fault)))
    assert "\n" not in str(caught.value)
    assert "64 random genomes" in qdrl.check_task(FunctionTask(ARM, 8, 1.0, function("none")))


class Own(Task):
    """A task that is neither a function nor episodes."""

    def __init__(self, columns: str = "", genome: Any = None) -> None:
        self.spec, self.parameters = ARM, 2
        self.columns, self.genome = columns, genome

    def initial(self, generator: np.random.Generator) -> np.ndarray:
        return generator.random(2, np.float32) if self.genome is None else self.genome()

    def evaluate(self, candidates: Candidates) -> Evaluation:
        genomes = candidates.genomes[:].double()
        steps = torch.ones(len(genomes), dtype=torch.int64)
        evaluation = evaluated(candidates, fitness=genomes[:, 0], descriptor=genomes, steps=steps)
        if self.columns:
            return replace(evaluation, **{self.columns: getattr(evaluation, self.columns)[:, None]})
        return evaluation


@pytest.mark.parametrize(
    ("task", "words"),
    [
        (
            Own("steps"),
            r"Own.evaluate returned as steps a tensor of shape \(1, 1\) and dtype int64, expected shape \(1,\)",
        ),
        (Own("fitness"), r"Own.evaluate returned as fitness a tensor of shape \(1, 1\)"),
        (Own(genome=lambda: np.zeros(3, np.float32)), r"Own.initial returned \(3,\) float32, expected \(2,\) float32"),
        (Own(genome=lambda: np.zeros(2)), r"Own.initial returned \(2,\) float64, expected \(2,\) float32"),
        (Own(genome=lambda: torch.zeros(2)), "Own.initial returned a value of type Tensor"),
        (Own(genome=lambda: np.full(2, np.nan, np.float32)), "genome that is not finite"),
        (Own(genome=lambda: np.random.default_rng().random(2, np.float32)), "initial gave two genomes"),
    ],
)
def test_other_tasks_that_break_the_contract_are_named(task: Own, words: str) -> None:
    with pytest.raises(UserError, match=words) as caught:
        qdrl.check_task(task)
    assert "\n" not in str(caught.value)
    qdrl.check_task(Own())


def angle(trajectory: Any) -> list[float]:
    return [float(np.arctan2(trajectory.observations[-1, 1], trajectory.observations[-1, 0]))]


def by_name(name: str) -> Task:
    axes = [{"name": "angle", "unit": "rad", "lower": -3.2, "upper": 3.2}]
    return make_task(name, descriptor=f"{__name__}:angle", axes=axes, episode_length=10, policy={"hidden_sizes": (4,)})


class Counting(gymnasium.Env):
    """An environment that counts its episodes."""

    observation_space = gymnasium.spaces.Box(-1, 1, (2,))
    action_space = gymnasium.spaces.Box(-1, 1, (1,))
    episodes = 0

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> Any:
        self.episodes += 1
        return np.full(2, 0.01 * self.episodes, np.float32), {}

    def step(self, action: Any) -> Any:
        return np.zeros(2, np.float32), 0.01 * self.episodes, False, False, {}


def test_gymnasium_environments_are_checked_by_name() -> None:
    assert "random genomes in episodes of up to 10 steps" in qdrl.check_task(by_name("gym:Pendulum-v1"))
    gymnasium.register("QdrlCounting-v0", entry_point=lambda **_: Counting())
    try:
        with pytest.raises(UserError, match=r"GymWorlds\.reset must set the whole state of a world"):
            qdrl.check_task(by_name("gym:QdrlCounting-v0"))
    finally:
        del gymnasium.registry["QdrlCounting-v0"]


@pytest.mark.parametrize("name", ["point_omni", "hopper_uni", "hard_maze", "arm"])
def test_the_built_in_tasks_pass(name: str) -> None:
    options = {} if name == "arm" else {"episode_length": 20, "policy": {"normalize_observations": True}}
    assert "same bits" in qdrl.check_task(make_task(name, **options))
