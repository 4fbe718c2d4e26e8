"""TD3 (Fujimoto, van Hoof and Meger 2018), unconditioned or conditioned on descriptors (Faldor et al. 2023).

TD3: https://arxiv.org/abs/1802.09477. Conditioning: https://arxiv.org/abs/2303.03832. Unconditioned as in
PGA-MAP-Elites (Nilsson and Cully 2021): https://doi.org/10.1145/3449639.3459304.

    eps = clip(noise * N(0, I), -noise_clip, noise_clip)            a' = clip(pi'(s' | d') + eps, -1, 1)
    y   = S(d, d') * reward_scale * r + discount * (1 - terminated) * min_i Q'_i(s', a' | d')
    L_Q = sum_i mean(w * (Q_i(s, a | d') - y)^2)                     L_pi = -mean(Q_1(s, pi(s | d') | d'))

d is the descriptor that the episode reached, d' the target descriptor of its policy. The weight w is 0 for truncated
transitions where `truncation = "mask"`. Descriptors of no dimensions make S = 1: the unconditioned algorithm.

A minibatch may consist of equal parts, each sampled from its own shard of the replay buffer. Losses and gradients are
then sums over shards and do not depend on which process computes which part (`qdrl.parallel.learners`).
"""

from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor

from qdrl.compute.arrays import load_array
from qdrl.compute.cuda_graphs import GraphedCall, SideStream
from qdrl.compute.optimizers import Adam
from qdrl.critics.chunks import Chunk, ChunkGraphs, allocate_chunk
from qdrl.critics.fast.losses import ActorLoss, CriticLoss, Td3Networks
from qdrl.critics.fast.networks import matrices
from qdrl.critics.fast.sums import SummedGradient
from qdrl.critics.minibatches import Minibatch, MinibatchSampler
from qdrl.critics.replay_buffer import ReplayBuffer
from qdrl.critics.settings import Td3Settings
from qdrl.parallel.learners import Learners, OneLearner
from qdrl.policies.mlp import Mlp, MlpSettings

_NETWORKS = ("critic", "critic_target", "actor", "actor_target")


class Td3:
    """Two critics and a deterministic actor, each with a target network.

    A critic sees action, observation and target descriptor, in this order. The actor sees observation and target
    descriptor: the inputs of the policies, followed by a descriptor.

    Attributes:
        actor_mlp: shape of the actor.
        critic_mlp: shape of a critic.
        actor: `(1, parameters)`, a flat row of `actor_mlp`.
        critic: `(2, parameters)`, flat rows of `critic_mlp`; the actor maximises the first.
        actor_target: follows `actor`.
        critic_target: follows `critic`.
        steps: number of critic steps so far.

    Args:
        actor: shape of the actor: that of the policies with `dimensions` more inputs at the end.
        dimensions: numbers in a descriptor, 0 for the unconditioned algorithm.
        settings: settings of TD3.
        generator: draws the initial weights.
        shards: number of shards of the replay buffer; each gives an equal part of every minibatch.
        conditioned_actor: whether the actor sees target descriptors. Without, it has the same shape and its weights of
            the descriptor inputs stay zero.
        device: where networks are trained.

    Raises:
        ValueError: a descriptor has more numbers than the actor has inputs, or a minibatch cannot be divided equally
            among the shards.
    """

    def __init__(
        self,
        actor: Mlp,
        dimensions: int,
        settings: Td3Settings,
        generator: np.random.Generator,
        *,
        shards: int = 1,
        conditioned_actor: bool = True,
        device: str | torch.device = "cpu",
    ) -> None:
        if not 0 <= dimensions < actor.sizes[0]:
            inputs = actor.sizes[0]
            raise ValueError(f"dimensions must be 0 to {inputs - 1} for an actor of {inputs} inputs, got {dimensions}")
        if settings.batch_size % shards:
            raise ValueError(f"batch_size ({settings.batch_size}) must be a multiple of shards ({shards})")
        self.settings, self.steps, self.dimensions = settings, 0, dimensions
        self._shards, self._conditioned_actor = shards, conditioned_actor
        self.actor_mlp, self.critic_mlp = actor, critic_mlp(actor, settings.hidden_sizes)
        initial = np.stack([self.critic_mlp.initial(generator) for _ in range(2)])
        # Copied into torch's memory, which always has the same alignment: the last bits of MKL's products depend on it.
        self.critic = torch.tensor(initial, device=device)
        self.actor = torch.tensor(actor.initial(generator)[None], device=device)
        if not conditioned_actor:
            self._descriptor_weights(self.actor).zero_()
        self.critic_target, self.actor_target = self.critic.clone(), self.actor.clone()
        self._build(settings.batch_size // shards)

    def train(self, buffer: ReplayBuffer, generator: np.random.Generator, steps: int | None = None) -> dict[str, float]:
        """Train on a replay buffer of one shard; see `train_shards`."""
        return self.train_shards([buffer], [generator], OneLearner(), steps)

    def train_shards(
        self,
        buffers: Sequence[ReplayBuffer],
        generators: Sequence[np.random.Generator],
        learners: Learners,
        steps: int | None = None,
    ) -> dict[str, float]:
        """Run a training phase: critic steps, and an actor step at every `actor_delay`-th of them.

        Collective over the learners; learners with equal states have equal states afterwards. A phase that makes a
        loss, a weight or a moment of Adam infinite or NaN is undone.

        Args:
            buffers: the local shards, with descriptors of this critic's dimensions.
            generators: one a shard; draws all its minibatches, then all its noise.
            learners: the group that trains together.
            steps: critic steps of this phase; `settings.steps` by default.

        Returns:
            critic_steps and actor_steps, 0 in an undone phase; diverged, 1 in an undone phase and 0 otherwise; and the
            means over the phase of critic_loss, L_Q, and actor_value, Q_1 of the actor's actions, NaN without such
            steps.

        Raises:
            RuntimeError: a shard holds fewer transitions than its part of a minibatch.
            ValueError: descriptors of a buffer have other dimensions, the number of shards is not that of this critic,
                or `steps` is less than 1.
        """
        self._check(buffers, learners, steps)
        before, count = self.state_dict(), self.settings.steps if steps is None else steps
        for gradient in (self._critic_sum, self._actor_sum):
            gradient.allocate(len(buffers))
        phases = [self._sampler.chunks(*shard, count) for shard in zip(buffers, generators, strict=True)]
        loss, values = self._run_chunks(zip(*phases, strict=True), learners)
        self.steps += count
        if not (np.isfinite(loss) and self._is_finite()):
            self.load_state_dict(before)
            return {"critic_steps": 0, "actor_steps": 0, "diverged": 1, "critic_loss": np.nan, "actor_value": np.nan}
        return {
            "critic_steps": count,
            "actor_steps": values.shape[1],
            "diverged": 0,
            "critic_loss": loss / count,
            "actor_value": self._mean_value(values, learners),
        }

    def state_dict(self) -> dict[str, Any]:
        """Return copies of networks, targets and optimisers, and the number of steps."""
        networks = {name: getattr(self, name).cpu().numpy().copy() for name in _NETWORKS}
        optimisers = {"critic_adam": self._critic_adam.state_dict(), "actor_adam": self._actor_adam.state_dict()}
        return networks | optimisers | {"steps": self.steps}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore a state that `state_dict` returned; training continues with the same bits.

        Raises:
            ValueError: an array has the shape of other networks.
        """
        for name in _NETWORKS:
            load_array(getattr(self, name), state[name], name)
        self._critic_adam.load_state_dict(state["critic_adam"])
        self._actor_adam.load_state_dict(state["actor_adam"])
        self.steps = int(state["steps"])

    def _build(self, size: int) -> None:
        """Allocate gradients, optimisers and passes for minibatch parts of `size` transitions."""
        settings, device = self.settings, self.critic.device
        self._sampler = MinibatchSampler(settings, size, self.actor_mlp.sizes[-1])
        self._critic_sum = SummedGradient(self.critic, self._shards)
        self._actor_sum = SummedGradient(self.actor, self._shards)
        self._critic_adam = Adam(self.critic, self._critic_sum.total, settings.critic_learning_rate)
        self._actor_adam = Adam(self.actor, self._actor_sum.total, settings.actor_learning_rate)
        networks = Td3Networks(
            self.critic_mlp, self.actor_mlp, self.critic, self.critic_target, self.actor, self.actor_target
        )
        self._critic_loss = CriticLoss(networks, self._critic_sum.part, size, settings.batch_size)
        self._actor_loss = ActorLoss(networks, self._actor_sum.part, size, settings.batch_size)
        self._side_stream = SideStream(device)
        self._graphs = ChunkGraphs(device) if device.type == "cuda" else None

    def _check(self, buffers: Sequence[ReplayBuffer], learners: Learners, steps: int | None) -> None:
        for buffer in buffers:
            if (found := buffer.dimensions) != self.dimensions:
                raise ValueError(f"a replay buffer has {found} descriptor dimensions, expected {self.dimensions}")
        if learners.count != self._shards or len(buffers) != len(learners.shards):
            raise ValueError(
                f"got {len(buffers)} replay buffers for {len(learners.shards)} of {learners.count} shards, expected"
                f" {self._shards} shards"
            )
        if steps is not None and steps < 1:
            raise ValueError(f"a training phase needs at least 1 step, got {steps}")

    def _run_chunks(self, chunks: Iterator[tuple[Minibatch, ...]], learners: Learners) -> tuple[float, Tensor]:
        """Run all steps; return the sum of losses and all `Chunk.values`.

        Results are read from a GPU only after the last step was launched.
        """
        losses, values, first = [], [], self.steps
        with np.errstate(over="ignore", invalid="ignore"):
            for minibatches in chunks:
                chunk = self._run_chunk(minibatches, first, learners)
                values.append(chunk.values.clone())
                losses.append(torch.stack([error.square_().sum() for error in chunk.errors]))
                first += len(minibatches[0].reward)
            of_chunks = self._sum_over_shards(torch.stack(losses, dim=1), learners)
        return sum((of_chunks.double() / self.settings.batch_size).tolist()), torch.cat(values, dim=1)

    def _run_chunk(self, minibatches: Sequence[Minibatch], first: int, learners: Learners) -> Chunk:
        """Run these steps on every local shard; `first` is the number of steps run so far."""
        phase, steps = first % self.settings.actor_delay, len(minibatches[0].reward)
        actor_steps = sum(self._updates_actor(phase + step) for step in range(steps))
        if self._graphs is not None and len(learners.shards) == learners.count:

            def make(owned: Sequence[Minibatch]) -> tuple[Chunk, GraphedCall]:
                chunk = allocate_chunk(owned, actor_steps)
                return chunk, GraphedCall(partial(self._run_steps, chunk, phase, learners), self.critic.device)

            return self._graphs.run((steps, phase, len(minibatches)), minibatches, make)
        chunk = allocate_chunk(minibatches, actor_steps)
        self._run_steps(chunk, phase, learners)
        return chunk

    def _run_steps(self, chunk: Chunk, phase: int, learners: Learners) -> None:
        """Run the steps of a chunk; `phase` is the number of the first one modulo `actor_delay`."""
        order, actor_steps = self.settings.order, 0
        for index, minibatches in enumerate(chunk.steps()):
            updates_actor = self._updates_actor(phase + index)
            if updates_actor and order == "code":
                with self._side_stream:
                    self._update_actor(minibatches, chunk.values[:, actor_steps], learners)
            self._differentiate_critics(minibatches, chunk.errors[:, index], learners)
            self._side_stream.join()  # the actor reads the critics before their update
            self._critic_adam.step()
            if updates_actor and order == "paper":
                self._update_actor(minibatches, chunk.values[:, actor_steps], learners)
            if updates_actor or order == "code":
                self.critic_target.lerp_(self.critic, self.settings.target_rate)
            if updates_actor:
                self.actor_target.lerp_(self.actor, self.settings.target_rate)
                actor_steps += 1

    def _updates_actor(self, step: int) -> bool:
        """Return whether this critic step comes with an actor step."""
        return (step + (self.settings.order == "paper")) % self.settings.actor_delay == 0

    def _differentiate_critics(self, minibatches: Sequence[Minibatch], errors: Tensor, learners: Learners) -> None:
        """Compute the gradient of L_Q; `errors` `(local shards, 2, batch, 1)` receives w * (Q - y)."""
        for index, (minibatch, error) in enumerate(zip(minibatches, errors.unbind(), strict=True)):
            self._critic_loss.differentiate(minibatch, error)
            self._critic_sum.store(index)
        self._critic_sum.reduce(learners)

    def _update_actor(self, minibatches: Sequence[Minibatch], values: Tensor, learners: Learners) -> None:
        """Take one step of Adam on L_pi; `values` `(local shards,)` receives the means of Q_1 before it."""
        for index, minibatch in enumerate(minibatches):
            values[index] = self._actor_loss.differentiate(minibatch)
            if not self._conditioned_actor:
                self._descriptor_weights(self._actor_sum.part).zero_()
            self._actor_sum.store(index)
        self._actor_sum.reduce(learners)
        self._actor_adam.step()

    def _mean_value(self, values: Tensor, learners: Learners) -> float:
        """Return the mean of `Chunk.values` over a phase and all shards; NaN without actor steps."""
        if not values.shape[1]:
            return np.nan
        means = torch.stack([of_shard.mean() for of_shard in values])
        return float(self._sum_over_shards(means, learners) / self._shards)

    def _sum_over_shards(self, parts: Tensor, learners: Learners) -> Tensor:
        """Return the sum over all shards of `(local shards, ...)`, on the host. Collective over the learners."""
        total = torch.zeros(parts.shape[1:])
        learners.sum(parts.cpu(), total)
        return total

    def _descriptor_weights(self, rows: Tensor) -> Tensor:
        """Return a view of the first-layer weights of the descriptor inputs of actors."""
        first = matrices(self.actor_mlp, rows)[0]
        return first[:, -1 - self.dimensions : -1]

    def _is_finite(self) -> bool:
        networks = all(bool(torch.isfinite(getattr(self, name)).all()) for name in _NETWORKS)
        return networks and self._critic_adam.is_finite() and self._actor_adam.is_finite()


def critic_mlp(actor: Mlp, hidden_sizes: tuple[int, ...]) -> Mlp:
    """Return the shape of a critic: it sees the action and then the inputs of the actor; ReLU units, one output.

    Args:
        actor: shape of the actor.
        hidden_sizes: units of each hidden layer.
    """
    settings = MlpSettings(hidden_sizes=hidden_sizes, activation="relu", output="linear")
    return Mlp(actor.sizes[-1] + actor.sizes[0], 1, settings)
