"""Episodes of many genomes on a device: all worlds begin together and step together until the last episode is over.

Nothing waits for the device within an episode: a world whose episode has ended goes on, and what it does no longer
counts. Where the device is the CPU, which there is nothing to wait for, a batch ends with its last episode.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from qdrl.evaluation import Genomes, ObservationMoments, Transitions
from qdrl.physics.gpu import Overflow, check_memory
from qdrl.policies.mlp import Mlp
from qdrl.policies.normalizer import deviation_of, normalize_
from qdrl.tasks.rollout import Episodes


class DeviceWorlds(Protocol):
    """A task's worlds on a device; `observe` and `step` are those of `qdrl.tasks.rollout.EpisodeWorlds`."""

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

    def check(self, count: int) -> None:
        """Raise `Overflow` if one of the first worlds ran out of room for contacts."""
        ...


class WorldMaker(Protocol):
    """Makes a number of worlds on a device; `bytes_each` is what one takes of its memory."""

    device: torch.device

    @property
    def bytes_each(self) -> int: ...

    def __call__(self, count: int, /) -> DeviceWorlds: ...


@dataclass
class _Block:
    """What is known of the episodes of a block of rows, on the device."""

    alive: Tensor
    fitness: Tensor
    descriptor: Tensor
    steps: Tensor
    failed: Tensor
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
    """Control steps of a batch on a device; `transitions` is that of `qdrl.tasks.transitions.TransitionLog`."""

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
        time = torch.arange(length, device=steps.device)
        last = time == steps[:, None] - 1
        self._parts.append(
            {
                "taken": time < steps[:, None],
                "row": (self._rows + torch.arange(rows, device=steps.device))[:, None].expand(rows, length),
                "observation": record.observations[:-1].transpose(0, 1),
                "action": record.actions.transpose(0, 1),
                "reward": record.rewards.T,
                "next_observation": record.observations[1:].transpose(0, 1),
                "terminated": last & terminated[:, None],
                "truncated": last & ~terminated[:, None],
            }
        )
        self._rows += rows

    def transitions(self, first_row: int, failed: np.ndarray) -> Transitions:
        """All of them in order of row and time, without rows that failed."""
        columns: dict[str, list[Tensor]] = {}
        row = 0
        for part in self._parts:
            count = len(part["taken"])
            failures = torch.from_numpy(failed[row : row + count]).to(part["taken"].device)
            taken = part["taken"] & ~failures[:, None]
            for name, values in part.items():
                if name != "taken":
                    columns.setdefault(name, []).append(values[taken])
            row += count
        joined = {name: torch.cat(values).cpu() for name, values in columns.items()}
        return Transitions(**{**joined, "row": joined["row"] + first_row})


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
        self._policy, self._most = policy, count
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
        worlds = min(len(genomes), self._most)
        if keep_transitions:
            self._check_memory(worlds, keep_transitions=True)
        if self._worlds.count < worlds:
            self._prepare(worlds)
        log = DeviceLog() if keep_transitions else None
        blocks = [
            self._run_block(genomes[first : first + self._worlds.count], seeds[first : first + self._worlds.count],
                            normalization, log)
            for first in range(0, len(genomes), self._worlds.count)
        ] or [self._new_block(0)]  # fmt: skip

        def joined(name: str) -> Tensor:
            return torch.cat([getattr(block, name) for block in blocks]).cpu()

        steps = joined("steps")
        moments = None
        if self._policy.settings.normalize_observations:
            moments = ObservationMoments(steps, joined("mean"), joined("deviation"))
        return Episodes(joined("fitness"), joined("descriptor"), steps, joined("failed"), moments, log)

    def _check_memory(self, worlds: int, *, keep_transitions: bool = False) -> None:
        each = self._make_worlds.bytes_each + 4 * self._policy.parameters
        if keep_transitions:  # as steps of a batch, and again as transitions with the next observation
            step = 3 * self._policy.observation_size + 2 * self._policy.action_size + 4
            each += 4 * self._episode_length * step
        check_memory(worlds, each, self._make_worlds.device)

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
        while True:
            try:
                return self._try_block(genomes, seeds, normalization, log)
            except Overflow:
                self._worlds = self._make_worlds(self._worlds.count)

    def _try_block(
        self,
        genomes: Tensor,
        seeds: Sequence[int],
        normalization: tuple[np.ndarray, np.ndarray] | None,
        log: DeviceLog | None,
    ) -> _Block:
        """Episodes of as many rows as there are worlds, or fewer; when it raises `Overflow`, nothing was logged."""
        worlds, count, length = self._worlds, len(genomes), self._episode_length
        device, sizes = worlds.device, (self._policy.observation_size, self._policy.action_size)
        worlds.reset(range(count), seeds)
        self._population.load(range(count), genomes)
        block, shift = self._new_block(count), self._shift(normalization)
        ages, waits = torch.zeros(count, dtype=torch.int64, device=device), device.type != "cpu"
        record = None if log is None else _Record(length, count, *sizes, device)
        over = torch.zeros(count, dtype=torch.bool, device=device)
        for step in range(length):
            observations = self._observe(ages, shift, block, step)
            actions = self._population.act(observations)
            rewards, terminated = worlds.step(actions)
            if record is not None:
                record.note(step, observations, actions, rewards)
            ages += 1
            over |= block.alive & terminated
            self._note(block, rewards, terminated, step + 1)
            if not waits and not bool(block.alive.any()):
                break
        worlds.check(count)
        if log is not None and record is not None:
            record.observations[step + 1] = self._observe(ages, shift)
            log.add(record, block.steps, over)
        return block

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
            mean=moments[0],
            deviation=moments[1],
        )

    def _shift(self, normalization: tuple[np.ndarray, np.ndarray] | None) -> tuple[Tensor, Tensor] | None:
        if normalization is None:
            return None
        mean, var = normalization
        device = self._worlds.device
        return torch.from_numpy(mean.astype(np.float32)).to(device), deviation_of(var).to(device)
