"""Reference implementation of TD3 and policy-gradient variation: torch layers, autograd and torch's Adam in float64.

It computes what `qdrl.critics.td3` and `qdrl.critics.variation` compute, from the same random numbers and several times
slower. Runs do not use it; tests compare the hand-written passes with it. The losses are stated in `qdrl.critics.td3`.
"""

from copy import deepcopy
from itertools import pairwise

import numpy as np
import torch
from torch import Tensor, nn

from qdrl.critics.replay_buffer import ReplayBuffer
from qdrl.critics.settings import PolicyGradientSettings, Td3Settings
from qdrl.critics.td3 import Td3
from qdrl.policies.mlp import Mlp

_ACTIVATIONS = {"relu": nn.ReLU, "tanh": nn.Tanh, "clip": lambda: nn.Hardtanh(-1, 1), "linear": nn.Identity}


class ReferenceTd3:
    """TD3 by automatic differentiation, on one shard and with a conditioned actor.

    Attributes:
        losses: L_Q of every critic step so far.
        values: mean of Q_1 of the actor's actions at every actor step so far.

    Args:
        td3: gives the settings and the initial networks.
    """

    def __init__(self, td3: Td3) -> None:
        self._settings: Td3Settings = td3.settings
        self._critics = nn.ModuleList(to_network(td3.critic_mlp, row) for row in td3.critic)
        self._actor = to_network(td3.actor_mlp, td3.actor[0])
        self._critic_targets, self._actor_target = deepcopy(self._critics), deepcopy(self._actor)
        self._critic_adam = torch.optim.Adam(self._critics.parameters(), lr=self._settings.critic_learning_rate)
        self._actor_adam = torch.optim.Adam(self._actor.parameters(), lr=self._settings.actor_learning_rate)
        self._actions, self._steps = td3.actor_mlp.sizes[-1], 0
        self.losses: list[float] = []
        self.values: list[float] = []

    def train(self, buffer: ReplayBuffer, generator: np.random.Generator) -> None:
        """Run a training phase of `settings.steps` critic steps."""
        settings = self._settings
        ages = buffer.draw(generator, (settings.steps, settings.batch_size))
        noise = generator.standard_normal((*ages.shape, self._actions), np.float32)
        for minibatch, draws in zip(ages, torch.from_numpy(noise).double(), strict=True):
            self._step({name: values.double() for name, values in vars(buffer.gather(minibatch)).items()}, draws)

    def rows(self) -> dict[str, Tensor]:
        """Return the flat rows of all networks by the names of `Td3`'s attributes."""
        return {
            "critic": torch.stack([to_row(critic) for critic in self._critics]),
            "critic_target": torch.stack([to_row(critic) for critic in self._critic_targets]),
            "actor": to_row(self._actor)[None],
            "actor_target": to_row(self._actor_target)[None],
        }

    def _step(self, transitions: dict[str, Tensor], draws: Tensor) -> None:
        is_code, delay = self._settings.order == "code", self._settings.actor_delay
        updates_actor = (self._steps if is_code else self._steps + 1) % delay == 0
        loss = self._critic_loss(transitions, draws)
        if updates_actor and is_code:  # the actor's gradient is that of the critic before its update
            self._update_actor(transitions)
        self._critic_adam.zero_grad()
        loss.backward()
        self._critic_adam.step()
        self.losses.append(loss.item())
        if updates_actor and not is_code:
            self._update_actor(transitions)
        if updates_actor or is_code:
            self._update_target(self._critic_targets, self._critics)
        if updates_actor:
            self._update_target(self._actor_target, self._actor)
        self._steps += 1

    def _critic_loss(self, transitions: dict[str, Tensor], draws: Tensor) -> Tensor:
        settings, target_descriptor = self._settings, transitions["target_descriptor"]
        with torch.no_grad():
            noise = (settings.noise * draws).clamp(-settings.noise_clip, settings.noise_clip)
            state = torch.cat([transitions["next_observation"], target_descriptor], 1)
            action = (self._actor_target(state) + noise).clamp(-1, 1)
            values = torch.cat([target(torch.cat([action, state], 1)) for target in self._critic_targets], 1)
            distance = (transitions["descriptor"] - target_descriptor).square().sum(1).sqrt()
            reward = settings.reward_scale * torch.exp(-distance / settings.length_scale) * transitions["reward"]
            target = reward + settings.discount * (1 - transitions["terminated"]) * values.min(1).values
        inputs = torch.cat([transitions["action"], transitions["observation"], target_descriptor], 1)
        weight = torch.ones(len(target), dtype=torch.float64)
        if settings.truncation == "mask":
            weight[(transitions["truncated"] == 1) & (transitions["terminated"] == 0)] = 0
        errors = [(critic(inputs)[:, 0] - target) * weight for critic in self._critics]
        return (errors[0] ** 2).mean() + (errors[1] ** 2).mean()

    def _update_actor(self, transitions: dict[str, Tensor]) -> None:
        state = torch.cat([transitions["observation"], transitions["target_descriptor"]], 1)
        value = self._critics[0](torch.cat([self._actor(state), state], 1)).mean()
        self._actor_adam.zero_grad()
        (-value).backward(inputs=list(self._actor.parameters()))
        self._actor_adam.step()
        self.values.append(value.item())

    def _update_target(self, targets: nn.Module, networks: nn.Module) -> None:
        for target, source in zip(targets.parameters(), networks.parameters(), strict=True):
            target.data += self._settings.target_rate * (source.data - target.data)


def reference_offspring(
    policy: Mlp,
    critic: Mlp,
    parent: Tensor,
    states: Tensor,
    weights: Tensor,
    descriptor: Tensor,
    settings: PolicyGradientSettings,
) -> Tensor:
    """Return what `qdrl.critics.variation.PolicyGradient` makes of one parent, by automatic differentiation.

    Args:
        policy: shape of the genomes.
        critic: shape of the critic.
        parent: `(parameters,)` the parent's genome.
        states: `(steps, batch, observation)`.
        weights: `(parameters,)` the critic's flat row.
        descriptor: `(d,)` the parent's descriptor, normalised.
        settings: gives the learning rate.

    Returns:
        `(parameters,)` float64.
    """
    actor, value_network = to_network(policy, parent), to_network(critic, weights)
    adam = torch.optim.Adam(actor.parameters(), lr=settings.learning_rate)
    for state in states.double():
        target = descriptor.expand(len(state), -1)
        adam.zero_grad()
        (-value_network(torch.cat([actor(state), state, target], 1)).mean()).backward()
        adam.step()
    return to_row(actor)


def to_network(mlp: Mlp, row: Tensor) -> nn.Sequential:
    """Return the network of a flat row `(parameters,)` as torch layers in float64."""
    modules, start = [], 0
    for inputs, outputs in pairwise(mlp.sizes):
        layer = nn.Linear(inputs, outputs).double()
        layer.weight.data = row[start : start + inputs * outputs].double().view(inputs, outputs).T.clone()
        start += inputs * outputs
        layer.bias.data = row[start : start + outputs].double().clone()
        start += outputs
        modules += [layer, _ACTIVATIONS[mlp.settings.activation]()]
    return nn.Sequential(*modules[:-1], _ACTIVATIONS[mlp.settings.output]())


def to_row(network: nn.Module, *, gradient: bool = False) -> Tensor:
    """Return the weights of a network, or their gradients, as a flat row `(parameters,)` float64.

    Raises:
        ValueError: gradients are requested and there are none.
    """
    parts = []
    for parameter in network.parameters():  # weight and bias of each layer
        values = parameter.grad if gradient else parameter
        if values is None:
            raise ValueError("the network has no gradients: call backward first")
        parts.append(values.T.reshape(-1) if values.ndim == 2 else values)
    return torch.cat(parts).detach()
