"""A stored conditioned actor as one callable policy: observation and descriptor in, action out."""

from typing import Any

import numpy as np
import torch
from torch import Tensor

from qdrl.archives.stored import StoredArchive
from qdrl.critics.descriptors import normalize
from qdrl.critics.injection import conditioned, inject
from qdrl.decoding import policy_of
from qdrl.errors import UserError
from qdrl.policies.mlp import Mlp
from qdrl.policies.normalizer import deviation_of, normalize_


class ConditionedPolicy:
    """The actor that a run trained beside its archive.

    Args:
        archive: an archive whose run trained a conditioned actor.

    Raises:
        UserError: it holds none.
    """

    def __init__(self, archive: StoredArchive) -> None:
        if archive.actor is None or int(archive.actor["dimensions"]) == 0:
            raise UserError(
                f"{archive.path}: holds no actor conditioned on descriptors; DCG- and DCRL-MAP-Elites make one"
            )
        self.lower, self.upper = (np.array([getattr(axis, end) for axis in archive.axes]) for end in ("lower", "upper"))
        self.dimensions = int(archive.actor["dimensions"])
        policy = policy_of(archive)
        if not isinstance(policy, Mlp):
            raise UserError("a conditioned policy is a multi-layer perceptron, this archive's policies are not")
        self.policy = policy
        self.genome = torch.from_numpy(np.array(archive.actor["genome"], np.float32))
        shape = conditioned(self.policy, self.dimensions)
        if len(self.genome) != shape.parameters:
            raise UserError(f"{archive.path}: the actor has {len(self.genome)} parameters, expected {shape.parameters}")
        self._population = shape.population(1)
        self._population.load([0], self.genome[None])
        self._shift: tuple[Tensor, Tensor] | None = None
        if archive.normalizer is not None:
            mean, var = archive.normalizer["mean"], archive.normalizer["var"]
            self._shift = torch.from_numpy(mean.astype(np.float32)), deviation_of(var)

    def act(self, observation: Any, descriptor: Any) -> np.ndarray:
        """The action for one observation on the way to a descriptor.

        Args:
            observation: `(observation,)` as the task shows it, not normalised.
            descriptor: `(d,)` in the axes' units.

        Returns:
            `(action,)` float32, in [-1, 1].

        Raises:
            ValueError: a shape does not fit.
        """
        seen = torch.as_tensor(np.asarray(observation, np.float32)).clone()[None]
        aim = torch.as_tensor(np.asarray(descriptor, np.float64))[None]
        if seen.shape[1:] != (self.policy.sizes[0],) or aim.shape[1:] != (self.dimensions,):
            raise ValueError(
                f"expected an observation ({self.policy.sizes[0]},) and a descriptor ({self.dimensions},),"
                f" got {tuple(seen.shape[1:])} and {tuple(aim.shape[1:])}"
            )
        if self._shift is not None:
            normalize_(seen, *self._shift)
        inputs = torch.cat([seen, normalize(aim, self.lower, self.upper)], dim=1)
        return self._population.act(inputs)[0].numpy().copy()

    def aimed_at(self, descriptors: np.ndarray) -> Tensor:
        """Genomes of the task's ordinary policies that act as this one does towards each descriptor.

        Args:
            descriptors: `(rows, d)` in the axes' units.

        Returns:
            `(rows, parameters)` float32.
        """
        return inject(self.policy, self.genome, normalize(torch.from_numpy(descriptors), self.lower, self.upper))
