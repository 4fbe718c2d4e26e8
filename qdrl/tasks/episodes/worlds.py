"""The interface of the worlds that a task's policies act in."""

from abc import abstractmethod
from collections.abc import Sequence
from typing import Protocol

from torch import Tensor


class EpisodeWorlds(Protocol):
    """Worlds of a task in a rollout; world i belongs to slot i.

    Tensors are batched over the first n slots, where n may be smaller than `count`: worlds of finished episodes are
    moved to the end and left out. A world's results must not depend on the other worlds.

    Attributes:
        count: Number of worlds.
    """

    count: int

    @abstractmethod
    def reset(self, slots: Sequence[int], seeds: Sequence[int]) -> None:
        """Start a new episode in each of these worlds; its random numbers depend only on its seed."""
        ...

    @abstractmethod
    def observe(self, ages: Tensor) -> Tensor:
        """Return the observations of the first `len(ages)` worlds, `(n, observation_size)` float32.

        Args:
            ages: `(n,)` int64 control steps since each world's reset.

        Returns:
            A tensor that the caller does not change; it may be the state itself.
        """
        ...

    @abstractmethod
    def step(self, actions: Tensor) -> tuple[Tensor, Tensor]:
        """Apply actions `(n, action_size)` float32; return rewards `(n,)` float64 and terminated `(n,)` bool."""
        ...

    @abstractmethod
    def descriptor(self, slot: int, steps: int) -> Tensor:
        """Return the descriptor `(d,)` float64 of the episode in a world that ended after `steps`; NaN if it failed."""
        ...

    def failed(self, slot: int) -> bool:  # noqa: ARG002
        """Return whether the simulation broke since the world's reset; if so, the evaluation has failed."""
        return False

    def truncated(self, slot: int) -> bool:  # noqa: ARG002
        """Return whether an episode that `step` reported as terminated was truncated by the world's own time limit."""
        return False

    @abstractmethod
    def move(self, source: int, target: int) -> None:
        """Copy the state of world `source` into world `target`."""
        ...

    def close(self) -> None:
        """Release resources besides memory; called once, after the last episode."""


class ForwardingWorlds(EpisodeWorlds):
    """Worlds that pass every call on to other worlds; subclasses override what they observe or change.

    Args:
        worlds: The other worlds.
    """

    def __init__(self, worlds: EpisodeWorlds) -> None:
        self.count = worlds.count
        self._worlds = worlds

    def reset(self, slots: Sequence[int], seeds: Sequence[int]) -> None:
        """Start a new episode in each of these worlds."""
        self._worlds.reset(slots, seeds)

    def observe(self, ages: Tensor) -> Tensor:
        """Return the observations of the first worlds."""
        return self._worlds.observe(ages)

    def step(self, actions: Tensor) -> tuple[Tensor, Tensor]:
        """Apply actions; return rewards and terminated."""
        return self._worlds.step(actions)

    def descriptor(self, slot: int, steps: int) -> Tensor:
        """Return the descriptor of an ended episode."""
        return self._worlds.descriptor(slot, steps)

    def failed(self, slot: int) -> bool:
        """Return whether the simulation broke since the reset."""
        return self._worlds.failed(slot)

    def truncated(self, slot: int) -> bool:
        """Return whether a time limit of the world ended its episode."""
        return self._worlds.truncated(slot)

    def move(self, source: int, target: int) -> None:
        """Copy the state of world `source` into world `target`."""
        self._worlds.move(source, target)

    def close(self) -> None:
        """Release the resources of the worlds."""
        self._worlds.close()
