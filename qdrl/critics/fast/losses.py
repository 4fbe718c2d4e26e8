"""Gradients of the two losses of TD3 by hand-written passes, one shard's share of a minibatch at a time.

`qdrl.critics.td3` states the losses; `qdrl.critics.reference` computes them by automatic differentiation.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from qdrl.compute.cuda_graphs import SideStream
from qdrl.critics.fast.networks import Gradient, Network, activations, matrices, with_ones
from qdrl.critics.minibatches import Minibatch
from qdrl.policies.mlp import Mlp


@dataclass(frozen=True)
class Td3Networks:
    """Critics, actor and their targets: shapes and flat rows.

    Attributes:
        critic_mlp: shape of a critic, which sees action, observation and target descriptor.
        actor_mlp: shape of the actor, which sees observation and target descriptor.
        critic: `(2, parameters)`; the actor maximises the first one.
        critic_target: `(2, parameters)`.
        actor: `(1, parameters)`.
        actor_target: `(1, parameters)`.
    """

    critic_mlp: Mlp
    actor_mlp: Mlp
    critic: Tensor
    critic_target: Tensor
    actor: Tensor
    actor_target: Tensor


class CriticLoss:
    """The gradient of L_Q with respect to both critics.

    Args:
        networks: read at every call.
        gradient: `(2, parameters)`, overwritten by every call.
        size: transitions of a call.
        batch_size: transitions of a whole minibatch, over which the loss is a mean.
    """

    def __init__(self, networks: Td3Networks, gradient: Tensor, size: int, batch_size: int) -> None:
        mlp, device, actions = networks.critic_mlp, gradient.device, networks.actor_mlp.sizes[-1]
        inputs, next_inputs = (with_ones(size, mlp.sizes[0], device=device) for _ in range(2))
        kinds = activations(mlp.settings)
        self._error_scale = 2 / batch_size
        self._inputs, self._next_states = inputs[:, :-1], next_inputs[:, actions:-1]
        self._critics = Network(matrices(mlp, networks.critic), kinds, inputs)
        self._critic_targets = Network(matrices(mlp, networks.critic_target), kinds, next_inputs)
        self._actor_target = Network(  # writes its actions where the target critics read them
            matrices(networks.actor_mlp, networks.actor_target),
            activations(networks.actor_mlp.settings),
            next_inputs[:, actions:],
            into=next_inputs[None, :, :actions],
        )
        self._gradient = Gradient(self._critics, parameters=matrices(mlp, gradient))
        self._next_value = torch.zeros(size, 1, device=device)
        self._side_stream = SideStream(device)

    def differentiate(self, minibatch: Minibatch, errors: Tensor) -> None:
        """Compute the gradient; `errors` `(2, size, 1)` receives w * (Q - y)."""
        with self._side_stream:
            self._inputs.copy_(minibatch.inputs)
            values = self._critics.forward()
        self._next_states.copy_(minibatch.next_states)
        self._actor_target.forward().add_(minibatch.noise).clamp_(-1, 1)
        torch.amin(self._critic_targets.forward(), 0, out=self._next_value)
        target = torch.addcmul(minibatch.reward, minibatch.discount, self._next_value)
        self._side_stream.join()
        torch.sub(values, target, out=errors)
        errors *= minibatch.weight
        torch.mul(errors, self._error_scale, out=self._gradient.outputs)
        self._gradient.backward()


class ActorLoss:
    """The gradient of L_pi with respect to the actor.

    Args:
        networks: read at every call.
        gradient: `(1, parameters)`, overwritten by every call.
        size: transitions of a call.
        batch_size: transitions of a whole minibatch, over which the loss is a mean.
    """

    def __init__(self, networks: Td3Networks, gradient: Tensor, size: int, batch_size: int) -> None:
        critic_mlp, actor_mlp, actions = networks.critic_mlp, networks.actor_mlp, networks.actor_mlp.sizes[-1]
        inputs = with_ones(size, critic_mlp.sizes[0], device=gradient.device)
        self._inputs = inputs[:, :-1]
        self._actor = Network(  # writes its actions where the critic reads them
            matrices(actor_mlp, networks.actor),
            activations(actor_mlp.settings),
            inputs[:, actions:],
            into=inputs[None, :, :actions],
        )
        self._gradient = Gradient(self._actor, parameters=matrices(actor_mlp, gradient))
        self._critic = Network(matrices(critic_mlp, networks.critic[:1]), activations(critic_mlp.settings), inputs)
        self._critic_gradient = Gradient(self._critic, inputs=self._gradient.outputs)
        self._critic_gradient.outputs.fill_(-1 / batch_size)

    def differentiate(self, minibatch: Minibatch) -> Tensor:
        """Compute the gradient and return the mean of Q_1 of the actor's actions."""
        self._inputs.copy_(minibatch.inputs)
        self._actor.forward()
        value = self._critic.forward().mean()
        self._critic_gradient.backward()
        self._gradient.backward()
        return value
