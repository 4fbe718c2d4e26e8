"""A task whose genomes are policies that act in worlds for an episode."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from typing import Any

import numpy as np
from torch import Tensor

from qdrl.evaluation import Candidates, Evaluation, evaluated
from qdrl.policies.base import PolicySettings, make_policy
from qdrl.policies.normalizer import ObservationNormalizer
from qdrl.tasks.base import TaskSpec
from qdrl.tasks.rollout import EpisodeWorlds, Rollout


class EpisodicTask:
    """See `qdrl.tasks.base.Task`.

    Args:
        spec: what the task is.
        make_worlds: makes a number of worlds; called once, at the first evaluation.
        policy: shape of the policies.
        worlds: worlds simulated at once by this process.
        mjcf: the MuJoCo model in use, as XML.
    """

    def __init__(
        self,
        spec: TaskSpec,
        make_worlds: Callable[[int], EpisodeWorlds],
        *,
        policy: PolicySettings,
        worlds: int,
        mjcf: str | None = None,
    ) -> None:
        self.spec = spec
        self.policy = make_policy(policy, spec.observation_size, spec.action_size, spec.image)
        self.parameters = self.policy.parameters
        self.mjcf = mjcf
        self.normalizer = ObservationNormalizer(spec.observation_size) if policy.normalize_observations else None
        self.make_worlds = make_worlds
        self._count = worlds
        self._rollout: Rollout | None = None

    def initial(self, generator: np.random.Generator) -> np.ndarray:
        return self.policy.initial(generator)

    def evaluate(self, candidates: Candidates) -> Evaluation:
        episodes = self.rollout().run(
            candidates.genomes.cpu() if isinstance(candidates.genomes, Tensor) else candidates.genomes,
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
        if self.normalizer is not None and evaluation.observations is not None:
            self.normalizer.update(evaluation.observations, ~evaluation.failed)

    def rollout(self) -> Rollout:
        """The rollout that evaluations run through; its worlds are made at the first call."""
        if self._rollout is None:
            self._rollout = self.rollout_in(self.make_worlds(self._count))
        return self._rollout

    def rollout_in(self, worlds: EpisodeWorlds) -> Rollout:
        """A rollout of this task's policies and episodes in worlds of the caller's."""
        return Rollout(worlds, self.policy, len(self.spec.axes), self.spec.episode_length)

    def describe_policy(self) -> dict[str, Any] | None:
        return self.policy.describe()

    def state_dict(self, generations: Iterable[int]) -> dict[str, np.ndarray] | None:
        return None if self.normalizer is None else self.normalizer.state_dict(generations)

    def load_state_dict(self, state: Mapping[str, np.ndarray]) -> None:
        if self.normalizer is not None:
            self.normalizer.load_state_dict(state)
