"""Policy-gradient variation: copies of elites climb the first critic (Nilsson and Cully 2021, algorithm 3).

Each offspring starts as its parent and takes `steps` steps of Adam, begun anew for each, on

    -mean Q_1(s, pi(s) | d),    d the parent's descriptor (Faldor et al. 2023, section 4.3).

All parents climb on the same minibatches of states, as they do, unsaid, in the code of Faldor et al. 2024: a
sixty-fourth of the sampling, and what the critics' first layer makes of the states is computed once for all.

Rows are varied one after the other on the same buffers: an offspring is the same bits whatever rows stand beside it,
and its weights and Adam's moments stay in the core's cache for all of its steps.
"""

import numpy as np
import torch
from torch import Tensor

from qdrl.critics.networks import Gradient, Network, activations, matrices, with_ones
from qdrl.critics.products import product
from qdrl.critics.settings import PolicyGradientSettings
from qdrl.optimizers import Adam
from qdrl.policies.mlp import Mlp


class PolicyGradient:
    """Varies genomes by the gradient of a critic; buffers are made once.

    Args:
        policy: shape of the genomes.
        critic: shape of the critic, which sees action, observation and then `dimensions` of a descriptor, none where
            it is unconditioned; ReLU, as `qdrl.critics.td3.critic_mlp` makes it.
        settings: steps, states a step, learning rate.
        device: where it computes.
    """

    def __init__(
        self, policy: Mlp, critic: Mlp, settings: PolicyGradientSettings, device: str | torch.device = "cpu"
    ) -> None:
        self.settings = settings
        self._observations, self._actions = policy.sizes[0], policy.sizes[-1]
        self.dimensions = critic.sizes[0] - self._observations - self._actions
        if self.dimensions < 0:
            raise ValueError(
                f"a critic of {critic.sizes[0]} inputs cannot see {self._actions} actions and {self._observations} "
                "observations: it belongs to another task"
            )
        self._genome = torch.zeros(1, policy.parameters, device=device)
        self._critic = torch.zeros(1, critic.parameters, device=device)
        gradient = torch.zeros_like(self._genome)
        self._adam = Adam(self._genome, gradient, settings.learning_rate)
        self._build_policy(policy, gradient)
        self._build_critic(critic)

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
        self._critic[0] = critic
        known, biases = self._prepare(states, descriptors)
        offspring = torch.empty_like(parents)
        with np.errstate(over="ignore", invalid="ignore"):
            for row, parent in enumerate(parents):
                self._genome[0], self._first[0, -1] = parent, biases[row]
                self._climb(states, known)
                offspring[row] = self._genome[0]
        return offspring

    def _build_policy(self, policy: Mlp, gradient: Tensor) -> None:
        batch, device = self.settings.batch_size, gradient.device
        self._states = with_ones(batch, self._observations, device=device)
        self._acted = with_ones(batch, self._actions, device=device)
        self._policy = Network(
            matrices(policy, self._genome),
            activations(policy.settings),
            self._states,
            into=self._acted[None, :, :-1],
        )
        self._policy_gradient = Gradient(self._policy, parameters=matrices(policy, gradient))

    def _build_critic(self, critic: Mlp) -> None:
        """The critic as a function of actions alone, down to its last hidden layer.

        To its first layer, a row's descriptor is a bias, and observations are an offset that is made once a call. Its
        last layer is linear, so that its kernel is the gradient of all that comes before.
        """
        first, *hidden, self._last = matrices(critic, self._critic)
        self._of_actions, self._of_observations, self._of_descriptors, self._bias = first.split(
            [self._actions, self._observations, self.dimensions, 1], dim=1
        )
        self._first = torch.zeros(1, self._actions + 1, first.shape[-1], device=first.device)
        self._judge = Network([self._first, *hidden], activations(critic.settings)[:-1], self._acted)
        self._judge_gradient = Gradient(self._judge, inputs=self._policy_gradient.outputs)

    def _prepare(self, states: Tensor, descriptors: Tensor) -> tuple[Tensor, Tensor]:
        """What the first layer makes of the states, `(steps, 1, batch, units)`, and of each row's descriptor.

        The same bits on every rank: the states' product has the same shape everywhere, and descriptors are multiplied
        one axis at a time.
        """
        steps, batch, size = states.shape
        units = self._first.shape[-1]
        known = torch.zeros(1, steps * batch, self._judge.outputs[0].shape[-1], device=states.device)
        product(states.reshape(steps * batch, size), self._of_observations, known[..., :units])()
        biases = self._bias[0].repeat(len(descriptors), 1)
        for axis in range(self.dimensions):
            biases += descriptors[:, axis, None].float() * self._of_descriptors[0, axis]
        self._first[:, :-1] = self._of_actions
        self._judge_gradient.outputs.copy_(self._last[:, :-1].transpose(1, 2) / -batch)
        return known.view(steps, 1, batch, -1), biases

    def _climb(self, states: Tensor, known: Tensor) -> None:
        """All steps of one row."""
        self._adam.reset()
        inputs = self._states[:, :-1]
        for state, offset in zip(states.unbind(), known.unbind(), strict=True):
            inputs.copy_(state)
            self._policy.forward()
            self._judge.forward(offset)
            self._judge_gradient.backward()
            self._policy_gradient.backward()
            self._adam.step()

    def _check(self, parents: Tensor, states: Tensor, critic: Tensor, descriptors: Tensor) -> None:
        steps, batch = self.settings.steps, self.settings.batch_size
        expected = {
            "parents": (parents, (len(parents), self._genome.shape[1])),
            "states": (states, (steps, batch, self._observations)),
            "critic": (critic, (self._critic.shape[1],)),
            "descriptors": (descriptors, (len(parents), self.dimensions)),
        }
        for name, (tensor, shape) in expected.items():
            if tuple(tensor.shape) != shape:
                raise ValueError(f"{name} has shape {tuple(tensor.shape)}, expected {shape}")
