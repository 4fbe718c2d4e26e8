"""Tasks whose genomes are policies that act in worlds for an episode."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from qdrl.errors import UserError
from qdrl.evaluation import Candidates, Evaluation, evaluated
from qdrl.policies.base import make_policy
from qdrl.policies.conv import Conv
from qdrl.policies.mlp import Mlp
from qdrl.policies.normalizer import ObservationNormalizer
from qdrl.policies.settings import PolicySettings
from qdrl.tasks.base import Task, TaskSpec
from qdrl.tasks.environments.failures import FailureLog
from qdrl.tasks.episodes.contract import CheckedWorlds
from qdrl.tasks.episodes.rollout import Rollout, RunsEpisodes
from qdrl.tasks.episodes.worlds import EpisodeWorlds

_REFERENCE_INTERVAL = 8  # steps between the reference observations of virtual batch normalisation


class EpisodicTask(Task):
    """A task whose genomes are policies; see `qdrl.tasks.base.Task`.

    Args:
        spec: Description of the task.
        make_worlds: Factory of a number of worlds.
        policy: Shape of the policies.
        worlds: Worlds simulated at once by this process.
        mjcf: MuJoCo model in use, as XML.
        assets: Files that the XML names, by name.
        make_rollout: Factory of the rollout for a shape of policies; a `Rollout` in `worlds` worlds if left out.
        failures: Log of failed episodes, where users' code can fail.
        find_warning: Function that returns one line if elites cannot be rerun exactly, otherwise None.
        code: References `package.module:name` of users' code that evaluations run.
    """

    def __init__(
        self,
        spec: TaskSpec,
        make_worlds: Callable[[int], EpisodeWorlds],
        *,
        policy: PolicySettings,
        worlds: int,
        mjcf: str | None = None,
        assets: Mapping[str, bytes] | None = None,
        make_rollout: Callable[[Any], RunsEpisodes] | None = None,
        failures: FailureLog | None = None,
        find_warning: Callable[[], str | None] | None = None,
        code: Sequence[str] = (),
    ) -> None:
        self.spec = spec
        self.policy = make_policy(policy, spec.observation_size, spec.action_size, spec.image, spec.arithmetic)
        self.parameters = self.policy.parameters
        self.mjcf = mjcf
        self.assets = dict(assets or {})
        self.normalizer = ObservationNormalizer(spec.observation_size) if policy.normalize_observations else None
        self.make_worlds = make_worlds
        self._make_rollout = make_rollout or (lambda shape: self.rollout_in(self.make_worlds(worlds), shape))
        self._rollouts: dict[Any, RunsEpisodes] = {}  # by hidden sizes; None: the task's policies
        self._failures = failures
        self._find_warning = find_warning
        self.code = tuple(code)

    @property
    def first_failure(self) -> str | None:
        """Reason of this process's first failed evaluation, in one line; None if no evaluation has failed."""
        return None if self._failures is None else self._failures.first

    def initial(self, generator: np.random.Generator) -> np.ndarray:
        """Return a random first genome."""
        return self.policy.initial(generator)

    def evaluate(self, candidates: Candidates) -> Evaluation:
        """Evaluate every row once."""
        episodes = self.rollout(candidates.hidden_sizes).run(
            candidates.genomes,
            candidates.seeds.tolist(),
            None if self.normalizer is None else self.normalizer.snapshot(candidates.generation),
            keep_transitions=candidates.wants_transitions,
        )
        evaluation = evaluated(
            candidates,
            fitness=episodes.fitness,
            descriptor=episodes.descriptor,
            steps=episodes.steps,
            failed=episodes.failed,
            observations=episodes.observations,
        )
        if episodes.log is None:
            return evaluation
        transitions = episodes.log.transitions(candidates.rows.start, evaluation.failed.numpy())
        return replace(evaluation, transitions=transitions)

    def update(self, evaluation: Evaluation) -> None:
        """Update the observation statistics."""
        if self.normalizer is not None and evaluation.observations is not None:
            self.normalizer.update(evaluation.observations, ~evaluation.failed)

    def prepare(self) -> None:
        """Make the worlds."""
        self.rollout()

    def rollout(self, hidden_sizes: tuple[int, ...] | None = None) -> RunsEpisodes:
        """Return the rollout of evaluations; the first call makes it and its worlds.

        Args:
            hidden_sizes: Units of each hidden layer of the networks; those of the task's policies if left out. Other
                sizes have a rollout and worlds of their own.

        Raises:
            UserError: The task's policies are convolutional, and other sizes are given.
        """
        shape = self.policy if hidden_sizes is None else self._resized(hidden_sizes)
        key = None if shape is self.policy else hidden_sizes
        if key not in self._rollouts:
            self._rollouts[key] = self._make_rollout(shape)
        return self._rollouts[key]

    def close(self) -> None:
        """Close the worlds; the next evaluation makes new ones."""
        rollouts, self._rollouts = self._rollouts, {}
        for rollout in rollouts.values():
            rollout.close()

    def find_warning(self) -> str | None:
        """Return one line if elites cannot be rerun exactly, otherwise None."""
        return None if self._find_warning is None else self._find_warning()

    def rollout_in(self, worlds: EpisodeWorlds, shape: Mlp | Conv | None = None) -> Rollout:
        """Return a rollout of policies in the given worlds; `shape` is theirs, the task's if left out."""
        rollout = Rollout(worlds, shape or self.policy, len(self.spec.axes), self.spec.episode_length)
        if isinstance(self.policy, Conv) and self.policy.settings.virtual_batch_norm:
            rollout.set_reference(self.reference())
        return rollout

    def reference(self) -> Tensor:
        """Return the reference observations of virtual batch normalisation, `(virtual_batch_norm, observation)`.

        They are every eighth observation of consecutive episodes of random actions.
        """
        count = self.policy.settings.virtual_batch_norm if isinstance(self.policy, Conv) else 0
        if not count:
            return torch.empty(0, self.spec.observation_size)
        worlds, generator = CheckedWorlds(self.make_worlds(1), self.spec.observation_size), np.random.default_rng(0)
        seen, age = [], 0
        while len(seen) < count:
            if age % self.spec.episode_length == 0:
                worlds.reset([0], [int(generator.integers(2**62))])
            actions = torch.from_numpy(generator.uniform(-1, 1, (1, self.spec.action_size)).astype(np.float32))
            _, over = worlds.step(actions)
            age = 0 if over[0] else age + 1
            if age % _REFERENCE_INTERVAL == 0:
                seen.append(worlds.observe(torch.tensor([age]))[0].clone())
        worlds.close()
        return torch.stack(seen)

    def _resized(self, hidden_sizes: tuple[int, ...]) -> Mlp:
        if not isinstance(self.policy, Mlp):
            raise UserError("policy.kind: networks with hidden layers of other sizes need 'mlp'")
        return self.policy.resized(hidden_sizes)

    def describe_policy(self) -> dict[str, Any] | None:
        """Return the description of the policies."""
        return self.policy.describe()

    def state_dict(self, generations: Iterable[int]) -> dict[str, np.ndarray] | None:
        """Return the observation statistics."""
        return None if self.normalizer is None else self.normalizer.state_dict(generations)

    def load_state_dict(self, state: Mapping[str, np.ndarray]) -> None:
        """Restore the observation statistics."""
        if self.normalizer is not None:
            self.normalizer.load_state_dict(state)
