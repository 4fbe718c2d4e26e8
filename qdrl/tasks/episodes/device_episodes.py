"""Episodes on a device, one in each of a number of worlds, all begun together.

A control step is three parts: policies decide, physics advances, rewards are counted. Each part is a CUDA graph on a
GPU, so that all that is known of the episodes lies in tensors that stay where they are, and nothing waits for the host.
"""

from collections.abc import Sequence
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from qdrl.compute.cuda_graphs import GraphedCall
from qdrl.policies.mlp import Mlp
from qdrl.policies.normalizer import deviation_of, normalize_
from qdrl.tasks.episodes.device_transitions import Record


class DeviceWorlds(Protocol):
    """A task's worlds on a device, which all step together."""

    count: int
    device: torch.device

    def reset(self, slots: Sequence[int], seeds: Sequence[int]) -> None:
        """Start these worlds anew, each from the random stream of its seed."""
        ...

    def observe(self, ages: Tensor) -> Tensor:
        """Observations `(count, observation)` float32 at these ages `(count,)`, free to be changed."""
        ...

    def apply(self, actions: Tensor) -> None:
        """What the next `advance` does, from actions `(count, action)` float32."""
        ...

    def advance(self) -> None:
        """A control step of physics, which may have a graph of its own."""
        ...

    def outcome(self, count: int) -> tuple[Tensor, Tensor]:
        """Rewards and terminated, `(count,)`, of that step; called once after each `advance`."""
        ...

    def descriptors(self, steps: Tensor) -> Tensor:
        """Descriptors `(count, d)` float64, had episodes ended now, after that many `(1,)` steps."""
        ...

    @property
    def failures(self) -> Tensor:
        """Which worlds broke since their reset, `(count,)` bool."""
        ...

    @property
    def overflows(self) -> Tensor:
        """Not 0 for worlds in which contacts had no room, `(count,)` int32."""
        ...


class DeviceEpisodes:
    """One episode a world; see `qdrl.tasks.episodes.rollout.Episodes` for what is known of each.

    Attributes:
        alive: `(count,)` bool, whose episode goes on.
        overflow: `(count,)` int32, not 0 where contacts had no room.
        terminated: `(count,)` bool, episodes that the task ended.
        record: the control steps, where they are kept.

    Args:
        worlds: where they run.
        policy: shape of the policies.
        dimensions: numbers in a descriptor.
        record: keeps every control step; None where nobody wants them.
    """

    def __init__(self, worlds: DeviceWorlds, policy: Mlp, dimensions: int, record: Record | None) -> None:
        count, device, size = worlds.count, worlds.device, policy.observation_size

        def zeros(*shape: int, dtype: torch.dtype = torch.float64) -> Tensor:
            return torch.zeros(*shape, dtype=dtype, device=device)

        self.worlds, self.record = worlds, record
        self._population = policy.population(count, device)
        self._age = zeros(1, dtype=torch.int64)
        self._ages = self._age.expand(count)
        self.alive, self.failed, self.terminated = (zeros(count, dtype=torch.bool) for _ in range(3))
        self.fitness, self.descriptor = zeros(count), zeros(count, dimensions)
        self.steps, self.overflow = zeros(count, dtype=torch.int64), zeros(count, dtype=torch.int32)
        self._normalizes = policy.settings.normalize_observations
        if self._normalizes:
            self.mean, self.deviation = zeros(count, size), zeros(count, size)
            self._shift = zeros(2, size, dtype=torch.float32)
        self._decides, self._counts = GraphedCall(self._decide, device), GraphedCall(self._count, device)

    def begin(self, genomes: Tensor, seeds: Sequence[int], normalization: tuple[np.ndarray, np.ndarray] | None) -> None:
        """Begin an episode of each genome `(rows, parameters)`; worlds that are left over have none."""
        rows = range(len(genomes))
        self.worlds.reset(rows, seeds)
        self._population.load(rows, genomes)
        known = [self.failed, self.terminated, self.fitness, self.descriptor, self.steps, self.overflow, self._age]
        for tensor in [*known, self.mean, self.deviation] if self._normalizes else known:
            tensor.zero_()
        self.alive[:] = torch.arange(self.worlds.count, device=self.worlds.device) < len(rows)
        if self._normalizes:
            if normalization is None:
                raise ValueError("these policies normalise observations: statistics are needed")
            mean, var = normalization
            self._shift[0] = torch.from_numpy(mean.astype(np.float32))
            self._shift[1] = deviation_of(var)

    def step(self) -> None:
        """A control step of all of them."""
        self._decides()
        self.worlds.advance()
        self._counts()

    def see_the_end(self) -> None:
        """Let the record have what could be seen after the last step."""
        if self.record is not None:
            self._write(self.record.observations, self._seen(self.worlds.observe(self._ages)))

    def _decide(self) -> None:
        observations = self.worlds.observe(self._ages)
        if self._normalizes:
            self._note_moments(observations)
        actions = self._population.act(self._seen(observations))
        self.worlds.apply(actions)
        if self.record is not None:
            self._write(self.record.observations, observations)
            self._write(self.record.actions, actions)

    def _seen(self, observations: Tensor) -> Tensor:
        """What policies see, in place."""
        return normalize_(observations, *self._shift) if self._normalizes else observations

    def _note_moments(self, observations: Tensor) -> None:
        """Mean and sum of squared deviations of what was seen (Welford 1962)."""
        alive, difference = self.alive[:, None], observations - self.mean
        mean = self.mean + difference / (self._age + 1)
        deviation = self.deviation + difference * (observations - mean)
        self.deviation.copy_(torch.where(alive, deviation, self.deviation))
        self.mean.copy_(torch.where(alive, mean, self.mean))

    def _count(self) -> None:
        """What a step gave to those whose episodes are not over."""
        worlds, alive = self.worlds, self.alive
        rewards, terminated = worlds.outcome(worlds.count)
        if self.record is not None:
            self._write(self.record.rewards, rewards)
        self._age += 1
        self.fitness.copy_(torch.where(alive, self.fitness + rewards, self.fitness))
        self.descriptor.copy_(torch.where(alive[:, None], worlds.descriptors(self._age), self.descriptor))
        self.overflow.copy_(torch.where(alive, worlds.overflows, self.overflow))
        self.failed |= alive & worlds.failures
        self.terminated |= alive & terminated
        self.steps += alive
        # A broken world gives a NaN reward: it has nothing more to tell.
        alive &= ~terminated & ~torch.isnan(rewards)

    def _write(self, column: Tensor, values: Tensor) -> None:
        """Into the record, at the episodes' age."""
        column.index_copy_(0, self._age, values[None].to(column.dtype))


class AnyAlive:
    """Whether any episode still goes on, asked now and answered later, so that nobody waits.

    Args:
        episodes: which.
    """

    def __init__(self, episodes: DeviceEpisodes) -> None:
        self._episodes, self._on_gpu = episodes, episodes.worlds.device.type == "cuda"
        self._host = torch.ones((), dtype=torch.bool, pin_memory=self._on_gpu)
        self._copied = torch.cuda.Event() if self._on_gpu else None

    def ask(self) -> bool:
        """The answer of the last time but, on a GPU, not of this one."""
        if self._copied is None:
            return bool(self._episodes.alive.any())
        self._copied.synchronize()
        answer = bool(self._host)
        self._host.copy_(self._episodes.alive.any(), non_blocking=True)
        self._copied.record(torch.cuda.current_stream(self._episodes.worlds.device))
        return answer
