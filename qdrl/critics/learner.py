"""The state of a learner over generations: local shards of the replay buffer, and TD3.

Every rank constructs one; only ranks of the learner group fill its shards.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch

from qdrl.critics.injection import conditioned
from qdrl.critics.replay_buffer import LabelledTransitions, ReplayBuffer
from qdrl.critics.settings import LearningSettings
from qdrl.critics.td3 import Td3
from qdrl.errors import UserError
from qdrl.parallel.learners import LOST, Learners, OneLearner
from qdrl.policies.mlp import Mlp
from qdrl.streams import Purpose, Streams

_UNTRAINED = {"critic_steps": 0.0, "actor_steps": 0.0, "diverged": 0.0, "critic_loss": np.nan, "actor_value": np.nan}


class Learner:
    """Trains critics and actor in one phase a generation.

    Attributes:
        td3: critics and actor; up to date on the learners only.
        shards: all shards of the replay buffer; those of other learners are empty.

    Args:
        policy: shape of the policies.
        dimensions: numbers in a descriptor, 0 for unconditioned critics.
        settings: settings of the replay buffer, TD3 and the variation.
        streams: the run's random streams.
        device: where replay buffer and networks are.

    Raises:
        UserError: the replay buffer does not fit into memory.
    """

    def __init__(
        self,
        policy: Mlp,
        dimensions: int,
        settings: LearningSettings,
        streams: Streams,
        device: str | torch.device = "cpu",
    ) -> None:
        self._settings, self._streams = settings, streams
        self.td3 = Td3(
            conditioned(policy.resized(settings.critic.actor_hidden_sizes), dimensions),
            dimensions,
            settings.critic,
            streams.generator(Purpose.CRITIC),
            shards=settings.learners,
            conditioned_actor=settings.conditioned_actor,
            device=device,
        )
        capacity = settings.replay_capacity // settings.learners
        sizes = policy.sizes[0], policy.sizes[-1], dimensions
        try:  # an empty shard takes no memory on the CPU
            self.shards = [ReplayBuffer(capacity, *sizes, device) for _ in range(self._count)]
        except (RuntimeError, MemoryError) as error:
            raise UserError(
                f"algorithm.replay_capacity: {settings.replay_capacity} transitions do not fit into memory"
            ) from error
        self._learners: Learners = OneLearner(self._count)
        self._local: range | None = None  # shards filled here; None before the first training and after a restore
        self._unread: Sequence[Mapping[str, Any]] = ()  # all shards of a checkpoint, until the next training reads them
        self._collected: list[dict[str, np.ndarray]] | None = None
        self._trained = -1  # the last generation that was trained on, with its result
        self._result: dict[str, np.ndarray] = {}

    def train(
        self, generation: int, shards: Sequence[LabelledTransitions], learners: Learners, *, trains: bool = True
    ) -> dict[str, np.ndarray]:
        """Add a generation's transitions to the replay buffer and train. Collective over the learners.

        A generation that is repeated because a rank was lost is not trained on again.

        Args:
            generation: the generation of the transitions.
            shards: transitions of each local shard.
            learners: the group that trains together.
            trains: whether to train now; otherwise the transitions are only added.

        Returns:
            critic, `(parameters,)` the critic for policy-gradient variation; actor, `(parameters,)`; states, `(steps,
            batch, observation)` for the next policy-gradient variation; and the numbers that `Td3.train_shards`
            returns. Only these numbers without training, or while a shard holds too few transitions.

        Raises:
            UserError: a learner was lost.
        """
        self._learners = learners
        if not self._is_repeated(generation):
            self._read_shards(learners.shards)
            for shard, transitions in zip(learners.shards, shards, strict=True):
                self.shards[shard].add(transitions)
            self._result = self._train(generation) if trains else _untrained()
            self._trained, self._local = generation, learners.shards
        return dict(self._result)

    def collect(self) -> None:
        """Bring all shards to the first rank, for `state_dict`. Collective over the learners; no-op elsewhere."""
        if self._local is not None:
            self._collected = self._learners.collect([self.shards[shard].state_dict() for shard in self._local])

    def state_dict(self, generation: int) -> dict[str, Any]:
        """Return the state before a generation, for a checkpoint.

        Raises:
            UserError: the rank that trained on the last generation was lost.
        """
        if self._trained != generation - 1:
            raise UserError(LOST)
        shards, self._collected = self._collected or self._shard_states(), None
        return {"td3": self.td3.state_dict(), "replay": {str(shard): state for shard, state in enumerate(shards)}}

    def load_state_dict(self, state: Mapping[str, Any], generation: int) -> None:
        """Restore a state that `state_dict` returned; the transitions of a shard are read by the first training.

        Raises:
            ValueError: an array has the shape of other networks or of another replay buffer.
        """
        self.td3.load_state_dict(state["td3"])
        self._unread = [state["replay"][str(shard)] for shard in range(self._count)]
        for buffer, stored in zip(self.shards, self._unread, strict=True):
            buffer.check_state(stored)
        self._local, self._trained = None, generation - 1

    def begin_at(self, generation: int) -> None:
        """Start with this generation, untrained."""
        self._trained = generation - 1

    @property
    def _count(self) -> int:
        return self._settings.learners

    def _is_repeated(self, generation: int) -> bool:
        """Return whether this generation was trained on already; all learners must agree. Collective."""
        is_next = self._trained == generation - 1 and self._local in (None, self._learners.shards)
        is_repeated = self._trained == generation and self._local == self._learners.shards
        own = torch.full((len(self._learners.shards),), is_next + 2 * is_repeated)
        states = set(self._learners.join(own).tolist())
        if states == {1}:
            return False
        if states == {2}:
            return True
        raise UserError(LOST)

    def _read_shards(self, shards: range) -> None:
        """Read these shards of a restored checkpoint."""
        if self._unread:
            for shard in shards:
                self.shards[shard].load_state_dict(self._unread[shard])
            self._unread = ()

    def _shard_states(self) -> list[dict[str, Any]]:
        if self._unread:
            return [{name: np.asarray(values) for name, values in shard.items()} for shard in self._unread]
        return [shard.state_dict() for shard in self.shards]

    def _train(self, generation: int) -> dict[str, np.ndarray]:
        buffers, learners = [self.shards[shard] for shard in self._learners.shards], self._learners
        if not self._can_sample(buffers):
            return _untrained()
        training, states = (
            [self._streams.generator(purpose, generation, shard) for shard in learners.shards]
            for purpose in (Purpose.TRAINING, Purpose.STATES)
        )
        report = self.td3.train_shards(buffers, training, learners)
        return {
            "critic": self.td3.critic[0].cpu().numpy().copy(),
            "actor": self.td3.actor[0].cpu().numpy().copy(),
            "states": self._sample_states(buffers, states),
            **{name: np.array(float(value)) for name, value in report.items()},
        }

    def _sample_states(self, buffers: Sequence[ReplayBuffer], generators: Sequence[np.random.Generator]) -> np.ndarray:
        """Return states for policy-gradient variation, `(steps, batch, observation)`. Collective over the learners."""
        settings = self._settings.gradient
        shape = (settings.steps, settings.batch_size // self._count)
        parts = [buffer.sample(draw, shape).observation for buffer, draw in zip(buffers, generators, strict=True)]
        joined = self._learners.join(torch.stack(parts).cpu())  # (shards, steps, part of a batch, observation)
        return np.concatenate(list(joined.numpy()), axis=1)

    def _can_sample(self, buffers: Sequence[ReplayBuffer]) -> bool:
        """Return whether every shard holds its part of a minibatch. Collective over the learners."""
        least = max(self._settings.critic.batch_size, self._settings.gradient.batch_size) // self._count
        enough = torch.tensor([len(buffer) >= least for buffer in buffers], dtype=torch.int64)
        return bool(self._learners.join(enough).all())


def _untrained() -> dict[str, np.ndarray]:
    """Return the numbers of a generation without training."""
    return {name: np.array(value) for name, value in _UNTRAINED.items()}
