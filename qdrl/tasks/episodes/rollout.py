"""Rollouts of many genomes in a fixed number of slots, refilled as episodes end.

A slot is one world and one network. When its episode ends, the slot takes the next waiting genome, so that terminated
worlds cost nothing and batches stay full. When no genome waits, the last active slot is moved into the gap, so that
active slots are always 0..n-1. A row's result depends only on its genome and seed, never on its slot or other rows.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from qdrl.errors import UserError
from qdrl.evaluation import Genomes, ObservationMoments, Transitions
from qdrl.policies.base import Policy
from qdrl.policies.conv_populations import ConvSlots
from qdrl.policies.normalizer import deviation_of, normalize_
from qdrl.policies.settings import MlpSettings
from qdrl.tasks.episodes.contract import CheckedWorlds, check_descriptor
from qdrl.tasks.episodes.transitions import TransitionLog
from qdrl.tasks.episodes.worlds import EpisodeWorlds


class EpisodeLog(Protocol):
    """Recorded control steps of a batch."""

    def transitions(self, first_row: int, failed: np.ndarray) -> Transitions:
        """Return the transitions; see `qdrl.tasks.episodes.transitions.TransitionLog.transitions`."""
        ...


@dataclass(frozen=True)
class Episodes:
    """Results of episodes by row; see `qdrl.evaluation.Evaluation`.

    Attributes:
        fitness: `(rows,)` float64, sum of rewards.
        descriptor: `(rows, d)` float64.
        steps: `(rows,)` int64, number of control steps.
        failed: `(rows,)` bool.
        observations: Moments of each row's observations; None unless policies normalise observations.
        log: Recorded control steps; None if they were not requested.
    """

    fitness: Tensor
    descriptor: Tensor
    steps: Tensor
    failed: Tensor
    observations: ObservationMoments | None
    log: EpisodeLog | None


class RunsEpisodes(Protocol):
    """Anything that runs one episode per row: `Rollout`, or `DeviceRollout` on a device."""

    def run(
        self,
        genomes: Tensor | Genomes,
        seeds: Sequence[int],
        normalization: tuple[np.ndarray, np.ndarray] | None = None,
        *,
        keep_transitions: bool = False,
    ) -> Episodes:
        """Run one episode per row; see `Rollout.run`."""
        ...

    def close(self) -> None:
        """Release the resources of the worlds."""
        ...


class Rollout:
    """A rollout of one task with one shape of policy; buffers are allocated once.

    The first `run` checks what `observe` and `step` return. Later ones do not, so that it costs nothing per step.

    Args:
        worlds: Worlds of the task.
        policy: Shape of the policies.
        dimensions: Length of a descriptor.
        episode_length: Control steps after which an episode is truncated.

    Raises:
        UserError: The worlds do not state their number.
    """

    def __init__(self, worlds: EpisodeWorlds, policy: Policy, dimensions: int, episode_length: int) -> None:
        if not isinstance(getattr(worlds, "count", None), int):
            raise UserError(f"{type(worlds).__name__} has no count: set self.count to its number of worlds")
        self._given_worlds = worlds
        self._worlds: EpisodeWorlds = CheckedWorlds(worlds, policy.observation_size)  # replaced after the first `run`
        self._population = policy.population(worlds.count)
        self._dimensions = dimensions
        self._episode_length = episode_length
        self._observation_size, self._action_size = policy.observation_size, policy.action_size
        self._normalizes = isinstance(policy.settings, MlpSettings) and policy.settings.normalize_observations
        self._returns = np.zeros(worlds.count)
        self._ages = np.zeros(worlds.count, np.int64)
        self._rows = np.zeros(worlds.count, np.int64)
        self._slot_arrays = [self._returns, self._ages]
        if isinstance(policy.settings, MlpSettings):
            self._clip, self._floor = policy.settings.observation_clip, policy.settings.deviation_floor
        if self._normalizes:
            self._mean, self._deviation = (np.zeros((worlds.count, self._observation_size)) for _ in range(2))
            self._slot_arrays += [self._mean, self._deviation]

    def close(self) -> None:
        """Close the worlds."""
        self._given_worlds.close()

    def set_reference(self, observations: Tensor) -> None:
        """Set the observations `(n, observation_size)` of virtual batch normalisation in convolutional policies."""
        if isinstance(self._population, ConvSlots):
            self._population.set_reference(observations)

    def run(
        self,
        genomes: Tensor | Genomes,
        seeds: Sequence[int],
        normalization: tuple[np.ndarray, np.ndarray] | None = None,
        *,
        keep_transitions: bool = False,
    ) -> Episodes:
        """Run one episode per row.

        Args:
            genomes: `(rows, parameters)` float32.
            seeds: Evaluation seed of each row.
            normalization: Mean and variance `(observation_size,)`; needed when policies normalise observations.
            keep_transitions: Record every control step in `log`.

        Returns:
            Results in the order of rows.

        Raises:
            UserError: A method of the worlds returned a value of another type, shape or dtype than it must.
        """
        rows = len(genomes)
        length, sizes = self._episode_length, (self._observation_size, self._action_size)
        log = TransitionLog(rows, length, *sizes) if keep_transitions else None
        results = self._empty_results(rows, log)
        active = min(self._worlds.count, rows)
        if active:
            self._start(range(active), range(active), genomes, seeds)
        waiting = active
        shift = None if normalization is None else self._shift(*normalization)
        while active:
            ended = self._step(active, shift, log)
            for slot in ended:
                self._finish(slot, results)
            refilled = min(len(ended), rows - waiting)
            if refilled:
                self._start(ended[:refilled], range(waiting, waiting + refilled), genomes, seeds)
                waiting += refilled
            for slot in ended[refilled:]:  # highest slot first, so that the last active one is always alive
                active -= 1
                if slot != active:
                    self._move(active, slot)
        if rows:
            self._worlds = self._given_worlds
        return results

    def _step(self, active: int, shift: tuple[Tensor, Tensor] | None, log: TransitionLog | None) -> list[int]:
        """Advance the active slots by one control step; return the slots whose episodes ended, highest first."""
        ages, rows = self._ages[:active], self._rows[:active]
        observations = self._worlds.observe(torch.from_numpy(ages))
        if self._normalizes or log is not None:
            observations = observations.clone()  # worlds may return their own state, which `step` changes
        if self._normalizes:
            self._absorb(observations.numpy(), active)
            if shift is not None:
                normalize_(observations, *shift, self._clip)
        actions = self._population.act(observations)
        rewards, terminated = self._worlds.step(actions)
        reward, over = rewards.numpy(), terminated.numpy()
        if log is not None:
            log.add(rows, ages, observations.numpy(), actions.numpy(), reward)
        self._returns[:active] += reward
        ages += 1
        # A broken world gives a NaN reward; its episode ends.
        ended = np.flatnonzero(over | (ages >= self._episode_length) | np.isnan(reward))[::-1].tolist()
        if log is not None and ended:
            observations = self._worlds.observe(torch.from_numpy(ages)).clone()
            if shift is not None:
                normalize_(observations, *shift, self._clip)
            for slot in ended:
                cut = not over[slot] or self._worlds.truncated(slot)
                log.end(int(rows[slot]), int(ages[slot]), observations[slot].numpy(), terminated=not cut)
        return ended

    def _start(self, slots: Sequence[int], rows: range, genomes: Tensor | Genomes, seeds: Sequence[int]) -> None:
        self._worlds.reset(slots, [int(seeds[row]) for row in rows])
        # One at a time: genomes decoded on demand may be large.
        for slot, row in zip(slots, rows, strict=True):
            self._population.load([slot], genomes[row : row + 1])
        index = list(slots)
        self._rows[index] = rows
        for array in self._slot_arrays:
            array[index] = 0

    def _finish(self, slot: int, results: Episodes) -> None:
        row, steps = self._rows[slot], int(self._ages[slot])
        results.fitness.numpy()[row] = self._returns[slot]
        descriptor = self._worlds.descriptor(slot, steps)
        # In every run, at no cost per step: NumPy would broadcast a single value to all axes.
        check_descriptor(self._given_worlds, descriptor, self._dimensions)
        results.descriptor.numpy()[row] = descriptor.numpy()
        results.steps.numpy()[row] = steps
        results.failed.numpy()[row] = self._worlds.failed(slot)
        if results.observations is not None:
            results.observations.count[row] = steps
            results.observations.mean[row] = torch.from_numpy(self._mean[slot])
            results.observations.deviation[row] = torch.from_numpy(self._deviation[slot])

    def _move(self, source: int, target: int) -> None:
        self._worlds.move(source, target)
        self._population.move(source, target)
        self._rows[target] = self._rows[source]
        for array in self._slot_arrays:
            array[target] = array[source]

    def _absorb(self, observations: np.ndarray, active: int) -> None:
        """Update each slot's observation moments (Welford 1962)."""
        seen = self._ages[:active, None] + 1.0
        difference = observations - self._mean[:active]
        self._mean[:active] += difference / seen
        self._deviation[:active] += difference * (observations - self._mean[:active])

    def _empty_results(self, rows: int, log: TransitionLog | None) -> Episodes:
        def empty(*shape: int, dtype: torch.dtype = torch.float64) -> Tensor:
            return torch.zeros(rows, *shape, dtype=dtype)

        moments = None
        if self._normalizes:
            size = self._observation_size
            moments = ObservationMoments(empty(dtype=torch.int64), empty(size), empty(size))
        return Episodes(
            fitness=empty().fill_(torch.nan),
            descriptor=empty(self._dimensions).fill_(torch.nan),
            steps=empty(dtype=torch.int64),
            failed=empty(dtype=torch.bool),
            observations=moments,
            log=log,
        )

    def _shift(self, mean: np.ndarray, var: np.ndarray) -> tuple[Tensor, Tensor]:
        return torch.from_numpy(mean.astype(np.float32)), deviation_of(var, self._floor)
