"""Rollouts on a device: all worlds start together and step together until the last episode has ended.

A world whose episode has ended keeps stepping, but its results no longer change. Results stay on the device until the
batch has ended. Every few steps the rollout queries, without waiting, whether any episode is still running.
"""

import gc
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from qdrl.compute.devices import check_memory
from qdrl.evaluation import Genomes, ObservationMoments
from qdrl.policies.mlp import Mlp
from qdrl.tasks.episodes.device_episodes import AnyAlive, DeviceEpisodes, DeviceWorlds
from qdrl.tasks.episodes.device_transitions import DeviceLog, Record
from qdrl.tasks.episodes.rollout import Episodes

_LOGGER = logging.getLogger("qdrl")
_STEPS_BETWEEN_QUERIES = 16  # control steps between two queries whether any episode is running
_ATTEMPTS = 6


class WorldMaker(Protocol):
    """A factory of worlds on a device."""

    @property
    def device(self) -> torch.device:
        """Device of the worlds."""
        ...

    @property
    def bytes_each(self) -> int:
        """Device memory per world."""
        ...

    def grow(self) -> None:
        """Allocate more contacts in the worlds made from now on."""
        ...

    def __call__(self, count: int, /) -> DeviceWorlds: ...


@dataclass(frozen=True)
class _Results:
    """Results of a block of rows, on the device."""

    fitness: Tensor
    descriptor: Tensor
    steps: Tensor
    failed: Tensor
    mean: Tensor | None
    deviation: Tensor | None


class DeviceRollout:
    """A rollout of one task with one shape of policy on a device.

    Args:
        make_worlds: Factory of worlds; called again, after `grow`, when contacts overflowed.
        count: Maximum number of worlds; no more are made than there are rows.
        policy: Shape of the policies.
        dimensions: Length of a descriptor.
        episode_length: Control steps after which an episode is truncated.

    Raises:
        UserError: The worlds do not fit into device memory.
    """

    def __init__(self, make_worlds: WorldMaker, count: int, policy: Mlp, dimensions: int, episode_length: int) -> None:
        self._make_worlds, self._dimensions, self._episode_length = make_worlds, dimensions, episode_length
        self._policy, self._limit = policy, count
        self._check_memory(count)
        self._episodes = self._new_episodes(1, keeps=False)

    def run(
        self,
        genomes: Tensor | Genomes,
        seeds: Sequence[int],
        normalization: tuple[np.ndarray, np.ndarray] | None = None,
        *,
        keep_transitions: bool = False,
    ) -> Episodes:
        """Run one episode per row; see `qdrl.tasks.episodes.rollout.Rollout.run`. Transitions stay on the device.

        Raises:
            UserError: The recorded control steps do not fit into device memory.
        """
        worlds = min(len(genomes), self._limit)
        self._prepare(worlds, keeps=keep_transitions)
        log = DeviceLog() if keep_transitions else None
        results = [
            self._run_block(genomes[first : first + worlds], seeds[first : first + worlds], normalization, log)
            for first in range(0, max(1, len(genomes)), max(1, worlds))
        ]

        def joined(name: str) -> Tensor:
            return torch.cat([getattr(block, name) for block in results]).cpu()

        steps = joined("steps")
        moments = None
        if self._policy.settings.normalize_observations:
            moments = ObservationMoments(steps, joined("mean"), joined("deviation"))
        return Episodes(joined("fitness"), joined("descriptor"), steps, joined("failed"), moments, log)

    def close(self) -> None:
        """Return at once: the worlds own nothing but memory."""

    def _prepare(self, worlds: int, *, keeps: bool) -> None:
        """Allocate worlds, networks and, if `keeps`, the record of control steps for this many rows."""
        episodes = self._episodes
        enough, notes = episodes.worlds.count >= worlds, episodes.record is not None
        if enough and (notes or not keeps):
            return
        count = max(worlds, episodes.worlds.count)
        if keeps and not notes:
            self._check_memory_of_steps(count)
        made = episodes.worlds if enough else None
        del episodes, self._episodes
        gc.collect()  # free memory before the next allocation
        self._episodes = self._new_episodes(count, keeps=keeps or notes, worlds=made)

    def _new_episodes(self, count: int, *, keeps: bool, worlds: DeviceWorlds | None = None) -> DeviceEpisodes:
        worlds, record = worlds or self._make_worlds(count), None
        if keeps:
            sizes = self._policy.observation_size, self._policy.action_size
            record = Record(self._episode_length, count, *sizes, worlds.device)
        return DeviceEpisodes(worlds, self._policy, self._dimensions, record)

    def _check_memory(self, worlds: int) -> None:
        check_memory(worlds, self._make_worlds.bytes_each + 4 * self._policy.parameters, self._make_worlds.device)

    def _check_memory_of_steps(self, worlds: int) -> None:
        recorded = self._policy.observation_size + self._policy.action_size + 1
        given = 2 * self._policy.observation_size + self._policy.action_size + 4
        check_memory(worlds, 4 * self._episode_length * (recorded + 2 * given), self._make_worlds.device)

    def _run_block(
        self,
        genomes: Tensor,
        seeds: Sequence[int],
        normalization: tuple[np.ndarray, np.ndarray] | None,
        log: DeviceLog | None,
    ) -> _Results:
        """Run episodes of at most as many rows as there are worlds; repeat them if contacts overflowed."""
        rows, short = slice(len(genomes)), torch.zeros(0, dtype=torch.bool)
        for attempt in range(_ATTEMPTS):
            if attempt:
                self._grow()
            episodes = self._episodes
            if len(genomes):  # a rank may have no rows
                self._run_episodes(genomes, seeds, normalization)
            short = ((episodes.overflow != 0) & ~episodes.failed)[rows]
            if not bool(short.any()):
                break
        else:
            message = "%d rows still overflow the contact buffers after %d doublings"
            _LOGGER.warning(message, int(short.sum()), _ATTEMPTS - 1)
        episodes = self._episodes
        if log is not None and episodes.record is not None:
            log.add(episodes.record, episodes.steps[rows], episodes.terminated[rows])
        normalizes = self._policy.settings.normalize_observations
        return _Results(
            fitness=episodes.fitness[rows].clone(),
            descriptor=episodes.descriptor[rows].clone(),
            steps=episodes.steps[rows].clone(),
            failed=episodes.failed[rows] | short,
            mean=episodes.mean[rows].clone() if normalizes else None,
            deviation=episodes.deviation[rows].clone() if normalizes else None,
        )

    def _grow(self) -> None:
        """Allocate the worlds again, with more contacts."""
        count, keeps = self._episodes.worlds.count, self._episodes.record is not None
        del self._episodes
        gc.collect()  # free memory before the next allocation
        self._make_worlds.grow()
        self._check_memory(count)
        self._episodes = self._new_episodes(count, keeps=keeps)

    def _run_episodes(
        self, genomes: Tensor, seeds: Sequence[int], normalization: tuple[np.ndarray, np.ndarray] | None
    ) -> None:
        """Run one episode per row."""
        episodes = self._episodes
        episodes.begin(genomes, seeds, normalization)
        any_alive = AnyAlive(episodes)
        interval = 1 if episodes.worlds.device.type == "cpu" else _STEPS_BETWEEN_QUERIES
        for step in range(self._episode_length):
            episodes.step()
            if step % interval == interval - 1 and not any_alive.query():
                break
        episodes.record_final_observation()
