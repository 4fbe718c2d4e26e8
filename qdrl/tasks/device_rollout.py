"""Episodes of many genomes on a device: all worlds begin together and step together until the last episode is over.

A world whose episode has ended goes on, and what it does no longer counts. Results stay on the device until a batch is
over; whether any episode still goes on is asked now and then only, for the answer waits for the device.
"""

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from qdrl.evaluation import Genomes, ObservationMoments, Transitions
from qdrl.physics.devices import check_memory
from qdrl.policies.mlp import Mlp
from qdrl.policies.normalizer import deviation_of, normalize_
from qdrl.tasks.rollout import Episodes

_LOGGER = logging.getLogger("qdrl")
_PATIENCE = 16  # control steps between two questions whether anyone is alive
_ATTEMPTS = 6


class DeviceWorlds(Protocol):
    """A task's worlds on a device; `observe` and `step` are those of `qdrl.tasks.rollout.EpisodeWorlds`.

    Rewards may be float32.
    """

    count: int
    device: torch.device

    def reset(self, slots: Sequence[int], seeds: Sequence[int]) -> None: ...

    def observe(self, ages: Tensor) -> Tensor: ...

    def step(self, actions: Tensor) -> tuple[Tensor, Tensor]: ...

    def descriptors(self, count: int, steps: int) -> Tensor:
        """Descriptors `(count, d)` float64 of the first worlds, had their episodes ended now."""
        ...

    def failures(self, count: int) -> Tensor:
        """Which of the first worlds broke since their reset, `(count,)` bool."""
        ...

    def overflows(self, count: int) -> Tensor:
        """Not 0 for those of the first worlds in which contacts had no room, `(count,)` int32."""
        ...


class WorldMaker(Protocol):
    """Makes a number of worlds on a device; `bytes_each` is what one takes of its memory."""

    @property
    def device(self) -> torch.device: ...

    @property
    def bytes_each(self) -> int: ...

    def grow(self) -> None:
        """Worlds that are made from now on have more room for contacts."""
        ...

    def __call__(self, count: int, /) -> DeviceWorlds: ...


@dataclass
class _Block:
    """What is known of the episodes of a block of rows, on the device."""

    alive: Tensor
    fitness: Tensor
    descriptor: Tensor
    steps: Tensor
    failed: Tensor
    terminated: Tensor
    overflow: Tensor
    mean: Tensor | None
    deviation: Tensor | None


class _Record:
    """Every control step of a block of rows: `observations` `(length + 1, rows, ...)`, the others one fewer."""

    def __init__(self, length: int, rows: int, observation: int, action: int, device: torch.device) -> None:
        self.observations = torch.empty(length + 1, rows, observation, device=device)
        self.actions = torch.empty(length, rows, action, device=device)
        self.rewards = torch.empty(length, rows, device=device)

    def note(self, step: int, observations: Tensor, actions: Tensor, rewards: Tensor) -> None:
        self.observations[step], self.actions[step], self.rewards[step] = observations, actions, rewards


class DeviceLog:
    """Control steps of a batch, on the host; `transitions` is that of `qdrl.tasks.transitions.TransitionLog`."""

    def __init__(self) -> None:
        self._parts: list[dict[str, Tensor]] = []
        self._rows = 0

    def add(self, record: _Record, steps: Tensor, terminated: Tensor) -> None:
        """Episodes of the next rows.

        Args:
            record: their steps.
            steps: `(rows,)` int64, how many of these belong to each episode.
            terminated: `(rows,)` bool, whether the task ended it.
        """
        length, rows = record.rewards.shape
        row, time = torch.nonzero(torch.arange(length, device=steps.device) < steps[:, None], as_tuple=True)
        last = time == steps[row] - 1
        part = {
            "row": self._rows + row,
            "observation": record.observations[time, row],
            "action": record.actions[time, row],
            "reward": record.rewards[time, row],
            "next_observation": record.observations[time + 1, row],
            "terminated": last & terminated[row],
            "truncated": last & ~terminated[row],
        }
        self._parts.append({name: column.cpu() for name, column in part.items()})
        self._rows += rows

    def transitions(self, first_row: int, failed: np.ndarray) -> Transitions:
        """All of them in order of row and time, without rows that failed."""
        columns = {name: torch.cat([part[name] for part in self._parts]) for name in self._parts[0]}
        kept = ~torch.from_numpy(failed)[columns["row"]]
        columns = {name: column[kept] for name, column in columns.items()}
        return Transitions(**{**columns, "row": columns["row"] + first_row})


class DeviceRollout:
    """Runs episodes of one task with one shape of policy on a device.

    Args:
        make_worlds: makes a number of worlds; called again when contacts overflowed, after which it gives more room.
        count: most worlds simulated at once; as many are made as there are rows.
        policy: shape of the policies.
        dimensions: numbers in a descriptor.
        episode_length: control steps after which an episode is cut.

    Raises:
        UserError: so many worlds do not fit into memory.
    """

    def __init__(self, make_worlds: WorldMaker, count: int, policy: Mlp, dimensions: int, episode_length: int) -> None:
        self._make_worlds, self._dimensions, self._episode_length = make_worlds, dimensions, episode_length
        self._policy, self._limit, self._steps_fit = policy, count, False
        self._check_memory(count)
        self._prepare(1)

    def run(
        self,
        genomes: Tensor | Genomes,
        seeds: Sequence[int],
        normalization: tuple[np.ndarray, np.ndarray] | None = None,
        *,
        keep_transitions: bool = False,
    ) -> Episodes:
        """Run one episode a row; see `qdrl.tasks.rollout.Rollout.run`.

        Raises:
            UserError: control steps of so many worlds do not fit into memory.
        """
        worlds = min(len(genomes), self._limit)
        if self._worlds.count < worlds:
            self._prepare(worlds)
        if keep_transitions and not self._steps_fit:
            self._check_memory_of_steps(worlds)
            self._steps_fit = True
        log = DeviceLog() if keep_transitions else None
        blocks = [self._new_block(0)]
        if log is not None:  # a rank may have no rows
            log.add(self._new_record(0), blocks[0].steps, blocks[0].terminated)
        for first in range(0, len(genomes), self._limit):
            rows = slice(first, first + self._limit)
            blocks.append(self._run_block(genomes[rows], seeds[rows], normalization, log))

        def joined(name: str) -> Tensor:
            return torch.cat([getattr(block, name) for block in blocks]).cpu()

        steps = joined("steps")
        moments = None
        if self._policy.settings.normalize_observations:
            moments = ObservationMoments(steps, joined("mean"), joined("deviation"))
        return Episodes(joined("fitness"), joined("descriptor"), steps, joined("failed"), moments, log)

    def _check_memory(self, worlds: int) -> None:
        check_memory(worlds, self._make_worlds.bytes_each + 4 * self._policy.parameters, self._make_worlds.device)

    def _check_memory_of_steps(self, worlds: int) -> None:
        step = 3 * self._policy.observation_size + 2 * self._policy.action_size + 4  # recorded, and as transitions
        check_memory(worlds, 4 * self._episode_length * step, self._make_worlds.device)

    def _prepare(self, worlds: int) -> None:
        """Have worlds and networks for so many rows."""
        self._worlds = self._make_worlds(worlds)
        self._population = self._policy.population(worlds, self._worlds.device)

    def _run_block(
        self,
        genomes: Tensor,
        seeds: Sequence[int],
        normalization: tuple[np.ndarray, np.ndarray] | None,
        log: DeviceLog | None,
    ) -> _Block:
        """Episodes of as many rows as there are worlds, or fewer; again if contacts had too little room."""
        for attempt in range(_ATTEMPTS):
            if attempt:
                self._grow()
            record = self._new_record(len(genomes)) if log is not None else None
            block = self._try_block(genomes, seeds, normalization, record)
            short = (block.overflow != 0) & ~block.failed
            if not bool(short.any()):
                break
        else:
            _LOGGER.warning("%d rows needed more room than %d doublings gave", int(short.sum()), _ATTEMPTS - 1)
            block.failed |= short
        if log is not None and record is not None:
            log.add(record, block.steps, block.terminated)
        return block

    def _grow(self) -> None:
        count = self._worlds.count
        del self._worlds  # its memory is wanted for the next
        self._make_worlds.grow()
        self._check_memory(count)
        self._worlds = self._make_worlds(count)

    def _try_block(
        self,
        genomes: Tensor,
        seeds: Sequence[int],
        normalization: tuple[np.ndarray, np.ndarray] | None,
        record: _Record | None,
    ) -> _Block:
        worlds, count = self._worlds, len(genomes)
        worlds.reset(range(count), seeds)
        self._population.load(range(count), genomes)
        block, shift, step = self._new_block(count), self._shift(normalization), -1
        ages = torch.zeros(count, dtype=torch.int64, device=worlds.device)
        patience = 1 if worlds.device.type == "cpu" else _PATIENCE
        for step in range(self._episode_length):
            observations = self._observe(ages, shift, block, step)
            actions = self._population.act(observations)
            rewards, terminated = worlds.step(actions)
            if record is not None:
                record.note(step, observations, actions, rewards)
            ages += 1
            self._note(block, rewards, terminated, step + 1)
            if step % patience == patience - 1 and not bool(block.alive.any()):
                break
        if record is not None:
            record.observations[step + 1] = self._observe(ages, shift)
        return block

    def _new_record(self, rows: int) -> _Record:
        sizes = self._policy.observation_size, self._policy.action_size
        return _Record(self._episode_length, rows, *sizes, self._worlds.device)

    def _observe(
        self, ages: Tensor, shift: tuple[Tensor, Tensor] | None, block: _Block | None = None, step: int = 0
    ) -> Tensor:
        """What policies see; the moments of what was seen, in the block that is given."""
        observations = self._worlds.observe(ages)
        if block is not None and block.mean is not None and block.deviation is not None:  # Welford 1962
            difference = observations - block.mean
            mean = block.mean + difference / (step + 1)
            alive = block.alive[:, None]
            block.deviation = torch.where(alive, block.deviation + difference * (observations - mean), block.deviation)
            block.mean = torch.where(alive, mean, block.mean)
        return observations if shift is None else normalize_(observations, *shift)

    def _note(self, block: _Block, rewards: Tensor, terminated: Tensor, steps: int) -> None:
        """What a step gave to those whose episodes are not over."""
        count, alive = len(rewards), block.alive
        block.fitness = torch.where(alive, block.fitness + rewards, block.fitness)
        block.descriptor = torch.where(alive[:, None], self._worlds.descriptors(count, steps), block.descriptor)
        block.failed |= alive & self._worlds.failures(count)
        block.overflow = torch.where(alive, self._worlds.overflows(count), block.overflow)
        block.terminated |= alive & terminated
        block.steps += alive
        # A broken world gives a NaN reward: it has nothing more to tell.
        block.alive = alive & ~terminated & ~torch.isnan(rewards)

    def _new_block(self, count: int) -> _Block:
        def zeros(*shape: int, dtype: torch.dtype = torch.float64) -> Tensor:
            return torch.zeros(count, *shape, dtype=dtype, device=self._worlds.device)

        size = self._policy.observation_size
        moments = [zeros(size), zeros(size)] if self._policy.settings.normalize_observations else [None, None]
        return _Block(
            alive=~zeros(dtype=torch.bool),
            fitness=zeros(),
            descriptor=zeros(self._dimensions),
            steps=zeros(dtype=torch.int64),
            failed=zeros(dtype=torch.bool),
            terminated=zeros(dtype=torch.bool),
            overflow=zeros(dtype=torch.int32),
            mean=moments[0],
            deviation=moments[1],
        )

    def _shift(self, normalization: tuple[np.ndarray, np.ndarray] | None) -> tuple[Tensor, Tensor] | None:
        if normalization is None:
            return None
        mean, var = normalization
        device = self._worlds.device
        return torch.from_numpy(mean.astype(np.float32)).to(device), deviation_of(var).to(device)
