"""A user's environment and the episode that runs in it."""

import contextlib
import re
import sys
import warnings
from collections.abc import Callable
from dataclasses import dataclass, field
from importlib import import_module
from typing import Any, NamedTuple

import gymnasium
import numpy as np

from qdrl.naming import load_reference
from qdrl.tasks.environments.answers import (
    descriptor_answer,
    observation_answer,
    reset_answer,
    step_answer,
)
from qdrl.tasks.environments.failures import EpisodeFailure, UnusableError, attempt
from qdrl.tasks.environments.trajectory import Trajectory, copied

_VERSION = re.compile(r"-v\d+$")


@dataclass(frozen=True)
class EpisodePlan:
    """Specification of an environment and its descriptor function; it is sent to worker processes.

    Attributes:
        environment: Id of the environment, with the prefix `module:` if a module must be imported to register it.
        kwargs: Keyword arguments of `gymnasium.make`.
        descriptor: Reference `package.module:function` of the descriptor function.
        dimensions: Length of a descriptor.
        keep_all: Keep every observation of an episode for the descriptor function; otherwise only the last one.
        registered: Gymnasium's `EnvSpec` of the id in the main process; None if it is not registered there.
    """

    environment: str
    kwargs: dict[str, Any]
    descriptor: str
    dimensions: int
    keep_all: bool = True
    registered: Any = None


@dataclass(frozen=True)
class EnvironmentFacts:
    """Properties of an environment after it was made.

    Attributes:
        id: Id with the version in use, and the prefix `module:` if the plan has it.
        max_episode_steps: The environment's own limit of control steps; None if it has none.
        observation_space: Observation space.
        action_space: Action space.
        wrappers: Class names of the wrappers, outermost first.
        entry_point: Entry point `module:name` of the environment; None if it is not given as text.
    """

    id: str
    max_episode_steps: int | None
    observation_space: Any
    action_space: Any
    wrappers: tuple[str, ...]
    entry_point: str | None


class Step(NamedTuple):
    """Result of a control step.

    Attributes:
        observation: `(observation_size,)`; see `Trajectory` for the dtype.
        reward: Reward.
        terminated: Whether the environment ended the episode.
        truncated: Whether a time limit of the environment ended the episode.
    """

    observation: np.ndarray
    reward: float
    terminated: bool
    truncated: bool


@dataclass
class Episode:
    """An environment and its current episode.

    Methods other than `close` raise `EpisodeFailure` if user code raises or returns an unusable value.

    Attributes:
        plan: Specification of the environment and its descriptor function.
    """

    plan: EpisodePlan
    _environment: Any = None
    _describe: Callable[[Trajectory], Any] | None = None
    _trajectory: Trajectory = field(default_factory=Trajectory)
    _simulator: Any = None
    _bad_states: int = 0

    def open(self) -> EnvironmentFacts:
        """Make the environment unless it exists already, and return its properties."""
        if self._environment is None:
            self._environment = attempt("the environment", _make, self.plan)
            self._describe = attempt("the descriptor function", load_reference, self.plan.descriptor)
        return attempt("the environment", _facts, self.plan, self._environment)

    def reset(self, seed: int) -> np.ndarray:
        """Start an episode and return its first observation, `(observation_size,)`."""
        return attempt("the environment", self._reset, seed)

    def step(self, action: Any) -> Step:
        """Apply an action and return the result of the control step."""
        return attempt("the environment", self._step, action)

    def describe(self) -> np.ndarray:
        """Return the descriptor `(d,)` float64 of the episode, and discard the episode's data."""
        trajectory, self._trajectory = self._trajectory, Trajectory()
        return attempt("the descriptor function", self._described, trajectory)

    def close(self) -> None:
        """Close the environment; exceptions are ignored."""
        environment, self._environment, self._simulator = self._environment, None, None
        self._trajectory = Trajectory()
        if environment is not None:
            with contextlib.suppress(EpisodeFailure):
                attempt("the environment", environment.close)

    def _reset(self, seed: int) -> np.ndarray:
        self._trajectory = Trajectory(env=self._environment)
        observation = self._observed(reset_answer(self._environment.reset(seed=seed)))
        self._simulator = self._environment.unwrapped
        self._bad_states = _bad_states(self._simulator)
        return observation

    def _step(self, action: Any) -> Step:
        trajectory = self._trajectory
        trajectory.actions.append(copied(action))
        observation, reward, terminated, truncated, info = step_answer(self._environment.step(action))
        trajectory.rewards.append(reward)
        trajectory.infos.append(copied(info))
        trajectory.terminated = terminated
        seen = self._observed(observation)
        if _bad_states(self._simulator) > self._bad_states:
            raise UnusableError("has an invalid physics state: MuJoCo warned of a bad state")
        return Step(seen, reward, terminated, truncated)

    def _observed(self, observation: Any) -> np.ndarray:
        flat = observation_answer(observation, self._environment.observation_space)
        if not self.plan.keep_all:
            self._trajectory.observations.clear()
        self._trajectory.observations.append(flat)
        return flat

    def _described(self, trajectory: Trajectory) -> np.ndarray:
        assert self._describe is not None  # noqa: S101 - `open` comes first
        return descriptor_answer(self._describe(trajectory.as_arrays()), self.plan.dimensions)


def _make(plan: EpisodePlan) -> gymnasium.Env:
    module, _, name = plan.environment.rpartition(":")
    if module:
        import_module(module)
    if plan.registered is not None and name not in gymnasium.registry:
        gymnasium.registry[name] = plan.registered
    if _VERSION.search(name):
        return gymnasium.make(name, **plan.kwargs)
    with warnings.catch_warnings():  # `EnvironmentFacts.id` has the version
        warnings.filterwarnings("ignore", ".*Using the latest versioned environment")
        return gymnasium.make(name, **plan.kwargs)


def _facts(plan: EpisodePlan, environment: Any) -> EnvironmentFacts:
    module, colon, name = plan.environment.rpartition(":")
    spec, wrappers, layer = environment.spec, [], environment
    while isinstance(layer, gymnasium.Wrapper):
        wrappers.append(type(layer).__name__)
        layer = layer.env
    entry_point = getattr(spec, "entry_point", None)
    return EnvironmentFacts(
        id=f"{module}{colon}{spec.id if spec else name}",
        max_episode_steps=spec.max_episode_steps if spec else None,
        observation_space=environment.observation_space,
        action_space=environment.action_space,
        wrappers=tuple(wrappers),
        entry_point=entry_point if isinstance(entry_point, str) else None,
    )


def _bad_states(simulator: Any) -> int:
    """Return the number of MuJoCo's bad-state warnings since the last reset; 0 without MuJoCo."""
    data: Any = getattr(simulator, "data", None)
    if type(data).__name__ != "MjData":
        return 0
    kinds = sys.modules["mujoco"].mjtWarning  # imported already: the data is MuJoCo's
    # Consecutive kinds: positions, velocities, accelerations, controls.
    return sum(data.warning.number.tolist()[int(kinds.mjWARN_BADQPOS) : int(kinds.mjWARN_BADCTRL) + 1])
