"""Check whether an environment gives the same episode for the same seed, as replays of elites need."""

from collections.abc import Callable

import numpy as np
from gymnasium.spaces import Discrete, Space

from qdrl.tasks.environments.failures import EpisodeFailure
from qdrl.tasks.environments.runners import Runner

_STEPS = 10
_SEED, _OTHER_SEED = 1, 2

Record = list[bytes]
"""Observations and rewards of an episode as bytes."""


def why_not_repeatable(start: Callable[[], Runner]) -> str | None:
    """Return the reason why elites cannot be replayed exactly, or None if the check finds none.

    The check runs four episodes of a few steps: one with seed A, one with seed B and again one with seed A in the same
    environment, and one with seed A in a new environment. Environments that fail are not checked.

    Args:
        start: Factory of runners of the environment.

    Returns:
        One line, or None.
    """
    first = second = None
    try:
        first = start()
        first.submit("open")
        facts = first.result()
        before = _play(first, facts.action_space, _SEED)
        _play(first, facts.action_space, _OTHER_SEED)
        after = _play(first, facts.action_space, _SEED)
        second = start()
        second.submit("open")
        second.result()
        fresh = _play(second, facts.action_space, _SEED)
    except EpisodeFailure:
        return None
    finally:
        for runner in (first, second):
            if runner is not None:
                runner.close()
    if before == after == fresh:
        return None
    if before == fresh:
        keeps = [name for name in facts.wrappers if "Normalize" in name]
        place = f", as its wrapper {', '.join(keeps)} does" if keeps else ""
        reason = f"keeps state from one episode to the next{place}"
    else:
        reason = "gave different episodes for the same seed and actions"
    return (
        f"{facts.id} {reason}: its elites cannot be rerun exactly, and results depend on numbers of ranks and worlds;"
        " policy.normalize_observations = true normalises observations without that"
    )


def _play(runner: Runner, space: Space, seed: int) -> Record:
    """Run a short episode with random actions and return its record."""
    generator = np.random.default_rng(seed)
    runner.submit("reset", seed)
    record = [runner.result().tobytes()]
    for _ in range(_STEPS):
        runner.submit("step", _random_action(space, generator))
        step = runner.result()
        record += [step.observation.tobytes(), np.float64(step.reward).tobytes()]
        if step.terminated or step.truncated:
            break
    return record


def _random_action(space: Space, generator: np.random.Generator) -> object:
    """Return a uniformly random action of a Discrete or bounded space."""
    if isinstance(space, Discrete):
        return int(space.start) + int(generator.integers(space.n))
    return generator.uniform(space.low, space.high).astype(space.dtype)  # pyright: ignore[reportAttributeAccessIssue]
