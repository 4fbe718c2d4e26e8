"""Episodes on a device, one per world, all started together.

A control step has three parts: policy, physics, and bookkeeping of rewards and ends. On a GPU each part is a CUDA
graph. All state of the episodes is in tensors with fixed addresses, and no part waits for the host.
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
    """Worlds of a task on a device; all step together."""

    count: int
    device: torch.device

    def reset(self, slots: Sequence[int], seeds: Sequence[int]) -> None:
        """Start a new episode in each of these worlds; its random numbers depend only on its seed."""
        ...

    def observe(self, ages: Tensor) -> Tensor:
        """Return observations `(count, observation_size)` float32 at ages `(count,)`; the caller may overwrite them."""
        ...

    def apply(self, actions: Tensor) -> None:
        """Set the controls of the next `advance` from actions `(count, action_size)` float32."""
        ...

    def advance(self) -> None:
        """Advance physics by one control step; it may have its own CUDA graph."""
        ...

    def outcome(self, count: int) -> tuple[Tensor, Tensor]:
        """Return rewards and terminated, `(count,)`, of the last step; call once after each `advance`."""
        ...

    def descriptors(self, steps: Tensor) -> Tensor:
        """Return the descriptors `(count, d)` float64 that episodes have if they end now, after `steps` `(1,)`."""
        ...

    @property
    def failures(self) -> Tensor:
        """Worlds whose simulation broke since their reset, `(count,)` bool."""
        ...

    @property
    def overflows(self) -> Tensor:
        """Nonzero for worlds in which contacts overflowed, `(count,)` int32."""
        ...


class DeviceEpisodes:
    """One episode per world; see `qdrl.tasks.episodes.rollout.Episodes` for the results.

    Attributes:
        alive: `(count,)` bool, worlds whose episode is running.
        overflow: `(count,)` int32, nonzero where contacts overflowed.
        terminated: `(count,)` bool, episodes that the task ended.
        record: Control steps, if recorded.

    Args:
        worlds: Worlds of the episodes.
        policy: Shape of the policies.
        dimensions: Length of a descriptor.
        record: Storage of control steps; None to record none.
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
        self._clip, self._floor = policy.settings.observation_clip, policy.settings.deviation_floor
        if self._normalizes:
            self.mean, self.deviation = zeros(count, size), zeros(count, size)
            self._shift = zeros(2, size, dtype=torch.float32)
        self._decides, self._counts = GraphedCall(self._decide, device), GraphedCall(self._count, device)

    def begin(self, genomes: Tensor, seeds: Sequence[int], normalization: tuple[np.ndarray, np.ndarray] | None) -> None:
        """Start an episode of each genome; further worlds stay idle.

        Args:
            genomes: `(rows, parameters)` float32, at most as many rows as worlds.
            seeds: Evaluation seed of each row.
            normalization: Mean and variance `(observation_size,)`; needed when policies normalise observations.
        """
        rows = range(len(genomes))
        self.worlds.reset(rows, seeds)
        self._population.load(rows, genomes)
        known = [self.failed, self.terminated, self.fitness, self.descriptor, self.steps, self.overflow, self._age]
        for tensor in [*known, self.mean, self.deviation] if self._normalizes else known:
            tensor.zero_()
        self.alive[:] = torch.arange(self.worlds.count, device=self.worlds.device) < len(rows)
        if self._normalizes:
            if normalization is None:
                raise ValueError("these policies normalise observations: pass the observation statistics")
            mean, var = normalization
            self._shift[0] = torch.from_numpy(mean.astype(np.float32))
            self._shift[1] = deviation_of(var, self._floor)

    def step(self) -> None:
        """Advance all episodes by one control step."""
        self._decides()
        self.worlds.advance()
        self._counts()

    def record_final_observation(self) -> None:
        """Record the observation after the last step."""
        if self.record is not None:
            self._write(self.record.observations, self._normalized(self.worlds.observe(self._ages)))

    def _decide(self) -> None:
        observations = self.worlds.observe(self._ages)
        if self._normalizes:
            self._update_moments(observations)
        actions = self._population.act(self._normalized(observations))
        self.worlds.apply(actions)
        if self.record is not None:
            self._write(self.record.observations, observations)
            self._write(self.record.actions, actions)

    def _normalized(self, observations: Tensor) -> Tensor:
        """Normalise observations in place if the policies normalise them."""
        if not self._normalizes:
            return observations
        return normalize_(observations, self._shift[0], self._shift[1], self._clip)

    def _update_moments(self, observations: Tensor) -> None:
        """Update mean and sum of squared deviations of the observations (Welford 1962)."""
        alive, difference = self.alive[:, None], observations - self.mean
        mean = self.mean + difference / (self._age + 1)
        deviation = self.deviation + difference * (observations - mean)
        self.deviation.copy_(torch.where(alive, deviation, self.deviation))
        self.mean.copy_(torch.where(alive, mean, self.mean))

    def _count(self) -> None:
        """Add the results of a step to the running episodes."""
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
        # A broken world gives a NaN reward; its episode ends.
        alive &= ~terminated & ~torch.isnan(rewards)

    def _write(self, column: Tensor, values: Tensor) -> None:
        """Write values into the record at the episodes' age."""
        column.index_copy_(0, self._age, values[None].to(column.dtype))


class AnyAlive:
    """A query whether any episode is running; on a GPU the result is one query old, so that no query waits.

    Args:
        episodes: Episodes to query.
    """

    def __init__(self, episodes: DeviceEpisodes) -> None:
        self._episodes, self._on_gpu = episodes, episodes.worlds.device.type == "cuda"
        self._host = torch.ones((), dtype=torch.bool, pin_memory=self._on_gpu)
        self._copied = torch.cuda.Event() if self._on_gpu else None

    def query(self) -> bool:
        """Return the previous query's result on a GPU, the current one elsewhere."""
        if self._copied is None:
            return bool(self._episodes.alive.any())
        self._copied.synchronize()
        answer = bool(self._host)
        self._host.copy_(self._episodes.alive.any(), non_blocking=True)
        self._copied.record(torch.cuda.current_stream(self._episodes.worlds.device))
        return answer
