"""TD3 (Fujimoto, van Hoof and Meger 2018), and TD3 conditioned on descriptors (Faldor et al. 2023), as one.

    eps = clip(noise * N(0, I), -noise_clip, noise_clip)            a' = clip(pi'(s' | d') + eps, -1, 1)
    y   = S(d, d') * reward_scale * r + discount * (1 - terminated) * min_i Q'_i(s', a' | d')
    L_Q = sum_i mean(w * (Q_i(s, a | d') - y)^2)                     L_pi = -mean(Q_1(s, pi(s | d') | d'))

Minibatches may be cut into equal parts, each from a shard of the replay of its own: losses are then sums over shards,
and so are gradients, whichever process works them out (`qdrl.parallel.learners`).

d is the descriptor the episode reached, d' the one its policy aimed at. Descriptors of no dimensions make S = 1 and
leave the unconditioned algorithm of PGA-MAP-Elites (Nilsson and Cully 2021).
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
from qdrl.critics.fast.networks import Gradient, Network, activations, matrices, with_ones
from qdrl.critics.fast.sums import SummedGradient
from qdrl.critics.minibatches import Minibatch, MinibatchSampler
from qdrl.critics.replay_buffer import ReplayBuffer
from qdrl.critics.settings import Td3Settings
from qdrl.parallel.learners import Learners, OneLearner
from qdrl.policies.mlp import Mlp, MlpSettings


class Td3:
    """Two critics and a greedy actor, with a target of each.

    The critics are two rows of one `Mlp` that sees action, observation and target descriptor in this order; the actor
    sees observation and target descriptor, the policy's layout with the descriptor last.

    Attributes:
        actor_mlp: the actor's shape.
        critic_mlp: a critic's shape.
        actor: `(1, parameters)` the greedy actor, a flat row of `actor_mlp`.
        critic: `(2, parameters)` flat rows of `critic_mlp`; the first is the one that actors climb.
        actor_target: follows `actor`.
        critic_target: follows `critic`.
        steps: critic steps taken so far.

    Args:
        actor: the actor's shape: that of the policies, with `dimensions` more inputs at the end.
        dimensions: numbers in a descriptor, 0 for the unconditioned algorithm.
        settings: see `Td3Settings`.
        generator: gives the first weights.
        shards: of the replay; each gives its share of every minibatch.
        conditioned_actor: whether the actor sees target descriptors. Where not, it has the same shape, and what
            descriptors weigh in it stays zero.
        device: where it computes.

    Raises:
        ValueError: the actor sees fewer numbers than a descriptor has, or shards cannot share a minibatch equally.
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
            raise ValueError(f"an actor of {actor.sizes[0]} inputs cannot see {dimensions} descriptor dimensions")
        if settings.batch_size % shards:
            raise ValueError(f"a minibatch of {settings.batch_size} cannot be shared equally by {shards} shards")
        self.settings, self.steps, self.dimensions = settings, 0, dimensions
        self._shards, self._share = shards, settings.batch_size // shards
        self._minibatches = MinibatchSampler(settings, self._share, actor.sizes[-1])
        self.actor_mlp, self.critic_mlp = actor, critic_mlp(actor, settings.hidden_sizes)
        first = np.stack([self.critic_mlp.initial(generator) for _ in range(2)])
        # Copied into torch's memory, whose alignment is always the same: MKL's last bits depend on it.
        self.critic = torch.tensor(first, device=device)
        self.actor = torch.tensor(actor.initial(generator)[None], device=device)
        self._conditioned_actor = conditioned_actor
        if not conditioned_actor:
            self._of_descriptors(self.actor).zero_()
        self.critic_target, self.actor_target = self.critic.clone(), self.actor.clone()
        self._critic_sum, self._actor_sum = SummedGradient(self.critic, shards), SummedGradient(self.actor, shards)
        self._critic_adam = Adam(self.critic, self._critic_sum.total, settings.critic_learning_rate)
        self._actor_adam = Adam(self.actor, self._actor_sum.total, settings.actor_learning_rate)
        self._build_critics(self._critic_sum.part)
        self._build_actor(self._actor_sum.part)
        self._beside_critics, self._beside_targets = SideStream(self.critic.device), SideStream(self.critic.device)
        self._graphs = ChunkGraphs(self.critic.device) if self.critic.device.type == "cuda" else None

    def train(self, replay: ReplayBuffer, generator: np.random.Generator, steps: int | None = None) -> dict[str, float]:
        """`train_on` for a replay of one shard."""
        return self.train_on([replay], [generator], OneLearner(), steps)

    def train_on(
        self,
        replays: Sequence[ReplayBuffer],
        generators: Sequence[np.random.Generator],
        learners: Learners,
        steps: int | None = None,
    ) -> dict[str, float]:
        """Collective over the learners. Take critic steps, and an actor step at every `actor_delay`-th of them.

        Learners that are alike before are alike after it. A phase in which a loss, a weight or one of Adam's moments
        stops being finite is undone: everything is as it was before.

        Args:
            replays: the shards held here, with descriptors of this critic's dimensions.
            generators: one a shard: draws all its minibatches, then all its noise.
            learners: who trains together.
            steps: critic steps of this phase; `settings.steps` where left out.

        Returns:
            critic_steps and actor_steps that count, diverged (0 or 1), and the means over the phase of critic_loss,
            L_Q, and actor_value, Q_1 of the actor's actions; NaN where there was no such step.

        Raises:
            RuntimeError: a shard holds less than its share of a minibatch.
            ValueError: a replay's descriptors have other dimensions, shards are not those of this critic, or there are
                no steps to take.
        """
        self._check(replays, learners, steps)
        before, taken = self.state_dict(), self.settings.steps if steps is None else steps
        for gradient in (self._critic_sum, self._actor_sum):
            gradient.hold(len(replays))
        phases = [self._minibatches.chunks(*shard, taken) for shard in zip(replays, generators, strict=True)]
        loss, values = self._run(zip(*phases, strict=True), learners)
        self.steps += taken
        if not (np.isfinite(loss) and self._is_finite()):
            self.load_state_dict(before)
            return {"critic_steps": 0, "actor_steps": 0, "diverged": 1, "critic_loss": np.nan, "actor_value": np.nan}
        return {
            "critic_steps": taken,
            "actor_steps": values.shape[1],
            "diverged": 0,
            "critic_loss": loss / taken,
            "actor_value": self._mean_value(values, learners),
        }

    def state_dict(self) -> dict[str, Any]:
        """Networks, targets, optimisers and the count of steps: training goes on from it with the same bits."""
        networks = {name: getattr(self, name).cpu().numpy().copy() for name in _NETWORKS}
        optimisers = {"critic_adam": self._critic_adam.state_dict(), "actor_adam": self._actor_adam.state_dict()}
        return networks | optimisers | {"steps": self.steps}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Put back what `state_dict` gave.

        Raises:
            ValueError: an array is that of networks of another shape.
        """
        for name in _NETWORKS:
            load_array(getattr(self, name), state[name], name)
        self._critic_adam.load_state_dict(state["critic_adam"])
        self._actor_adam.load_state_dict(state["actor_adam"])
        self.steps = int(state["steps"])

    def _build_critics(self, gradient: Tensor) -> None:
        """Passes of the critics and their targets, each with the buffer of its inputs."""
        mlp, batch, device = self.critic_mlp, self._share, gradient.device
        self._inputs, self._next_inputs = (with_ones(batch, mlp.sizes[0], device=device) for _ in range(2))
        self._seen = self._inputs[:, :-1]
        kinds = activations(mlp.settings)
        self._critics = Network(matrices(mlp, self.critic), kinds, self._inputs)
        self._critic_targets = Network(matrices(mlp, self.critic_target), kinds, self._next_inputs)
        self._critic_gradient = Gradient(self._critics, parameters=matrices(mlp, gradient))
        self._next_value = torch.zeros(batch, 1, device=device)

    def _build_actor(self, gradient: Tensor) -> None:
        """Passes of the actor and its target, which write where critics read actions, and of the critic to climb."""
        mlp, size, kinds = self.actor_mlp, self.actor_mlp.sizes[-1], activations(self.actor_mlp.settings)
        self._actor_target = Network(
            matrices(mlp, self.actor_target), kinds, self._next_inputs[:, size:], into=self._next_inputs[None, :, :size]
        )
        self._seen_next = self._next_inputs[:, size:-1]
        inputs = self._inputs.clone()
        self._seen_by_judge = inputs[:, :-1]
        self._actor = Network(matrices(mlp, self.actor), kinds, inputs[:, size:], into=inputs[None, :, :size])
        self._actor_gradient = Gradient(self._actor, parameters=matrices(mlp, gradient))
        first = matrices(self.critic_mlp, self.critic[:1])
        self._judge = Network(first, activations(self.critic_mlp.settings), inputs)
        self._judge_gradient = Gradient(self._judge, inputs=self._actor_gradient.outputs)
        self._judge_gradient.outputs.fill_(-1 / self.settings.batch_size)

    def _run(self, chunks: Iterator[tuple[Minibatch, ...]], learners: Learners) -> tuple[float, Tensor]:
        """Take all steps; the sum of losses, and `Chunk.values` of all. A GPU is asked when it has been told all."""
        losses, values, first = [], [], self.steps
        with np.errstate(over="ignore", invalid="ignore"):
            for minibatches in chunks:
                chunk = self._taken(minibatches, first, learners)
                values.append(chunk.values.clone())
                losses.append(torch.stack([error.square_().sum() for error in chunk.errors]))
                first += len(minibatches[0].reward)
            of_chunks = self._over_shards(torch.stack(losses, dim=1), learners)
        return sum((of_chunks.double() / self.settings.batch_size).tolist()), torch.cat(values, dim=1)

    def _taken(self, minibatches: Sequence[Minibatch], first: int, learners: Learners) -> Chunk:
        """These steps of each held shard, taken; `first` were taken before."""
        turn, steps = first % self.settings.actor_delay, len(minibatches[0].reward)
        acts = sum(self._acts(turn + step) for step in range(steps))
        if self._graphs is not None and len(learners.shards) == learners.count:

            def make(kept: Sequence[Minibatch]) -> tuple[Chunk, GraphedCall]:
                chunk = allocate_chunk(kept, acts)
                return chunk, GraphedCall(partial(self._take, chunk, turn, learners), self.critic.device)

            return self._graphs.take((steps, turn, len(minibatches)), minibatches, make)
        chunk = allocate_chunk(minibatches, acts)
        self._take(chunk, turn, learners)
        return chunk

    def _acts(self, step: int) -> bool:
        """Whether the actor takes a step with this one."""
        return (step + (self.settings.order == "paper")) % self.settings.actor_delay == 0

    def _mean_value(self, values: Tensor, learners: Learners) -> float:
        """Of the actor's actions over a phase and all shards."""
        if not values.shape[1]:
            return np.nan
        means = torch.stack([of_shard.mean() for of_shard in values])
        return float(self._over_shards(means, learners) / self._shards)

    def _over_shards(self, parts: Tensor, learners: Learners) -> Tensor:
        """Collective over the learners. The sum over all shards of `(shards held, ...)`, on the host."""
        total = torch.zeros(parts.shape[1:])
        learners.sum(parts.cpu(), total)
        return total

    def _check(self, replays: Sequence[ReplayBuffer], learners: Learners, steps: int | None) -> None:
        for replay in replays:
            if replay.dimensions != self.dimensions:
                raise ValueError(f"the replay has {replay.dimensions} descriptor dimensions, critics {self.dimensions}")
        if learners.count != self._shards or len(replays) != len(learners.shards):
            raise ValueError(
                f"{len(replays)} replays for {len(learners.shards)} of {learners.count} shards; these critics learn"
                f" from {self._shards}"
            )
        if steps is not None and steps < 1:
            raise ValueError(f"a training phase takes at least 1 step, got {steps}")

    def _take(self, chunk: Chunk, turn: int, learners: Learners) -> None:
        """Take the steps of a chunk, the first of them in this turn of the actor's."""
        order, acted = self.settings.order, 0
        for index, steps in enumerate(chunk.steps()):
            acts = self._acts(turn + index)
            if acts and order == "code":
                with self._beside_critics:
                    self._improve_actor(steps, chunk.values[:, acted], learners)
            self._differentiate_critics(steps, chunk.errors[:, index], learners)
            self._beside_critics.join()  # the actor climbs critics as they were
            self._critic_adam.step()
            if acts and order == "paper":
                self._improve_actor(steps, chunk.values[:, acted], learners)
            if acts or order == "code":
                self.critic_target.lerp_(self.critic, self.settings.target_rate)
            if acts:
                self.actor_target.lerp_(self.actor, self.settings.target_rate)
                acted += 1

    def _differentiate_critics(self, steps: Sequence[Minibatch], errors: Tensor, learners: Learners) -> None:
        """The gradient of L_Q; `errors` takes w * (Q - y), `(shards held, 2, batch, 1)`."""
        for index, (step, error) in enumerate(zip(steps, errors.unbind(), strict=True)):
            with self._beside_targets:
                self._seen.copy_(step.inputs)
                values = self._critics.forward()
            self._seen_next.copy_(step.next_states)
            self._actor_target.forward().add_(step.noise).clamp_(-1, 1)
            torch.amin(self._critic_targets.forward(), 0, out=self._next_value)
            target = torch.addcmul(step.reward, step.discount, self._next_value)
            self._beside_targets.join()
            torch.sub(values, target, out=error)
            error *= step.weight
            torch.mul(error, 2 / self.settings.batch_size, out=self._critic_gradient.outputs)
            self._critic_gradient.backward()
            self._critic_sum.keep(index)
        self._critic_sum.add_up(learners)

    def _improve_actor(self, steps: Sequence[Minibatch], values: Tensor, learners: Learners) -> None:
        """One step of Adam on L_pi; `values` `(shards held,)` takes the mean of Q_1 before it."""
        for index, step in enumerate(steps):
            self._seen_by_judge.copy_(step.inputs)
            self._actor.forward()
            values[index] = self._judge.forward().mean()
            self._judge_gradient.backward()
            self._actor_gradient.backward()
            if not self._conditioned_actor:
                self._of_descriptors(self._actor_sum.part).zero_()
            self._actor_sum.keep(index)
        self._actor_sum.add_up(learners)
        self._actor_adam.step()

    def _of_descriptors(self, rows: Tensor) -> Tensor:
        """What descriptors weigh in the first layer of actors."""
        first = matrices(self.actor_mlp, rows)[0]
        return first[:, -1 - self.dimensions : -1]

    def _is_finite(self) -> bool:
        networks = all(bool(torch.isfinite(getattr(self, name)).all()) for name in _NETWORKS)
        return networks and self._critic_adam.is_finite() and self._actor_adam.is_finite()


_NETWORKS = ("critic", "critic_target", "actor", "actor_target")


def critic_mlp(actor: Mlp, hidden_sizes: tuple[int, ...]) -> Mlp:
    """The shape of a critic beside an actor: it sees the action first, then all the actor sees; ReLU, one output."""
    settings = MlpSettings(hidden_sizes=hidden_sizes, activation="relu", output="linear")
    return Mlp(actor.sizes[-1] + actor.sizes[0], 1, settings)
