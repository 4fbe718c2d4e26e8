"""The interface of a task: it evaluates genomes, and its description is stored in every file.

A user's task is a class that subclasses `Task`, `qdrl.tasks.functions.FunctionTask` or
`qdrl.tasks.episodic.EpisodicTask`; see docs/how-to/task.md.
"""

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from types import MappingProxyType
from typing import Any, Protocol

import numpy as np

from qdrl.archives.axes import Axis
from qdrl.archives.statistics import Offsets
from qdrl.compute.arithmetic import PORTABLE, Arithmetic
from qdrl.evaluation import Candidates, Evaluation
from qdrl.physics.mjcf import ModelSource
from qdrl.policies.settings import MlpSettings, PolicySettings
from qdrl.tasks.settings import TaskSettings


@dataclass(frozen=True)
class TaskSetup:
    """Inputs of a task besides its own settings: policies, devices and limits.

    Attributes:
        policy: Shape of the policies; ignored where genomes are not policies.
        worlds: Worlds simulated at once.
        threads: Threads that share them.
        device: Device of the simulation, a value of `compute.device`.
        arithmetic: How policies are computed; "blas" as in files of formats 1.0 and 1.1.
        policy_as_given: Keep `policy.output` even if actions are discrete, as archives before format 1.2 require.
        episode_seconds: Wall-clock limit of an episode in users' environments; None for no limit.
        isolate: Run users' environments in worker processes.
        model: MuJoCo model of an archive, used instead of a robot's own file; None for the file.
    """

    policy: PolicySettings = field(default_factory=MlpSettings)
    worlds: int = 64
    threads: int = 1
    device: str = "cpu"
    arithmetic: Arithmetic = PORTABLE
    policy_as_given: bool = False
    episode_seconds: float | None = None
    isolate: bool = False
    model: ModelSource | None = None

    def policy_of(self, *, discrete: bool) -> PolicySettings:
        """Return the shape of the policies, with linear outputs if actions are discrete.

        With tanh several outputs may saturate at the same value, so that the largest one is not unique.

        Args:
            discrete: Whether an action is the index of the largest output.
        """
        if not discrete or self.policy_as_given:
            return self.policy
        return self.policy.model_copy(update={"output": "linear"})


@dataclass(frozen=True)
class TaskSpec:
    """The description of a task, stored in every file.

    Attributes:
        name: Name of the task in experiments.
        summary: One sentence.
        axes: Axes of the descriptor.
        fitness_name: What fitness measures, with its unit.
        episode_length: Control steps after which an episode is truncated; 1 for a function of the genome.
        qd_offset: Lower bound of fitness, which the QD score subtracts.
        step_offset: Number that the QD score adds for every control step of an elite's episode.
        included_offset: Number that every reward already contains, so that fitness has it once for every control step;
            `reward_offset` is then 0.
        reward_offset: Number that descriptor-conditioned critics add to each step's reward before they clip it at zero;
            None if the task has no such number; such critics then reject the task.
        observation: The observation in words.
        observation_size: Length of an observation; 0 where genomes are not policies.
        action_size: Length of an action.
        discrete: Whether an action is the index of a policy's largest output.
        frames_per_step: Frames of a game per control step; 1 where there are none.
        image: Channels, height and width of an observation that is an image.
        initial_noise: Distribution of an episode's first state, in words.
        options: Settings from which this task can be made again.
        arithmetic: How policies, and functions such as sines in the task's own code, are computed.
        gymnasium: Id and keyword arguments of the Gymnasium environment with the same physics and reward, if any.
    """

    name: str
    summary: str
    axes: tuple[Axis, ...]
    fitness_name: str
    episode_length: int
    qd_offset: float
    reward_offset: float | None
    step_offset: float = 0.0
    included_offset: float = 0.0
    observation: str = "none"
    observation_size: int = 0
    action_size: int = 0
    discrete: bool = False
    frames_per_step: int = 1
    image: tuple[int, int, int] | None = None
    initial_noise: str = "none"
    options: dict[str, Any] = field(default_factory=dict)
    arithmetic: Arithmetic = PORTABLE
    gymnasium: dict[str, Any] | None = None

    @classmethod
    def of(
        cls,
        settings: TaskSettings,
        setup: TaskSetup,
        *,
        summary: str,
        axes: tuple[Axis, ...],
        fitness_name: str,
        episode_length: int = 1,
        qd_offset: float = 0.0,
        reward_offset: float | None = None,
        **more: Any,
    ) -> "TaskSpec":
        """Return the description of a user's task, with name, options and arithmetic filled in.

        Args:
            settings: The task's settings.
            setup: How the task computes.
            summary: See the class.
            axes: See the class.
            fitness_name: See the class.
            episode_length: See the class.
            qd_offset: See the class.
            reward_offset: See the class.
            more: Other attributes of the class.
        """
        return cls(
            name=settings.name,
            options=settings.model_dump(mode="json"),
            arithmetic=setup.arithmetic,
            summary=summary,
            axes=axes,
            fitness_name=fitness_name,
            episode_length=episode_length,
            qd_offset=qd_offset,
            reward_offset=reward_offset,
            **more,
        )

    def describe(self) -> dict[str, Any]:
        """Return all attributes as values that JSON can represent."""
        return asdict(self)

    @property
    def offsets(self) -> Offsets:
        """Offsets of the QD score."""
        return Offsets(self.qd_offset, self.step_offset, self.included_offset)

    @property
    def lower(self) -> list[float]:
        """Lower bounds of the descriptor."""
        return [axis.lower for axis in self.axes]

    @property
    def upper(self) -> list[float]:
        """Upper bounds of the descriptor."""
        return [axis.upper for axis in self.axes]


class Task(Protocol):
    """A task; a row's result depends only on the row's genome and seed.

    A subclass sets `spec` and `parameters` and defines `initial` and `evaluate`; the rest has defaults. A run uses only
    the members of this class, apart from policies, which critics and analyses need.

    Attributes:
        spec: Description of the task.
        parameters: Length of a genome.
        mjcf: MuJoCo model in use, as XML; None for none.
        assets: Files that the XML names, by name.
        code: References `package.module:name` of users' code that evaluations run. Archives store its source.
        devices: Values of `compute.device` that a user's task accepts.
        first_failure: Reason of this process's first failed evaluation, in one line, which a run reports if too many
            evaluations fail. If it is None, the run reports the first number that is not finite.
    """

    spec: TaskSpec
    parameters: int
    mjcf: str | None = None
    assets: Mapping[str, bytes] = MappingProxyType({})
    code: tuple[str, ...] = ()
    devices: tuple[str, ...] = ("cpu",)
    first_failure: str | None = None

    def initial(self, generator: np.random.Generator) -> np.ndarray:
        """Return a random first genome, `(parameters,)` float32."""
        raise NotImplementedError

    def evaluate(self, candidates: Candidates) -> Evaluation:
        """Evaluate every row once; build the result with `qdrl.evaluation.evaluated`."""
        raise NotImplementedError

    def prepare(self) -> None:
        """Make what evaluations need, such as worlds; called before a run writes anything.

        Raises:
            UserError: A model, an environment or a device that the task needs is missing.
        """

    def close(self) -> None:
        """Release what evaluations have made, such as worlds; called when a run ends. The task can be used again."""

    def find_warning(self) -> str | None:
        """Return a warning that a run logs at its start, in one line, such as why elites cannot be rerun; or None."""
        return None

    def update(self, evaluation: Evaluation) -> None:
        """Update the observation statistics, which all rows share, from the evaluation of a whole generation."""

    def describe_policy(self) -> dict[str, Any] | None:
        """Return the description of the policies; None if genomes are not policies."""
        return None

    def state_dict(self, generations: Iterable[int]) -> dict[str, np.ndarray] | None:  # noqa: ARG002
        """Return the current observation statistics and those of the given generations; None without statistics."""
        return None

    def load_state_dict(self, state: Mapping[str, np.ndarray]) -> None:
        """Restore what `state_dict` returned."""
