"""A stored descriptor-conditioned actor as one policy: observation and descriptor in, action out."""

import warnings
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from qdrl.analysis.decode import policy_of
from qdrl.archives.grid import bounds_in_words
from qdrl.archives.hdf5 import open_archive
from qdrl.archives.stored import StoredArchive
from qdrl.critics.descriptors import normalize
from qdrl.critics.injection import conditioned, inject
from qdrl.errors import UserError
from qdrl.policies.mlp import Mlp
from qdrl.policies.normalizer import deviation_of, normalize_


class ConditionedPolicy:
    """The descriptor-conditioned actor that a run trained.

    Attributes:
        policy: shape of the actor for one fixed descriptor: that of the run's policies, if it has their layers.

    Args:
        archive: an archive of a run that trained a conditioned actor, or its file.

    Raises:
        UserError: the archive holds no such actor, or there is no such file.
    """

    def __init__(self, archive: StoredArchive | str | Path) -> None:
        if not isinstance(archive, StoredArchive):
            archive = open_archive(archive)
        if archive.actor is None or int(archive.actor["dimensions"]) == 0:
            raise UserError(
                f"{archive.path}: has no descriptor-conditioned actor; only DCG- and DCRL-MAP-Elites train one"
            )
        self.lower, self.upper = (np.array([getattr(axis, end) for axis in archive.axes]) for end in ("lower", "upper"))
        self.dimensions = int(archive.actor["dimensions"])
        policy = policy_of(archive)
        if not isinstance(policy, Mlp):
            raise UserError("/meta/policy: a descriptor-conditioned actor needs kind 'mlp'")
        layers = archive.actor.get("layers")
        self.policy = policy if layers is None else policy.resized(tuple(layers[1:-1].tolist()))
        self.genome = torch.from_numpy(np.array(archive.actor["genome"], np.float32))
        shape = conditioned(self.policy, self.dimensions)
        if len(self.genome) != shape.parameters:
            raise UserError(f"{archive.path}: the actor has {len(self.genome)} parameters, expected {shape.parameters}")
        self._population = shape.population(1)
        self._population.load([0], self.genome[None])
        self._outside: bytes | None = None  # the last descriptor outside the bounds that was reported
        self._shift: tuple[Tensor, Tensor] | None = None
        if archive.normalizer is not None:
            mean, var = archive.normalizer["mean"], archive.normalizer["var"]
            self._shift = torch.from_numpy(mean.astype(np.float32)), deviation_of(var, policy.settings.deviation_floor)

    def act(self, observation: Any, descriptor: Any) -> np.ndarray:
        """Return the action for one observation and a target descriptor.

        A descriptor outside the bounds is replaced by the nearest one inside, with a warning whenever it changes.

        Args:
            observation: `(observation,)` as the task returns it, not normalised.
            descriptor: `(d,)` in the axes' units.

        Returns:
            `(action,)` float32, in [-1, 1].

        Raises:
            ValueError: a shape does not fit, or a number is not finite.
        """
        seen = _finite(observation, np.float32, "observation", (self.policy.sizes[0],))
        aim = _finite(descriptor, np.float64, "descriptor", (self.dimensions,))
        self._report_outside(aim)
        inputs = torch.from_numpy(seen)[None]
        if self._shift is not None:
            normalize_(inputs, *self._shift, self.policy.settings.observation_clip)
        aimed = normalize(torch.from_numpy(aim)[None], self.lower, self.upper)
        return self._population.act(torch.cat([inputs, aimed], dim=1))[0].numpy().copy()

    def aimed_at(self, descriptors: Any) -> Tensor:
        """Return genomes of the shape `policy` that act as this policy does for each descriptor.

        Args:
            descriptors: `(rows, d)` in the axes' units; those outside the bounds are replaced by the nearest inside.

        Returns:
            `(rows, policy.parameters)` float32.

        Raises:
            ValueError: a shape does not fit, or a number is not finite.
        """
        aims = _finite(descriptors, np.float64, "descriptors", (len(descriptors), self.dimensions))
        return inject(self.policy, self.genome, normalize(torch.from_numpy(aims), self.lower, self.upper))

    def _report_outside(self, aim: np.ndarray) -> None:
        nearest = np.clip(aim, self.lower, self.upper)
        if np.array_equal(nearest, aim):
            self._outside = None
            return
        if self._outside == aim.tobytes():
            return
        self._outside = aim.tobytes()
        warnings.warn(
            f"descriptor {aim.tolist()} lies outside the bounds {bounds_in_words(self.lower, self.upper)};"
            f" using the nearest descriptor inside, {nearest.tolist()}",
            stacklevel=3,
        )


def _finite(values: Any, dtype: Any, name: str, shape: tuple[int, ...]) -> np.ndarray:
    """Return a copy of numbers as an array.

    Raises:
        ValueError: they have another shape, or one is not finite.
    """
    array = np.array(values, dtype)
    if array.shape != shape:
        raise ValueError(f"expected {name} {shape}, got {array.shape}")
    if not (finite := np.isfinite(array)).all():
        place = tuple(int(index) for index in np.argwhere(~finite)[0])
        raise ValueError(f"{name}{list(place)} is {array[place]}; all numbers must be finite")
    return array
