"""What a task is: genomes in, an evaluation out, and a description that travels in every file."""

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Protocol

import numpy as np

from qdrl.archives.axes import Axis
from qdrl.compute.arithmetic import PORTABLE, Arithmetic
from qdrl.evaluation import Candidates, Evaluation
from qdrl.physics.mjcf import ModelSource
from qdrl.policies.settings import MlpSettings, PolicySettings


@dataclass(frozen=True)
class TaskSpec:
    """What everyone may know of a task without running it.

    Attributes:
        name: the name it is asked for by.
        summary: one sentence.
        axes: the descriptor.
        fitness_name: what fitness measures, with its unit.
        episode_length: most control steps an episode takes; 1 for a function of the genome.
        qd_offset: lower bound of fitness that the QD score subtracts.
        reward_offset: what descriptor-conditioned critics add to each step's reward before they cut it at zero; None
            for a task that states none, which such critics refuse.
        observation: what a policy sees, in words.
        observation_size: numbers in an observation; 0 where genomes are not policies.
        action_size: numbers in an action.
        discrete: whether an action is the index of the largest output of a policy.
        frames_per_step: frames of a game that a control step takes; 1 where there are none.
        image: channels, height and width of an observation, where it is an image.
        initial_noise: how an episode's first state is drawn, in words.
        options: the settings that make this task again.
        arithmetic: how policies, and functions such as sines in the task's own code, are computed.
        gymnasium: id and keyword arguments of the Gymnasium environment with the same physics and reward, if any.
    """

    name: str
    summary: str
    axes: tuple[Axis, ...]
    fitness_name: str
    episode_length: int
    qd_offset: float
    reward_offset: float | None
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

    def describe(self) -> dict[str, Any]:
        """All of it as JSON can hold it."""
        return asdict(self)

    @property
    def lower(self) -> list[float]:
        """Lower bounds of the descriptor."""
        return [axis.lower for axis in self.axes]

    @property
    def upper(self) -> list[float]:
        """Upper bounds of the descriptor."""
        return [axis.upper for axis in self.axes]


@dataclass(frozen=True)
class TaskSetup:
    """How a task computes: everything besides its own settings.

    Attributes:
        policy: Shape of the policies; ignored where genomes are not policies.
        worlds: Worlds simulated at once.
        threads: Threads that share them.
        device: Device of the simulation, a value of `compute.device`.
        arithmetic: How policies are computed; "blas" as in files of formats 1.0 and 1.1.
        policy_as_given: Keep `policy.output` where actions are discrete, as archives before format 1.2 need it.
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


class Task(Protocol):
    """Evaluates genomes; row results depend on the row's genome and seed alone."""

    spec: TaskSpec
    parameters: int

    def initial(self, generator: np.random.Generator) -> np.ndarray:
        """A first random genome, `(parameters,)` float32."""
        ...

    def evaluate(self, candidates: Candidates) -> Evaluation:
        """Run every row once."""
        ...

    def update(self, evaluation: Evaluation) -> None:
        """Learn from the shared evaluation of a whole generation what all rows may share (observation statistics)."""
        ...

    def describe_policy(self) -> dict[str, Any] | None:
        """What a genome means, None where it is not a policy."""
        ...

    @property
    def mjcf(self) -> str | None:
        """The MuJoCo model in use, as XML."""
        ...

    def state_dict(self, generations: Iterable[int]) -> dict[str, np.ndarray] | None:
        """Observation statistics, with those of the given generations; None when there are none."""
        ...

    def load_state_dict(self, state: Mapping[str, np.ndarray]) -> None:
        """Put back what `state_dict` gave."""
        ...
