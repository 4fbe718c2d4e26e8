"""Policy-gradient variation: gradient ascent of elites' copies on the first critic.

PGA-MAP-Elites, algorithm 3 (Nilsson and Cully 2021): https://doi.org/10.1145/3449639.3459304. An offspring starts as
its parent and takes `steps` steps of Adam, whose moments start at zero, on the loss

    -mean Q_1(s, pi(s) | d),    d the parent's descriptor (Faldor et al. 2023, section 4.3).

All parents use the same minibatches of states, as in the code of Faldor et al. 2024, though their paper does not say
so: a sixty-fourth of the sampling, and the product of the states with the critic's first layer is computed once.

On the CPU offspring are computed one after the other on the same buffers. Their bits do not depend on the other rows,
and weights and Adam's moments stay in the core's cache. A GPU computes all rows together, in one CUDA graph.
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

_MAX_ROWS = 512  # rows that a GPU computes together: 0.5 GB of buffers at paper size


class PolicyGradient:
    """Varies genomes by the gradient of a critic; buffers are allocated once.

    Args:
        policy: shape of the genomes.
        critic: shape of the critic as `qdrl.critics.td3.critic_mlp` returns it: it sees action, observation and the
            numbers of a descriptor, of which there are none where it is unconditioned.
        settings: steps, states a step, learning rate.
        device: where the gradients are computed.
        rows_at_once: rows computed together; by default one on the CPU and all on a GPU.

    Raises:
        ValueError: the critic has too few inputs for the policy.
    """

    def __init__(
        self,
        policy: Mlp,
        critic: Mlp,
        settings: PolicyGradientSettings,
        device: str | torch.device = "cpu",
        *,
        rows_at_once: int | None = None,
    ) -> None:
        self.settings = settings
        self.dimensions = critic.sizes[0] - policy.sizes[0] - policy.sizes[-1]
        if self.dimensions < 0:
            raise ValueError(
                f"the critic has {critic.sizes[0]} inputs, fewer than {policy.sizes[0]} observation and "
                f"{policy.sizes[-1]} action dimensions: it belongs to another task"
            )
        self._policy, self._critic_mlp, self._device = policy, critic, torch.device(device)
        self._rows_at_once = 1 if rows_at_once is None and self._device.type == "cpu" else rows_at_once
        self._critic = torch.zeros(1, critic.parameters, device=device)
        self._ascent: _GradientAscent | None = None

    def vary(self, parents: Tensor, states: Tensor, critic: Tensor, descriptors: Tensor) -> Tensor:
        """Return the offspring of all parents.

        Args:
            parents: `(rows, parameters)` float32 genomes.
            states: `(steps, batch, observation)` float32, as policies see them.
            critic: `(parameters,)` float32, flat row of the critic.
            descriptors: `(rows, dimensions)` of the parents, normalised to [-1, 1].

        Returns:
            `(rows, parameters)` float32. An offspring whose ascent overflows is not finite; its evaluation then fails.

        Raises:
            ValueError: a tensor has an unexpected shape.
        """
        self._check(parents, states, critic, descriptors)
        if len(parents) == 0:
            return torch.empty_like(parents)
        rows = min(self._rows_at_once or len(parents), _MAX_ROWS)
        if self._ascent is None or self._ascent.rows < rows:
            self._ascent = _GradientAscent(self._policy, self._critic_mlp, self._critic, self.settings, rows)
        self._critic[0] = critic
        ascent, offspring = self._ascent, torch.empty_like(parents)
        biases = ascent.prepare(states, descriptors)
        with np.errstate(over="ignore", invalid="ignore"):
            for first in range(0, len(parents), ascent.rows):
                some = slice(first, first + ascent.rows)
                offspring[some] = ascent.run(parents[some], biases[some])
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


class _GradientAscent:
    """Gradient ascent of several rows together.

    Args:
        policy: shape of the genomes.
        critic: shape of the critic.
        weights: `(1, parameters)` of the critic, read by `prepare`.
        settings: steps, states a step, learning rate.
        rows: largest number of rows.
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
        self._states = self._offsets = torch.zeros(0, device=device)
        self._graphed_steps = GraphedCall(self._run_steps, device)

    def prepare(self, states: Tensor, descriptors: Tensor) -> Tensor:
        """Set the states of all steps; return the first-layer bias of the critic for each descriptor.

        The bits are the same on every rank: the product with the states has the same shape everywhere, and descriptors
        are multiplied one axis at a time.

        Args:
            states: `(steps, batch, observation)`.
            descriptors: `(rows, dimensions)`.

        Returns:
            `(rows, units)`.
        """
        steps, batch, size = states.shape
        units = self._first.shape[-1]
        if len(self._offsets) != steps:
            self._offsets = torch.zeros(steps, 1, batch, self._critic.outputs[0].shape[-1], device=states.device)
            self._states = torch.zeros_like(states)
        self._states.copy_(states)
        offsets = self._offsets.view(1, steps * batch, -1)
        product(self._states.view(steps * batch, size), self._observation_kernel, offsets[..., :units])()
        self._first[:, :-1] = self._action_kernel
        self._critic_gradient.outputs.copy_(self._last[:, :-1].transpose(1, 2) / -batch)
        biases = self._bias[0].repeat(len(descriptors), 1)
        for axis in range(descriptors.shape[1]):
            biases += descriptors[:, axis, None].float() * self._descriptor_kernel[0, axis]
        return biases

    def run(self, parents: Tensor, biases: Tensor) -> Tensor:
        """Optimise up to `rows` parents; the next call overwrites the returned view."""
        self._genomes[: len(parents)], self._first[: len(parents), -1] = parents, biases
        self._graphed_steps()
        return self._genomes[: len(parents)]

    def _build_critic(self, critic: Mlp, weights: Tensor) -> None:
        """Build the critic as a function of the actions alone, up to its last hidden layer.

        In the first layer, the descriptor of a row contributes a bias and observations contribute an offset, which
        `prepare` computes. The last layer is linear: its kernel is the gradient with respect to its inputs.
        """
        first, *hidden, self._last = matrices(critic, weights)
        dimensions = critic.sizes[0] - self._observations - self._actions
        self._action_kernel, self._observation_kernel, self._descriptor_kernel, self._bias = first.split(
            [self._actions, self._observations, dimensions, 1], dim=1
        )
        self._first = torch.zeros(self.rows, self._actions + 1, first.shape[-1], device=first.device)
        layers = [self._first, *(layer.expand(self.rows, -1, -1) for layer in hidden)]
        self._critic = Network(layers, activations(critic.settings)[:-1], self._acted)
        self._critic_gradient = Gradient(self._critic, inputs=self._policy_gradient.outputs)

    def _run_steps(self) -> None:
        """Run all steps on all rows."""
        self._adam.reset()
        inputs = self._inputs[:, :-1]
        for state, offset in zip(self._states.unbind(), self._offsets.unbind(), strict=True):
            inputs.copy_(state)
            self._policy.forward()
            self._critic.forward(offset)
            self._critic_gradient.backward()
            self._policy_gradient.backward()
            self._adam.step()
