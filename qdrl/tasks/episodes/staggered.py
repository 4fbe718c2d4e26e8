"""Worlds whose episodes end at chosen steps, so that a check sees worlds refilled and moved."""

import time
from collections.abc import Mapping, Sequence
from statistics import median

import torch
from torch import Tensor

from qdrl.tasks.episodes.contract import CheckedWorlds, check_descriptor
from qdrl.tasks.episodes.worlds import EpisodeWorlds, ForwardingWorlds


class StaggeredWorlds(ForwardingWorlds):
    """Other worlds, checked, with an episode length for each seed; see `qdrl.tasks.episodes.worlds.EpisodeWorlds`.

    Args:
        worlds: The other worlds.
        lengths: Control steps after which the episode of a seed ends at the latest.
        observation_size: Expected length of an observation.
        dimensions: Expected length of a descriptor.

    Attributes:
        name: Class name of the other worlds.
        moved_seeds: Seeds whose world was moved after the first control step of its episode.
    """

    def __init__(
        self, worlds: EpisodeWorlds, lengths: Mapping[int, int], observation_size: int, dimensions: int
    ) -> None:
        super().__init__(CheckedWorlds(worlds, observation_size))
        self.name = type(worlds).__name__
        self.moved_seeds: set[int] = set()
        self._own = worlds
        self._lengths, self._dimensions = lengths, dimensions
        self._seeds, self._ages = [0] * self.count, torch.zeros(self.count, dtype=torch.int64)
        self._limits = torch.zeros(self.count, dtype=torch.int64)
        self._observed: list[float] = []  # time of each call of `observe`, in seconds

    @property
    def step_seconds(self) -> float:
        """Median seconds from one control step to the next; 0 for a single step."""
        pairs = zip(self._observed, self._observed[1:], strict=False)
        return median([after - before for before, after in pairs] or [0.0])

    def reset(self, slots: Sequence[int], seeds: Sequence[int]) -> None:
        """Start a new episode in each of these worlds."""
        self._worlds.reset(slots, seeds)
        for slot, seed in zip(slots, seeds, strict=True):
            self._seeds[slot], self._ages[slot], self._limits[slot] = seed, 0, self._lengths[seed]

    def observe(self, ages: Tensor) -> Tensor:
        """Return the observations of the first worlds."""
        self._observed.append(time.perf_counter())
        return self._worlds.observe(ages)

    def step(self, actions: Tensor) -> tuple[Tensor, Tensor]:
        """Apply actions; return rewards and terminated."""
        rewards, terminated = self._worlds.step(actions)
        count = len(actions)
        self._ages[:count] += 1
        return rewards, terminated | (self._ages[:count] >= self._limits[:count])

    def descriptor(self, slot: int, steps: int) -> Tensor:
        """Return the descriptor of an ended episode."""
        descriptor = self._worlds.descriptor(slot, steps)
        check_descriptor(self._own, descriptor, self._dimensions)
        return descriptor

    def move(self, source: int, target: int) -> None:
        """Copy the state of world `source` into world `target`."""
        self._worlds.move(source, target)
        if self._ages[source]:
            self.moved_seeds.add(self._seeds[source])
        self._seeds[target] = self._seeds[source]
        for values in (self._ages, self._limits):
            values[target] = values[source]
