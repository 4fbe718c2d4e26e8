"""Observation, reward, termination and descriptor of a robot, as functions batched over worlds.

State arrays are `(n, ...)`: numpy arrays of float64 on the CPU, torch tensors of float32 on a device. Functions use
operations of both (arithmetic, slices, `abs`, `.sum(1)`, `.clip`), and no Python loops over worlds.

Importing this module imports neither torch nor MuJoCo.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Literal

import numpy as np
from pydantic import Field

from qdrl.archives.axes import Axis
from qdrl.errors import UserError
from qdrl.physics.mjcf import ModelSource
from qdrl.tasks.settings import TaskSettings

Array = Any
"""A numpy array on the CPU, a torch tensor on a device."""

State = Mapping[str, Array]
"""Fields of MuJoCo's data by name, each `(n, ...)`, and `body_mass`, `(bodies,)` kg."""


class RobotSettings(TaskSettings):
    """Options of every task of a user's robot; subclass it to add more."""

    episode_length: Annotated[int, Field(ge=1, le=100_000)] = 1000
    """Control steps after which an episode is truncated."""
    initial_noise: Annotated[float, Field(ge=0, le=10, allow_inf_nan=False)] | None = None
    """Scale of the initial state's noise; the robot's own if left out, 0 for one fixed state."""
    time_in_observation: bool = False
    """Append the fraction of the episode left to the observation."""
    reward_offset: Annotated[float, Field(ge=-1e6, le=1e6)] | None = None
    """Number that the QD score and descriptor-conditioned critics add to the reward of every control step; the
    robot's own if left out. The QD score of a robot with a `qd_offset` uses that instead."""
    offset_in_fitness: bool = False
    """Make fitness the sum of max(reward + `reward_offset`, 0) over the steps, as in the published code of PGA-, DCG-
    and DCRL-MAP-Elites. Elites then compete by it, and all critics receive these rewards."""


@dataclass(frozen=True, slots=True)
class Step:
    """One control step of n worlds, as a reward function receives it.

    Attributes:
        state: State after the step.
        control: `(n, actuators)` controls that were applied.
        seconds: Simulated duration of the step.
        advance: `(n,)` change of `Behaviour.progress` in the step; None if the robot defines none.
        healthy: `(n,)` bool result of `Behaviour.healthy`; None if the robot defines none.
    """

    state: State
    control: Array
    seconds: float
    advance: Array | None
    healthy: Array | None


class Behaviour:
    """Model, observation, reward, termination and descriptor of a robot.

    Args:
        settings: The task's settings, with `episode_length`, `initial_noise` and `time_in_observation`.

    Attributes:
        frame_skip: Physics steps per control step.
        axes: Axes of the descriptor.
        summary: One sentence about the task; the first line of the class docstring if empty.
        fitness_name: What the sum of rewards measures.
        fields: Fields of `qdrl.physics.STATE_FIELDS` that the functions read.
        descriptor_reduction: "mean" averages `descriptor` over the steps of an episode, "last" takes the last one.
        noise: Scale of the initial state's noise, in m or rad and m/s or rad/s.
        hidden_positions: Number of leading positions that policies do not observe.
        reward_offset: See `qdrl.tasks.base.TaskSpec`; None if rewards have no lower bound. The QD score adds it for
            every control step, unless `qd_offset` is set.
        qd_offset: Lower bound of fitness, which the QD score then uses instead of `reward_offset`.
        gymnasium: Gymnasium environment with the same physics and reward; None if there is none.
    """

    frame_skip: int = 5
    axes: tuple[Axis, ...] = ()
    summary: str = ""
    fitness_name: str = "sum of rewards"
    fields: tuple[str, ...] = ("qpos", "qvel", "sensordata")
    descriptor_reduction: Literal["mean", "last"] = "last"
    noise: float = 0.01
    hidden_positions: int = 0
    reward_offset: float | None = None
    qd_offset: float | None = None
    gymnasium: dict[str, Any] | None = None

    def __init__(self, settings: Any) -> None:
        self.settings = settings

    def source(self) -> ModelSource:
        """Return the model's text and files.

        Raises:
            UserError: The model cannot be read or stored.
        """
        raise NotImplementedError

    def prepare(self, model: Any) -> None:
        """Look up ids and ranges in the compiled `mujoco.MjModel`; called once, before any other function."""

    def initial_state(self, model: Any, generator: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
        """Return positions `(nq,)` and velocities `(nv,)` of one episode, drawn from its own generator."""
        return noisy_state(model, generator, self.initial_noise)

    def observe(self, state: State) -> Sequence[Array]:
        """Return the parts of the observation, each `(n, k)`, in order."""
        return [state["qpos"][:, self.hidden_positions :], state["qvel"]]

    def progress(self, state: State) -> Array | None:  # noqa: ARG002
        """Return a quantity `(n,)` whose change during a step becomes `Step.advance`; None if there is none."""
        return None

    def healthy(self, state: State) -> Array | None:  # noqa: ARG002
        """Return `(n,)` bool, False where the episode ends; None if episodes never end early."""
        return None

    def reward(self, step: Step) -> Array:
        """Return the reward of a control step, `(n,)`."""
        raise NotImplementedError(f"{type(self).__name__} must define reward(self, step)")

    def descriptor(self, state: State) -> Array:
        """Return the descriptor of each world, `(n, axes)`; see `descriptor_reduction`."""
        raise NotImplementedError(f"{type(self).__name__} must define descriptor(self, state)")

    @property
    def initial_noise(self) -> float:
        """Scale of the initial state's noise: the setting, or `noise` where it is left out."""
        return self.noise if self.settings.initial_noise is None else self.settings.initial_noise

    @property
    def offset(self) -> float | None:
        """Reward offset: the setting, or `reward_offset` where it is left out."""
        return self.reward_offset if self.settings.reward_offset is None else self.settings.reward_offset

    @property
    def shift(self) -> float | None:
        """Number that is added to every reward before negative sums become zero; None if rewards stay as they are.

        Raises:
            UserError: The offset is to be part of fitness, but there is none.
        """
        if not self.settings.offset_in_fitness:
            return None
        if self.offset is None:
            raise UserError(f"task.offset_in_fitness: {self.settings.name} has no offset, set task.reward_offset")
        return self.offset

    def observation_text(self, model: Any) -> str:
        """Return the observation in words, without the fraction of the episode left."""
        if type(self).observe is not Behaviour.observe:
            return f"{type(self).__name__}.observe"
        positions = model.nq - self.hidden_positions
        return f"positions from index {self.hidden_positions} ({positions}), velocities ({model.nv})"

    def noise_text(self) -> str:
        """Return the distribution of initial states in words."""
        if type(self).initial_state is not Behaviour.initial_state:
            return f"{type(self).__name__}.initial_state"
        return f"positions and velocities uniform within {self.initial_noise:g}"


def noisy_state(
    model: Any, generator: np.random.Generator, noise: float, velocity_noise: str = "uniform"
) -> tuple[np.ndarray, np.ndarray]:
    """Return positions `(nq,)` around the model's own and velocities `(nv,)` around zero, distributed as Gymnasium's.

    Args:
        model: Compiled `mujoco.MjModel`.
        generator: Source of random numbers.
        noise: Scale of the noise.
        velocity_noise: "uniform" within the scale, or "normal" with it as standard deviation.
    """
    qpos = model.qpos0 + generator.uniform(-noise, noise, model.nq)
    if velocity_noise == "normal":
        return qpos, noise * generator.standard_normal(model.nv)
    return qpos, generator.uniform(-noise, noise, model.nv)
