"""Forecast how long a run takes from a few seconds of its own work. Nothing is written."""

import time
from collections.abc import Callable
from dataclasses import dataclass
from math import ceil, inf, isfinite
from typing import Any

import numpy as np
import torch

from qdrl.algorithms.critic_guided import CriticGuided
from qdrl.critics.injection import conditioned
from qdrl.critics.replay_buffer import LabelledTransitions, ReplayBuffer
from qdrl.critics.settings import LearningSettings
from qdrl.critics.td3 import Td3
from qdrl.critics.variation import PolicyGradient
from qdrl.policies.conv import Conv
from qdrl.policies.mlp import Mlp
from qdrl.run.build import Parts
from qdrl.settings.run import RunSettings
from qdrl.tasks.episodic import EpisodicTask

_SECONDS = 2.0  # of evaluation
_CRITIC_STEPS, _GRADIENT_STEPS = 40, 10


@dataclass(frozen=True)
class Pace:
    """Speed of a rank.

    Attributes:
        row_seconds: of a row's evaluation now, when genomes are random.
        full_row_seconds: the same in an episode of full length.
        row_steps: control steps of a row now.
        learning_seconds: of a generation's critic steps on a learner; 0 without critics.
        gradient_row_seconds: of a row's policy-gradient variation; 0 without critics.
        measured_rows: rows that were evaluated.
    """

    row_seconds: float
    full_row_seconds: float
    row_steps: float
    learning_seconds: float
    gradient_row_seconds: float
    measured_rows: int


@dataclass(frozen=True)
class Forecast:
    """Duration of a run, from the measured speed of its ranks.

    Attributes:
        generation_seconds: of a generation now, and with episodes of full length.
        learning_seconds: of these the critics' steps, and policy-gradient variation.
        generations: of the whole run, with episodes as they are now and of full length; infinite where only time or
            fitness ends it.
    """

    generation_seconds: tuple[float, float]
    learning_seconds: tuple[float, float]
    generations: tuple[float, float]

    @property
    def total_seconds(self) -> tuple[float, float]:
        """Seconds of the whole run, the shorter first; infinite where only time or fitness ends it."""
        first, last = (
            seconds * count for seconds, count in zip(self.generation_seconds, self.generations, strict=True)
        )
        return min(first, last), max(first, last)


def measure(parts: Parts, rows: int) -> Pace:
    """Measure the speed of this rank: evaluate some rows and run some steps of the critics.

    Args:
        parts: a run before its first generation.
        rows: this rank's rows of a generation.
    """
    seconds, steps, count = _evaluate(parts, max(1, rows))
    length = parts.task.spec.episode_length
    learning = gradient = 0.0
    settings = parts.experiment.algorithm
    if isinstance(settings, LearningSettings) and isinstance(parts.task, EpisodicTask):
        learning, gradient = _learn(settings, parts, parts.task.policy)
    return Pace(seconds, seconds * max(1.0, length / max(steps, 1.0)), steps, learning, gradient, count)


def forecast(paces: list[Pace], parts: Parts, ranks: int) -> Forecast:
    """Return how long a run takes on ranks that are as fast as the slowest that was measured.

    Args:
        paces: of the ranks.
        parts: the run's parts.
        ranks: number of ranks.
    """
    work = parts.algorithm.workload(parts.experiment.algorithm)
    rows = work.total_rows if work.generations > 1 else parts.algorithm.batch_size
    share, gradient = ceil(rows / ranks), ceil(work.gradient_rows / ranks)
    critics = max(pace.learning_seconds for pace in paces)
    climbing = gradient * max(pace.gradient_row_seconds for pace in paces)
    now = share * max(pace.row_seconds for pace in paces)
    full = share * max(pace.full_row_seconds for pace in paces)
    length = parts.task.spec.episode_length
    steps = max(pace.row_steps for pace in paces), length
    frames = parts.task.spec.frames_per_step
    counted = rows - work.probe_rows
    turns = work.generations
    first, last = (_generations(parts.experiment.run, rows, counted, each, frames, turns) for each in steps)
    seconds = np.array([now + critics + climbing, full + critics + climbing, critics, climbing]) / turns
    current, longest, learning, varying = seconds.tolist()
    return Forecast((current, longest), (learning, varying), (turns * first, turns * last))


def _generations(budget: RunSettings, rows: int, counted: int, steps: float, frames: int, turns: int) -> float:
    """Return the number of the algorithm's generations, each of `turns` of the run, that spend the first budget."""
    ends = [
        (budget.generations, turns),
        (budget.evaluations, counted),
        (budget.env_steps, rows * steps),
        (budget.frames, rows * steps * frames),
    ]
    return min((ceil(limit / max(each, 1)) for limit, each in ends if limit is not None), default=inf)


def _evaluate(parts: Parts, rows: int) -> tuple[float, float, int]:
    """Return seconds and control steps of a row, and the number of rows: doubled until the time is long enough."""
    algorithm, task = parts.algorithm, parts.task
    rows = min(rows, algorithm.batch_size)
    task.evaluate(algorithm.ask(range(1)))  # makes the worlds and compiles what is compiled
    count, begun = 1, time.perf_counter()
    while True:
        last = time.perf_counter()
        evaluation = task.evaluate(algorithm.ask(range(count)))
        seconds, spent = time.perf_counter() - last, time.perf_counter() - begun
        if count == rows or spent + 2 * seconds > _SECONDS:
            return seconds / count, float(evaluation.steps.sum()) / count, count
        count = min(rows, 2 * count)


def _learn(settings: LearningSettings, parts: Parts, policy: Mlp | Conv) -> tuple[float, float]:
    """Return seconds of a generation's critic steps and of a row's gradient variation, from a few steps of each."""
    device = parts.archive.device
    if not isinstance(policy, Mlp):
        return 0.0, 0.0
    dimensions = parts.algorithm.dimensions if isinstance(parts.algorithm, CriticGuided) else 0
    share = settings.critic.batch_size // settings.learners
    critic = settings.critic.model_copy(update={"batch_size": share})
    generator = np.random.default_rng(0)
    td3 = Td3(
        conditioned(policy.resized(critic.actor_hidden_sizes), dimensions), dimensions, critic, generator, device=device
    )
    replay = ReplayBuffer(4 * share, policy.sizes[0], policy.sizes[-1], dimensions, device)
    replay.add(_noise(4 * share, policy, dimensions))
    seconds = _seconds_of(lambda steps: td3.train(replay, generator, steps), _CRITIC_STEPS)
    return settings.critic.steps * seconds, settings.gradient.steps * _climb(settings, policy, td3, device)


def _climb(settings: LearningSettings, policy: Mlp, td3: Td3, device: Any) -> float:
    """Return the seconds of one step of a row's gradient variation."""

    def vary(steps: int) -> None:
        few = settings.gradient.model_copy(update={"steps": steps})
        parent = torch.from_numpy(policy.initial(np.random.default_rng(0))[None]).to(device)
        states = torch.randn(steps, few.batch_size, policy.sizes[0], device=device)
        aims = torch.zeros(1, td3.dimensions, device=device)
        PolicyGradient(policy, td3.critic_mlp, few, device).vary(parent, states, td3.critic[0], aims)

    return _seconds_of(vary, _GRADIENT_STEPS)


def _noise(count: int, policy: Mlp, dimensions: int) -> LabelledTransitions:
    """Return random transitions, which cost as much as real ones."""
    generator = np.random.default_rng(0)

    def draw(*shape: int) -> torch.Tensor:
        return torch.from_numpy(generator.random((count, *shape), np.float32))

    descriptor = draw(dimensions)
    return LabelledTransitions(
        observation=draw(policy.sizes[0]),
        action=draw(policy.sizes[-1]),
        reward=draw(),
        next_observation=draw(policy.sizes[0]),
        terminated=torch.zeros(count),
        truncated=torch.zeros(count),
        descriptor=descriptor,
        target_descriptor=descriptor,
    )


def _seconds_of(work: Callable[[int], Any], steps: int) -> float:
    """Return seconds a step after a warm-up."""
    work(2)
    begun = time.perf_counter()
    work(steps)
    return (time.perf_counter() - begun) / steps


def duration(seconds: float) -> str:
    """Return a duration as text: "0.35 s", "4 min 10 s", "3 h 5 min", "12 d 4 h"."""
    if not isfinite(seconds):
        return "no end"
    if seconds < 60:
        return f"{seconds:.2g} s" if seconds < 10 else f"{seconds:.0f} s"
    spans = (("d", 86400, "h", 3600), ("h", 3600, "min", 60), ("min", 60, "s", 1))
    unit, large, smaller, small = next(span for span in spans if seconds >= span[1])
    whole, rest = divmod(round(seconds / small), large // small)
    return f"{whole} {unit} {rest} {smaller}" if rest else f"{whole} {unit}"
