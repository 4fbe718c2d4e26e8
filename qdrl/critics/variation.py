"""Policy-gradient variation: copies of elites climb the first critic (Nilsson and Cully 2021, algorithm 3).

Each offspring starts as its parent and takes `steps` steps of Adam, begun anew for each, on

    -mean Q_1(s, pi(s) | d),    d the parent's descriptor (Faldor et al. 2023, section 4.3).

All parents climb on the same minibatches of states, as they do, unsaid, in the code of Faldor et al. 2024: a
sixty-fourth of the sampling, and what the critics' first layer makes of the states is computed once for all.

On the CPU rows are varied one after the other on the same buffers: an offspring is the same bits whatever rows stand
beside it, and its weights and Adam's moments stay in the core's cache for all of its steps. A GPU varies all of them at
once, in one CUDA graph.
"""

import numpy as np
import torch
from torch import Tensor

from qdrl.compute.cuda_graphs import GraphedCall
from qdrl.compute.optimizers import Adam
from qdrl.critics.fast.networks import Gradient, Network, activations, matrices, with_ones
from qdrl.critics.fast.products import product
from qdrl.critics.settings import PolicyGradientSettings
from qdrl.policies.mlp import Mlp

_MOST = 512  # rows that a GPU varies at once: 0.5 GB of buffers at paper size


class PolicyGradient:
    """Varies genomes by the gradient of a critic; buffers are made once.

    Args:
        policy: shape of the genomes.
        critic: shape of the critic, which sees action, observation and then `dimensions` of a descriptor, none where
            it is unconditioned; ReLU, as `qdrl.critics.td3.critic_mlp` makes it.
        settings: steps, states a step, learning rate.
        device: where it computes.
        at_once: rows varied at once; one on the CPU and all on a GPU where left out.

    Raises:
        ValueError: the critic is that of another task.
    """

    def __init__(
        self,
        policy: Mlp,
        critic: Mlp,
        settings: PolicyGradientSettings,
        device: str | torch.device = "cpu",
        *,
        at_once: int | None = None,
    ) -> None:
        self.settings = settings
        self.dimensions = critic.sizes[0] - policy.sizes[0] - policy.sizes[-1]
        if self.dimensions < 0:
            raise ValueError(
                f"a critic of {critic.sizes[0]} inputs cannot see {policy.sizes[-1]} actions and {policy.sizes[0]} "
                "observations: it belongs to another task"
            )
        self._policy, self._critic_mlp, self._device = policy, critic, torch.device(device)
        self._at_once = 1 if at_once is None and self._device.type == "cpu" else at_once
        self._critic = torch.zeros(1, critic.parameters, device=device)
        self._climb: _Climb | None = None

    def vary(self, parents: Tensor, states: Tensor, critic: Tensor, descriptors: Tensor) -> Tensor:
        """Offspring of all parents.

        Args:
            parents: `(rows, parameters)` float32 genomes.
            states: `(steps, batch, observation)` float32, as policies see them: normalised, where policies normalise.
            critic: `(parameters,)` float32, the row of the critic to climb.
            descriptors: `(rows, dimensions)`, the parents' own, normalised to [-1, 1].

        Returns:
            `(rows, parameters)` float32. An offspring whose climb overflows is not finite; its evaluation then fails.

        Raises:
            ValueError: a shape does not fit.
        """
        self._check(parents, states, critic, descriptors)
        if len(parents) == 0:
            return torch.empty_like(parents)
        rows = min(self._at_once or len(parents), _MOST)
        if self._climb is None or self._climb.rows < rows:
            self._climb = _Climb(self._policy, self._critic_mlp, self._critic, self.settings, rows)
        self._critic[0] = critic
        climb, offspring = self._climb, torch.empty_like(parents)
        biases = climb.prepare(states, descriptors)
        with np.errstate(over="ignore", invalid="ignore"):
            for first in range(0, len(parents), climb.rows):
                some = slice(first, first + climb.rows)
                offspring[some] = climb.vary(parents[some], biases[some])
        return offspring

    def _check(self, parents: Tensor, states: Tensor, critic: Tensor, descriptors: Tensor) -> None:
        steps, batch = self.settings.steps, self.settings.batch_size
        expected = {
            "parents": (parents, (len(parents), self._policy.parameters)),
            "states": (states, (steps, batch, self._policy.sizes[0])),
            "critic": (critic, (self._critic.shape[1],)),
            "descriptors": (descriptors, (len(parents), self.dimensions)),
        }
        for name, (tensor, shape) in expected.items():
            if tuple(tensor.shape) != shape:
                raise ValueError(f"{name} has shape {tuple(tensor.shape)}, expected {shape}")


class _Climb:
    """Some rows that climb side by side.

    Args:
        policy: shape of the genomes.
        critic: shape of the critic.
        weights: `(1, parameters)` of the critic, read when states are prepared.
        settings: steps, states a step, learning rate.
        rows: how many, at most.
    """

    def __init__(self, policy: Mlp, critic: Mlp, weights: Tensor, settings: PolicyGradientSettings, rows: int) -> None:
        self.rows, self._settings, device = rows, settings, weights.device
        self._observations, self._actions = policy.sizes[0], policy.sizes[-1]
        self._genomes = torch.zeros(rows, policy.parameters, device=device)
        gradient = torch.zeros_like(self._genomes)
        self._adam = Adam(self._genomes, gradient, settings.learning_rate)
        self._inputs = with_ones(settings.batch_size, self._observations, device=device)
        self._acted = with_ones(rows, settings.batch_size, self._actions, device=device)
        self._policy = Network(
            matrices(policy, self._genomes), activations(policy.settings), self._inputs, into=self._acted[..., :-1]
        )
        self._policy_gradient = Gradient(self._policy, parameters=matrices(policy, gradient))
        self._build_critic(critic, weights)
        self._states = self._known = torch.zeros(0, device=device)
        self._all_steps = GraphedCall(self._take_steps, device)

    def prepare(self, states: Tensor, descriptors: Tensor) -> Tensor:
        """Have these states climbed on; what the critic's first layer makes of each row's descriptor, `(rows, units)`.

        The same bits on every rank: the states' product has the same shape everywhere, and descriptors are multiplied
        one axis at a time.
        """
        steps, batch, size = states.shape
        units = self._first.shape[-1]
        if len(self._known) != steps:
            self._known = torch.zeros(steps, 1, batch, self._judge.outputs[0].shape[-1], device=states.device)
            self._states = torch.zeros_like(states)
        self._states.copy_(states)
        known = self._known.view(1, steps * batch, -1)
        product(self._states.view(steps * batch, size), self._of_observations, known[..., :units])()
        self._first[:, :-1] = self._of_actions
        self._judge_gradient.outputs.copy_(self._last[:, :-1].transpose(1, 2) / -batch)
        biases = self._bias[0].repeat(len(descriptors), 1)
        for axis in range(descriptors.shape[1]):
            biases += descriptors[:, axis, None].float() * self._of_descriptors[0, axis]
        return biases

    def vary(self, parents: Tensor, biases: Tensor) -> Tensor:
        """What up to `rows` parents become; the next call overwrites it."""
        self._genomes[: len(parents)], self._first[: len(parents), -1] = parents, biases
        self._all_steps()
        return self._genomes[: len(parents)]

    def _build_critic(self, critic: Mlp, weights: Tensor) -> None:
        """The critic as a function of actions alone, down to its last hidden layer.

        To its first layer, a row's descriptor is a bias, and observations are an offset that is made once a call. Its
        last layer is linear, so that its kernel is the gradient of all that comes before.
        """
        first, *hidden, self._last = matrices(critic, weights)
        dimensions = critic.sizes[0] - self._observations - self._actions
        self._of_actions, self._of_observations, self._of_descriptors, self._bias = first.split(
            [self._actions, self._observations, dimensions, 1], dim=1
        )
        self._first = torch.zeros(self.rows, self._actions + 1, first.shape[-1], device=first.device)
        layers = [self._first, *(layer.expand(self.rows, -1, -1) for layer in hidden)]
        self._judge = Network(layers, activations(critic.settings)[:-1], self._acted)
        self._judge_gradient = Gradient(self._judge, inputs=self._policy_gradient.outputs)

    def _take_steps(self) -> None:
        """All steps of all rows."""
        self._adam.reset()
        inputs = self._inputs[:, :-1]
        for state, offset in zip(self._states.unbind(), self._known.unbind(), strict=True):
            inputs.copy_(state)
            self._policy.forward()
            self._judge.forward(offset)
            self._judge_gradient.backward()
            self._policy_gradient.backward()
            self._adam.step()
