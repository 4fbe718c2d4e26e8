"""`gym:<id>`: any Gymnasium environment, with a descriptor function of the user's.

The function is named as `package.module:function`, takes a `Trajectory` and gives one number an axis. An environment
or a function that raises marks that evaluation as failed; the run goes on.
"""

import inspect
import logging
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Annotated, Any

import gymnasium
import numpy as np
import torch
from gymnasium.spaces import Box, Discrete
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor

from qdrl.axes import Axis
from qdrl.errors import UserError
from qdrl.naming import load_reference
from qdrl.policies.base import PolicySettings
from qdrl.tasks.base import TaskSpec
from qdrl.tasks.episodic import EpisodicTask
from qdrl.tasks.gym_ids import require_environment

_LOGGER = logging.getLogger("qdrl")
_LARGEST_SEED = 2**31  # many environments take 32-bit seeds only


class AxisSettings(BaseModel):
    """One axis of the descriptor: name, unit, bounds."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    unit: str = "1"
    lower: Annotated[float, Field(allow_inf_nan=False)]
    upper: Annotated[float, Field(allow_inf_nan=False)]


class GymSettings(BaseModel):
    """Options of `gym:<id>`.

    Attributes:
        name: "gym:" and the environment's id.
        descriptor: `package.module:function` that turns a trajectory into the descriptor.
        axes: one entry a number of the descriptor.
        episode_length: most steps; the environment's own limit when left out.
        qd_offset: a lower bound of the return.
        reward_offset: what makes each step's reward non-negative, when there is such a number.
        kwargs: keyword arguments of `gymnasium.make`.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: Annotated[str, Field(pattern=r"^gym:\S+$")]
    descriptor: str
    axes: Annotated[tuple[AxisSettings, ...], Field(min_length=1)]
    episode_length: Annotated[int, Field(ge=1)] | None = None
    qd_offset: Annotated[float, Field(allow_inf_nan=False)] = 0.0
    reward_offset: Annotated[float, Field(allow_inf_nan=False)] | None = None
    kwargs: dict[str, Any] = Field(default_factory=dict)


@dataclass
class Trajectory:
    """What an episode was, for a descriptor function.

    Attributes:
        observations: `(steps + 1, observation_size)` float64, the first one included.
        actions: `(steps, ...)` as the environment got them.
        rewards: `(steps,)` float64.
        infos: the environment's info of each step.
        terminated: whether the episode ended by itself.
        env: the environment after its last step.
    """

    observations: list[np.ndarray] = field(default_factory=list)
    actions: list[Any] = field(default_factory=list)
    rewards: list[float] = field(default_factory=list)
    infos: list[dict[str, Any]] = field(default_factory=list)
    terminated: bool = False
    env: Any = None

    def as_arrays(self) -> "Trajectory":
        """The same with observations, actions and rewards as arrays."""
        return Trajectory(
            np.asarray(self.observations),  # pyright: ignore[reportArgumentType]
            np.asarray(self.actions),  # pyright: ignore[reportArgumentType]
            np.asarray(self.rewards),  # pyright: ignore[reportArgumentType]
            self.infos,
            self.terminated,
            self.env,
        )


class GymWorlds:
    """Gymnasium environments; see `qdrl.tasks.rollout.EpisodeWorlds`."""

    def __init__(
        self, make: Callable[[], gymnasium.Env], count: int, describe: Callable[[Trajectory], Any], dimensions: int
    ) -> None:
        self.count = count
        self._make = make
        self._environments = [make() for _ in range(count)]
        self._describe = describe
        self._dimensions = dimensions
        self._trajectories = [Trajectory() for _ in range(count)]
        self._broken = [False] * count
        self._to_action = _action_of(self._environments[0].action_space)
        self._observation_size = _size(self._environments[0].observation_space)
        self.first_failure: str | None = None

    def reset(self, slots: Sequence[int], seeds: Sequence[int]) -> None:
        for slot, seed in zip(slots, seeds, strict=True):
            self._trajectories[slot] = Trajectory([np.zeros(self._observation_size)])
            try:
                if self._broken[slot]:  # what raised may be left in any state
                    self._environments[slot] = self._make()
                self._broken[slot] = False
                observation, _ = self._environments[slot].reset(seed=seed % _LARGEST_SEED)
                self._trajectories[slot] = Trajectory([self._flat(observation)], env=self._environments[slot])
            except Exception:  # whatever a user's environment raises, the run goes on
                self._break(slot, "the environment")

    def observe(self, ages: Tensor) -> Tensor:
        latest = [trajectory.observations[-1] for trajectory in self._trajectories[: len(ages)]]
        return torch.from_numpy(np.stack(latest).astype(np.float32))

    def step(self, actions: Tensor) -> tuple[Tensor, Tensor]:
        rewards, ended = np.full(len(actions), np.nan), np.ones(len(actions), bool)
        for slot, output in enumerate(actions.numpy()):
            if self._broken[slot]:
                continue
            try:
                rewards[slot], ended[slot] = self._step_one(slot, output)
            except Exception:  # whatever a user's environment raises, the run goes on
                self._break(slot, "the environment")
        return torch.from_numpy(rewards), torch.from_numpy(ended)

    def _step_one(self, slot: int, output: np.ndarray) -> tuple[float, bool]:
        action, trajectory = self._to_action(output), self._trajectories[slot]
        observation, reward, terminated, truncated, info = self._environments[slot].step(action)
        trajectory.observations.append(self._flat(observation))
        trajectory.actions.append(action)
        trajectory.rewards.append(float(reward))
        trajectory.infos.append(info)
        trajectory.terminated = bool(terminated)
        return float(reward), bool(terminated or truncated)

    def descriptor(self, slot: int, steps: int) -> Tensor:  # noqa: ARG002
        unknown = torch.full((self._dimensions,), torch.nan, dtype=torch.float64)
        if self._broken[slot]:
            return unknown
        try:
            described = np.asarray(self._describe(self._trajectories[slot].as_arrays()), np.float64)
            if described.shape != (self._dimensions,):
                raise ValueError(f"gave shape {described.shape}, expected ({self._dimensions},)")
        except Exception:
            self._break(slot, "the descriptor function")
            return unknown
        return torch.from_numpy(described)

    def failed(self, slot: int) -> bool:
        return self._broken[slot]

    def truncated(self, slot: int) -> bool:
        return not self._trajectories[slot].terminated

    def move(self, source: int, target: int) -> None:
        environments, trajectories, broken = self._environments, self._trajectories, self._broken
        environments[source], environments[target] = environments[target], environments[source]
        trajectories[source], trajectories[target] = trajectories[target], trajectories[source]
        broken[source], broken[target] = broken[target], broken[source]

    def _flat(self, observation: Any) -> np.ndarray:
        flat = np.array(observation, np.float64).ravel()
        if len(flat) != self._observation_size:
            raise ValueError(f"observed {len(flat)} numbers, expected {self._observation_size}")
        return flat

    def _break(self, slot: int, what: str) -> None:
        self._broken[slot] = True
        if self.first_failure is None:
            trace = traceback.format_exc()
            self.first_failure = f"{what} raised {trace.strip().splitlines()[-1]}"
            _LOGGER.warning(
                "an evaluation failed because %s raised; further failures are only counted\n%s", what, trace
            )


def make_gym_task(settings: GymSettings, *, policy: PolicySettings, worlds: int) -> EpisodicTask:
    """The task that the settings describe.

    Raises:
        UserError: no such environment or function, bounds that cannot be, a space that policies cannot serve.
    """
    environment_id = settings.name.removeprefix("gym:")
    require_environment(environment_id)
    describe = load_reference(settings.descriptor)
    _check_descriptor_function(describe, settings.descriptor)

    def make() -> gymnasium.Env:
        return gymnasium.make(environment_id, **settings.kwargs)

    try:
        probe = make()
    except Exception as error:
        reason = " ".join(str(error).split())
        raise UserError(f"task.name: gymnasium cannot make '{environment_id}': {reason}") from error
    length = settings.episode_length or (probe.spec.max_episode_steps if probe.spec else None)
    if length is None:
        raise UserError(f"task.episode_length: '{environment_id}' has no limit of its own; set one")
    if not isinstance(probe.observation_space, Box):
        raise UserError(f"task.name: '{environment_id}' observes {probe.observation_space}; policies need a Box")
    axes = tuple(Axis(axis.name, axis.unit, axis.lower, axis.upper) for axis in settings.axes)
    spec = TaskSpec(
        name=settings.name,
        summary=f"Gymnasium's {environment_id}, described by {settings.descriptor}.",
        axes=axes,
        fitness_name=f"return of {environment_id}",
        episode_length=length,
        qd_offset=settings.qd_offset,
        reward_offset=settings.reward_offset,
        observation="the environment's, flattened",
        observation_size=_size(probe.observation_space),
        action_size=_action_size(probe.action_space, environment_id),
        initial_noise="the environment's own, seeded by the evaluation",
        options=settings.model_dump(exclude_none=True),
        gymnasium={"id": environment_id, "kwargs": settings.kwargs},
    )
    probe.close()
    return EpisodicTask(spec, lambda count: GymWorlds(make, count, describe, len(axes)), policy=policy, worlds=worlds)


def _check_descriptor_function(describe: Any, name: str) -> None:
    if not callable(describe):
        raise UserError(f"task.descriptor: '{name}' is not a function")
    try:
        inspect.signature(describe).bind(None)
    except TypeError as error:
        raise UserError(f"task.descriptor: '{name}' must take one argument, the trajectory: {error}") from error
    except ValueError:  # written in C: it has no signature to look at
        return


def _size(space: gymnasium.Space) -> int:
    return int(np.prod(space.shape or ()))


def _action_size(space: gymnasium.Space, environment_id: str) -> int:
    if isinstance(space, Discrete):
        return int(space.n)
    if isinstance(space, Box) and np.isfinite(space.low).all() and np.isfinite(space.high).all():
        return _size(space)
    raise UserError(f"task.name: '{environment_id}' takes {space}; policies need Discrete or a bounded Box")


def _action_of(space: gymnasium.Space) -> Callable[[np.ndarray], Any]:
    """How a policy's output becomes an action: the largest output's index, or [-1, 1] stretched over the box."""
    if isinstance(space, Discrete):
        return lambda output: int(space.start) + int(np.argmax(output))
    assert isinstance(space, Box)  # noqa: S101 - `_action_size` refused everything else
    middle = (space.high.astype(np.float64) + space.low) / 2
    half = (space.high.astype(np.float64) - space.low) / 2
    return lambda output: (middle + half * output.reshape(space.shape)).astype(space.dtype)
