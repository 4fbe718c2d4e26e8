"""TD3 (Fujimoto, van Hoof and Meger 2018), and TD3 conditioned on descriptors (Faldor et al. 2023), as one.

    eps = clip(noise * N(0, I), -noise_clip, noise_clip)            a' = clip(pi'(s' | d') + eps, -1, 1)
    y   = S(d, d') * reward_scale * r + discount * (1 - terminated) * min_i Q'_i(s', a' | d')
    L_Q = sum_i mean(w * (Q_i(s, a | d') - y)^2)                     L_pi = -mean(Q_1(s, pi(s | d') | d'))

d is the descriptor the episode reached, d' the one its policy aimed at. Descriptors of no dimensions make S = 1 and
leave the unconditioned algorithm of PGA-MAP-Elites (Nilsson and Cully 2021).
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from qdrl.critics.adam import Adam
from qdrl.critics.descriptors import similarity
from qdrl.critics.networks import Gradient, Network, activations, matrices, with_ones
from qdrl.critics.replay import Replay, Transitions
from qdrl.critics.settings import Td3Settings
from qdrl.critics.states import load_array
from qdrl.policies.mlp import Mlp, MlpSettings

_CHUNK = 100  # steps whose minibatches are gathered at once: 3 MB on an ant, which stay in the cache


@dataclass(frozen=True)
class Step:
    """What one critic step learns from; `(batch, ...)` float32 each.

    Attributes:
        inputs: what critics see: action, observation, target descriptor.
        next_states: what the actor sees next: observation, target descriptor.
        noise: smoothing noise of the next action, cut.
        reward: `(batch, 1)`, scaled.
        discount: `(batch, 1)`, 0 where terminated.
        weight: `(batch, 1)`, 0 where masked.
    """

    inputs: Tensor
    next_states: Tensor
    noise: Tensor
    reward: Tensor
    discount: Tensor
    weight: Tensor


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
        device: where it computes.
    """

    def __init__(
        self,
        actor: Mlp,
        dimensions: int,
        settings: Td3Settings,
        generator: np.random.Generator,
        device: str | torch.device = "cpu",
    ) -> None:
        if not 0 <= dimensions < actor.sizes[0]:
            raise ValueError(f"an actor of {actor.sizes[0]} inputs cannot see {dimensions} descriptor dimensions")
        self.settings, self.steps, self.dimensions = settings, 0, dimensions
        self.actor_mlp, self.critic_mlp = actor, critic_mlp(actor, settings.hidden_sizes)
        first = np.stack([self.critic_mlp.initial(generator) for _ in range(2)])
        # Copied into torch's memory, whose alignment is always the same: MKL's last bits depend on it.
        self.critic = torch.tensor(first, device=device)
        self.actor = torch.tensor(actor.initial(generator)[None], device=device)
        self.critic_target, self.actor_target = self.critic.clone(), self.actor.clone()
        critic_gradient, actor_gradient = torch.zeros_like(self.critic), torch.zeros_like(self.actor)
        self._critic_adam = Adam(self.critic, critic_gradient, settings.critic_learning_rate)
        self._actor_adam = Adam(self.actor, actor_gradient, settings.actor_learning_rate)
        self._build_critics(critic_gradient)
        self._build_actor(actor_gradient)

    def train(self, replay: Replay, generator: np.random.Generator, steps: int | None = None) -> dict[str, float]:
        """Take critic steps, and an actor step at every `actor_delay`-th of them.

        A phase in which a loss, a weight or one of Adam's moments stops being finite is undone: everything is as it
        was before.

        Args:
            replay: where transitions come from, with descriptors of this critic's dimensions.
            generator: draws all minibatches, then all noise.
            steps: critic steps of this phase; `settings.steps` where left out.

        Returns:
            critic_steps and actor_steps that count, diverged (0 or 1), and the means over the phase of critic_loss,
            L_Q, and actor_value, Q_1 of the actor's actions; NaN where there was no such step.

        Raises:
            RuntimeError: the replay holds less than a minibatch.
            ValueError: the replay's descriptors have other dimensions, or there are no steps to take.
        """
        if replay.dimensions != self.dimensions:
            raise ValueError(f"the replay has {replay.dimensions} descriptor dimensions, critics {self.dimensions}")
        if steps is not None and steps < 1:
            raise ValueError(f"a training phase takes at least 1 step, got {steps}")
        before, taken = self.state_dict(), self.settings.steps if steps is None else steps
        losses, values = self._run(self._chunks(replay, generator, taken))
        if not (np.isfinite(losses) and self._is_finite()):
            self.load_state_dict(before)
            return {"critic_steps": 0, "actor_steps": 0, "diverged": 1, "critic_loss": np.nan, "actor_value": np.nan}
        return {
            "critic_steps": taken,
            "actor_steps": len(values),
            "diverged": 0,
            "critic_loss": losses / taken,
            "actor_value": float(torch.stack(values).mean()) if values else np.nan,
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
        mlp, batch, device = self.critic_mlp, self.settings.batch_size, gradient.device
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

    def _chunks(self, replay: Replay, generator: np.random.Generator, steps: int) -> Iterator[list[Step]]:
        """All steps of a phase, some at a time; every random number is drawn before the first."""
        settings, actions = self.settings, self.actor_mlp.sizes[-1]
        ages = replay.draw(generator, (steps, settings.batch_size))
        noise = torch.from_numpy(generator.standard_normal((*ages.shape, actions), np.float32)).to(ages.device)
        noise = noise.mul_(settings.noise).clamp_(-settings.noise_clip, settings.noise_clip)
        for start in range(0, steps, _CHUNK):
            part = slice(start, start + _CHUNK)
            yield self._prepare(replay.take(ages[part]), noise[part])

    def _run(self, chunks: Iterator[list[Step]]) -> tuple[float, list[Tensor]]:
        """Take all steps, or those up to a loss that is not finite; the sum of losses, and the actor's values."""
        losses, values = 0.0, []
        with np.errstate(over="ignore", invalid="ignore"):
            for chunk in chunks:
                losses += self._take_steps(chunk, values)
                if not np.isfinite(losses):
                    break
        return losses, values

    def _prepare(self, transitions: Transitions, noise: Tensor) -> list[Step]:
        settings = self.settings
        target = transitions.target_descriptor
        scale = settings.reward_scale * similarity(transitions.descriptor, target, settings.length_scale)
        going_on = 1 - transitions.terminated
        masked = transitions.truncated * going_on if settings.truncation == "mask" else torch.zeros_like(going_on)
        columns = (
            torch.cat([transitions.action, transitions.observation, target], -1),
            torch.cat([transitions.next_observation, target], -1),
            noise,
            (scale * transitions.reward).unsqueeze(-1),
            (settings.discount * going_on).unsqueeze(-1),
            (1 - masked).unsqueeze(-1),
        )
        return [Step(*tensors) for tensors in zip(*(column.unbind() for column in columns), strict=True)]

    def _take_steps(self, chunk: list[Step], values: list[Tensor]) -> float:
        """Take these steps; returns the sum of their critic losses and appends the values of the actor's actions."""
        batch, order = self.settings.batch_size, self.settings.order
        errors = torch.zeros(len(chunk), *self._critic_gradient.outputs.shape, device=self.critic.device)
        for step, error in zip(chunk, errors.unbind(), strict=True):
            acts = (self.steps + (order == "paper")) % self.settings.actor_delay == 0
            if acts and order == "code":
                values.append(self._improve_actor(step))
            self._improve_critics(step, error)
            if acts and order == "paper":
                values.append(self._improve_actor(step))
            if acts or order == "code":
                self.critic_target.lerp_(self.critic, self.settings.target_rate)
            if acts:
                self.actor_target.lerp_(self.actor, self.settings.target_rate)
            self.steps += 1
        return float(errors.square_().sum()) / batch

    def _improve_critics(self, step: Step, error: Tensor) -> None:
        """One step of Adam on L_Q; `error` takes w * (Q - y), `(2, batch, 1)`."""
        self._seen.copy_(step.inputs)
        self._seen_next.copy_(step.next_states)
        self._actor_target.forward().add_(step.noise).clamp_(-1, 1)
        torch.amin(self._critic_targets.forward(), 0, out=self._next_value)
        target = torch.addcmul(step.reward, step.discount, self._next_value)
        torch.sub(self._critics.forward(), target, out=error)
        error *= step.weight
        torch.mul(error, 2 / self.settings.batch_size, out=self._critic_gradient.outputs)
        self._critic_gradient.backward()
        self._critic_adam.step()

    def _improve_actor(self, step: Step) -> Tensor:
        """One step of Adam on L_pi; returns the mean of Q_1 before it."""
        self._seen_by_judge.copy_(step.inputs)
        self._actor.forward()
        value = self._judge.forward().mean()
        self._judge_gradient.backward()
        self._actor_gradient.backward()
        self._actor_adam.step()
        return value

    def _is_finite(self) -> bool:
        networks = all(bool(torch.isfinite(getattr(self, name)).all()) for name in _NETWORKS)
        return networks and self._critic_adam.is_finite() and self._actor_adam.is_finite()


_NETWORKS = ("critic", "critic_target", "actor", "actor_target")


def critic_mlp(actor: Mlp, hidden_sizes: tuple[int, ...]) -> Mlp:
    """The shape of a critic beside an actor: it sees the action first, then all the actor sees; ReLU, one output."""
    settings = MlpSettings(hidden_sizes=hidden_sizes, activation="relu", output="linear")
    return Mlp(actor.sizes[-1] + actor.sizes[0], 1, settings)
