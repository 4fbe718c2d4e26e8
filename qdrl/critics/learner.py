"""What a learner keeps from generation to generation, and does in each: its shards of the replay, and TD3.

Every rank has one; only those in the learner group ever fill theirs.
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
from qdrl.evaluation import Learned
from qdrl.parallel.learners import LOST, Learners, OneLearner
from qdrl.policies.mlp import Mlp
from qdrl.streams import Streams


class Learner:
    """Trains critics and actor, a phase a generation.

    Attributes:
        td3: critics and actor; up to date on the learners only.

    Args:
        policy: shape of the policies that acted.
        dimensions: numbers in a descriptor, 0 for unconditioned critics.
        settings: what is learned and kept.
        streams: the run's random numbers.
        device: where replay and networks live.

    Raises:
        UserError: the replay does not fit into memory.
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
            conditioned(policy, dimensions),
            dimensions,
            settings.critic,
            streams.generator("critic"),
            shards=settings.learners,
            conditioned_actor=settings.conditioned_actor,
            device=device,
        )
        capacity = settings.replay_capacity // settings.learners
        sizes = policy.sizes[0], policy.sizes[-1], dimensions
        try:  # memory that no learner here fills costs nothing
            self.shards = [ReplayBuffer(capacity, *sizes, device) for _ in range(self._count)]
        except (RuntimeError, MemoryError) as error:
            raise UserError(
                f"algorithm.replay_capacity: {settings.replay_capacity} transitions do not fit into memory"
            ) from error
        self._learners: Learners = OneLearner(self._count)
        self._held: range | None = None  # shards filled here; None where none was yet, here or before the last stop
        self._stored: Sequence[Mapping[str, Any]] = ()  # shards of a checkpoint that nobody has asked for yet
        self._collected: list[dict[str, np.ndarray]] | None = None
        self._learned_of = -1  # the generation that was learned last, and what came of it
        self._told = Learned()

    def learn(self, generation: int, shards: Sequence[LabelledTransitions], learners: Learners) -> Learned:
        """Collective over the learners. Keep a generation's transitions, train, say what others need to propose.

        A generation that comes again, because a rank was lost, is not learned again.

        Args:
            generation: the one that gave them.
            shards: transitions of each shard held here.
            learners: who trains together.

        Returns:
            critic, `(parameters,)` the critic that policies climb; actor, `(parameters,)`; states, `(steps, batch,
            observation)` for the next gradients; and what `Td3.train` reports. Reports alone while a shard holds too
            little to train.

        Raises:
            UserError: a rank that learned was lost.
        """
        self._learners = learners
        if not self._is_known(generation):
            self._take_stored(learners.shards)
            for shard, transitions in zip(learners.shards, shards, strict=True):
                self.shards[shard].add(transitions)
            self._told = self._train(generation)
            self._learned_of, self._held = generation, learners.shards
        return dict(self._told)

    def collect(self) -> None:
        """Collective over the learners, and nothing elsewhere: bring all shards to the first rank, for `state_dict`."""
        if self._held is not None:
            self._collected = self._learners.collect([self.shards[shard].state_dict() for shard in self._held])

    def state_dict(self, generation: int) -> dict[str, Any]:
        """What a checkpoint before that generation keeps.

        Raises:
            UserError: the last generation was learned by a rank that is no longer there.
        """
        if self._learned_of != generation - 1:
            raise UserError(LOST)
        shards, self._collected = self._collected or self._shard_states(), None
        return {"td3": self.td3.state_dict(), "replay": {str(shard): state for shard, state in enumerate(shards)}}

    def load_state_dict(self, state: Mapping[str, Any], generation: int) -> None:
        """Restore what `state_dict` returned; a shard's transitions are read when this rank first learns from them.

        Raises:
            ValueError: a shape is that of other networks, or of other replays.
        """
        self.td3.load_state_dict(state["td3"])
        self._stored = [state["replay"][str(shard)] for shard in range(self._count)]
        for replay, stored in zip(self.shards, self._stored, strict=True):
            replay.check_state(stored)
        self._held, self._learned_of = None, generation - 1

    def begin_at(self, generation: int) -> None:
        """Take a generation for the first one, with nothing learned before it."""
        self._learned_of = generation - 1

    @property
    def _count(self) -> int:
        return self._settings.learners

    def _is_known(self, generation: int) -> bool:
        """Collective over the learners. Whether this generation was learned already; all must agree."""
        follows = self._learned_of == generation - 1 and self._held in (None, self._learners.shards)
        again = self._learned_of == generation and self._held == self._learners.shards
        mine = torch.full((len(self._learners.shards),), follows + 2 * again)
        states = set(self._learners.join(mine).tolist())
        if states == {1}:
            return False
        if states == {2}:
            return True
        raise UserError(LOST)

    def _take_stored(self, shards: range) -> None:
        if self._stored:
            for shard in shards:
                self.shards[shard].load_state_dict(self._stored[shard])
            self._stored = ()

    def _shard_states(self) -> list[dict[str, Any]]:
        if self._stored:
            return [{name: np.asarray(values) for name, values in shard.items()} for shard in self._stored]
        return [shard.state_dict() for shard in self.shards]

    def _train(self, generation: int) -> Learned:
        held, learners = [self.shards[shard] for shard in self._learners.shards], self._learners
        if not self._suffices(held):
            nothing = dict.fromkeys(("critic_steps", "actor_steps", "diverged"), 0.0)
            nothing |= dict.fromkeys(("critic_loss", "actor_value"), np.nan)
            return {name: np.array(value) for name, value in nothing.items()}  # genomes stay random meanwhile
        draws = {
            purpose: [self._streams.generator(purpose, generation, shard) for shard in learners.shards]
            for purpose in ("training", "states")
        }
        report = self.td3.train_on(held, draws["training"], learners)
        settings = self._settings.gradient
        shape = (settings.steps, settings.batch_size // self._count)
        states = [replay.sample(draw, shape).observation for replay, draw in zip(held, draws["states"], strict=True)]
        joined = learners.join(torch.stack(states).cpu())  # (shards, steps, share of a batch, observation)
        return {
            "critic": self.td3.critic[0].cpu().numpy().copy(),
            "actor": self.td3.actor[0].cpu().numpy().copy(),
            "states": np.concatenate(list(joined.numpy()), axis=1),
            **{name: np.array(float(value)) for name, value in report.items()},
        }

    def _suffices(self, held: Sequence[ReplayBuffer]) -> bool:
        """Collective over the learners. Whether every shard can give its share of a minibatch."""
        least = max(self._settings.critic.batch_size, self._settings.gradient.batch_size) // self._count
        enough = torch.tensor([len(replay) >= least for replay in held], dtype=torch.int64)
        return bool(self._learners.join(enough).all())
