"""Policy-gradient variation: copies of elites climb the first critic (Nilsson and Cully 2021, algorithm 3).

Each offspring starts as its parent and takes `steps` steps of Adam, begun anew for each, on

    -mean Q_1(s, pi(s) | d),    d the parent's descriptor (Faldor et al. 2023, section 4.3).

All parents climb on the same minibatches of states, as they do, unsaid, in the code of Faldor et al. 2024: a
sixty-fourth of the sampling, and what the critics' first layer makes of the states is computed once for all.

Rows are varied one after the other on the same buffers: an offspring is the same bits whatever rows stand beside it,
and its weights and Adam's moments stay in the core's cache for all of its steps.
"""

from typing import Annotated

import numpy as np
import torch
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor

from qdrl.critics.adam import Adam
from qdrl.critics.networks import Gradient, Network, activations_of
from qdrl.critics.products import product
from qdrl.policies.mlp import Mlp


class PolicyGradientSettings(BaseModel):
    """Settings of the variation; defaults are those of Faldor et al. 2023, table 3.

    Attributes:
        steps: steps of Adam an offspring.
        batch_size: states a step.
        learning_rate: of Adam.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    steps: Annotated[int, Field(ge=1)] = 150
    batch_size: Annotated[int, Field(ge=1)] = 100
    learning_rate: Annotated[float, Field(gt=0, allow_inf_nan=False)] = 5e-3


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
        known, own = self._prepare(states, descriptors)
        offspring = torch.empty_like(parents)
        with np.errstate(over="ignore", invalid="ignore"):
            for row, parent in enumerate(parents):
                self._genome[0] = parent
                self._climb(states, known, own[row])
                offspring[row] = self._genome[0]
        return offspring

    def _build_policy(self, policy: Mlp, gradient: Tensor) -> None:
        self._states = torch.zeros(self.settings.batch_size, policy.sizes[0], device=gradient.device)
        self._policy = Network(policy.split(self._genome), activations_of(policy.settings), self._states)
        self._policy_gradient = Gradient(self._policy, parameters=policy.split(gradient))

    def _build_critic(self, critic: Mlp) -> None:
        """The critic as a function of actions alone, down to its last hidden layer.

        What observations and descriptors add to the first layer is an offset, made once a call. The last layer is
        linear, so that its kernel is the gradient of all that comes before.
        """
        (kernels, self._first_biases), *others = critic.split(self._critic)
        of_actions, self._of_observations, self._of_descriptors = kernels.split(
            [self._actions, self._observations, self.dimensions], dim=1
        )
        self._last_kernel = others.pop()[0]
        self._offset = torch.zeros(1, self.settings.batch_size, kernels.shape[-1], device=kernels.device)
        hidden = [(of_actions, self._offset), *others]
        self._judge = Network(hidden, activations_of(critic.settings)[:-1], self._policy.outputs[-1][0])
        self._judge_gradient = Gradient(self._judge, inputs=self._policy_gradient.outputs)

    def _prepare(self, states: Tensor, descriptors: Tensor) -> tuple[Tensor, Tensor]:
        """What the first layer makes of the states, `(1, steps, batch, units)`, and of each row's descriptor.

        The same bits on every rank: the states' product has the same shape everywhere, and descriptors are multiplied
        one axis at a time.
        """
        steps, batch, _ = states.shape
        units = self._offset.shape[-1]
        known = torch.empty(1, steps * batch, units, device=states.device)
        product(states.reshape(steps * batch, -1), self._of_observations, known)()
        own = self._first_biases.repeat(len(descriptors), 1)
        for axis in range(self.dimensions):
            own += descriptors[:, axis, None].float() * self._of_descriptors[0, axis]
        self._judge_gradient.outputs.copy_(self._last_kernel.transpose(1, 2) / -batch)
        return known.view(steps, 1, batch, units), own

    def _climb(self, states: Tensor, known: Tensor, own: Tensor) -> None:
        """All steps of one row."""
        self._adam.reset()
        for state, part in zip(states.unbind(), known.unbind(), strict=True):
            self._states.copy_(state)
            self._policy.forward()
            torch.add(part, own, out=self._offset)
            self._judge.forward()
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
