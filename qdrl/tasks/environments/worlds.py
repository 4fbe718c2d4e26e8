"""Users' environments as worlds of a rollout."""

import weakref
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from qdrl.tasks.environments.failures import EpisodeFailure, FailureLog
from qdrl.tasks.environments.runners import Runner
from qdrl.tasks.episodes.worlds import EpisodeWorlds

_LARGEST_INPUT = float(np.finfo(np.float32).max)
_LARGEST_SEED = 2**31  # many environments take 32-bit seeds only


class GymWorlds(EpisodeWorlds):
    """Gymnasium environments, made on first use; see `qdrl.tasks.episodes.worlds.EpisodeWorlds`.

    Args:
        count: Maximum number of environments.
        start: Factory of the runner of a new environment.
        name: Name of the environment in messages.
        to_action: Function from a policy's output `(action_size,)` to an action.
        observations: dtype of the observation space.
        sizes: Length of an observation and of a descriptor.
        failures: Log of failed episodes.
    """

    def __init__(
        self,
        count: int,
        start: Callable[[], Runner],
        *,
        name: str,
        to_action: Callable[[np.ndarray], Any],
        observations: np.dtype,
        sizes: tuple[int, int],
        failures: FailureLog,
    ) -> None:
        observation_size, self._dimensions = sizes
        self.count = count
        self._start, self._name, self._to_action, self._failures = start, name, to_action, failures
        self._runners: list[Runner | None] = [None] * count
        kept = np.float64 if observations.kind == "f" else np.float32  # float64 keeps values that do not fit float32
        self._observations = np.zeros((count, observation_size), kept)
        self._seeds, self._steps = np.zeros(count, np.int64), np.zeros(count, np.int64)
        self._broken, self._terminated = np.zeros(count, bool), np.zeros(count, bool)
        self._of_slots = (self._observations, self._seeds, self._steps, self._broken, self._terminated)
        weakref.finalize(self, _close_all, self._runners)

    def reset(self, slots: Sequence[int], seeds: Sequence[int]) -> None:
        """Start a new episode in each of these worlds."""
        for slot, seed in zip(slots, seeds, strict=True):
            self._seeds[slot] = seed
            for values in (self._observations, self._steps, self._broken, self._terminated):
                values[slot] = 0
        fresh = [slot for slot in slots if self._runners[slot] is None and self._begin(slot)]
        for _ in self._each("open", fresh, [()] * len(fresh)):
            pass
        ready = [slot for slot in slots if not self._broken[slot]]
        arguments = [(int(self._seeds[slot]) % _LARGEST_SEED,) for slot in ready]
        for slot, observation in self._each("reset", ready, arguments):
            self._observations[slot] = observation
        self._fail_where_not_finite(list(slots))

    def observe(self, ages: Tensor) -> Tensor:
        """Return the observations of the first worlds."""
        return torch.from_numpy(self._observations[: len(ages)].astype(np.float32))

    def step(self, actions: Tensor) -> tuple[Tensor, Tensor]:
        """Apply actions; return rewards and terminated."""
        outputs = actions.numpy()
        rewards, ended = np.full(len(outputs), np.nan), np.ones(len(outputs), bool)
        for slot in np.flatnonzero(~np.isfinite(outputs).all(axis=1) & ~self._broken[: len(outputs)]).tolist():
            self._fail(slot, EpisodeFailure("raised", "the policy's output is not finite"))
        alive = np.flatnonzero(~self._broken[: len(outputs)]).tolist()
        for slot, step in self._each("step", alive, [(self._to_action(outputs[slot]),) for slot in alive]):
            self._observations[slot], rewards[slot] = step.observation, step.reward
            self._steps[slot] += 1
            self._terminated[slot], ended[slot] = step.terminated, step.terminated or step.truncated
        self._fail_where_not_finite(alive)
        rewards[self._broken[: len(outputs)]], ended[self._broken[: len(outputs)]] = np.nan, True
        return torch.from_numpy(rewards), torch.from_numpy(ended)

    def descriptor(self, slot: int, steps: int) -> Tensor:  # noqa: ARG002
        """Return the descriptor of an ended episode."""
        described = torch.full((self._dimensions,), torch.nan, dtype=torch.float64)
        if not self._broken[slot]:
            for _, numbers in self._each("describe", [slot], [()]):
                described = torch.from_numpy(numbers)
        return described

    def failed(self, slot: int) -> bool:
        """Return whether the simulation broke since the reset."""
        return bool(self._broken[slot])

    def truncated(self, slot: int) -> bool:
        """Return whether a time limit of the world ended its episode."""
        return not self._terminated[slot]

    def move(self, source: int, target: int) -> None:
        """Copy the state of world `source` into world `target`."""
        self._runners[source], self._runners[target] = self._runners[target], self._runners[source]
        for values in self._of_slots:
            values[[source, target]] = values[[target, source]]

    def close(self) -> None:
        """Close all environments."""
        _close_all(self._runners)

    def _begin(self, slot: int) -> bool:
        try:
            self._runners[slot] = self._start()
        except EpisodeFailure as failure:
            self._fail(slot, failure)
        return not self._broken[slot]

    def _each(self, call: str, slots: Sequence[int], arguments: Sequence[tuple[Any, ...]]) -> Iterator[tuple[int, Any]]:
        """Run a call in each of these slots; yield the slots in which it succeeded, with the results."""
        runners = [self._runners[slot] for slot in slots]
        for runner, given in zip(runners, arguments, strict=True):
            if runner is not None:
                runner.submit(call, *given)
        for slot, runner in zip(slots, runners, strict=True):
            try:
                if runner is not None:
                    yield slot, runner.result()
            except EpisodeFailure as failure:
                self._fail(slot, failure)

    def _fail_where_not_finite(self, slots: list[int]) -> None:
        """Mark episodes as failed whose latest observation is not finite in float32, the dtype of policies."""
        finite = (np.abs(self._observations[slots]) <= _LARGEST_INPUT).all(axis=1)
        for slot in np.array(slots, np.int64)[~finite & ~self._broken[slots]].tolist():
            self._observations[slot] = 0
            reason = "the environment returned an observation that is not finite or too large for float32"
            self._fail(slot, EpisodeFailure("raised", reason))

    def _fail(self, slot: int, failure: EpisodeFailure) -> None:
        """Mark an episode as failed and close its environment, which may be in any state."""
        self._broken[slot] = True
        self._failures.add(failure, environment=self._name, seed=int(self._seeds[slot]), steps=int(self._steps[slot]))
        if (runner := self._runners[slot]) is not None:
            self._runners[slot] = None
            runner.close()


def _close_all(runners: list[Runner | None]) -> None:
    for slot, runner in enumerate(runners):
        runners[slot] = None
        if runner is not None:
            runner.close()
