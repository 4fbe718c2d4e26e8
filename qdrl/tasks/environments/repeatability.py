"""Whether an environment plays the same episode again: what an elite needs to be replayed."""

from collections.abc import Callable

import numpy as np
from gymnasium.spaces import Discrete, Space

from qdrl.tasks.environments.failures import EpisodeFailure
from qdrl.tasks.environments.runners import Runner

_STEPS = 10
_SEED, _OTHER_SEED = 1, 2

Record = list[bytes]
"""The bits of an episode's observations, rewards and ends."""


def why_not_repeatable(start: Callable[[], Runner]) -> str | None:
    """Run a few steps of four short episodes and return why elites will not replay; None when they do as far as seen.

    The episode of one seed is run in an environment, once more there after an episode of another seed, and in a fresh
    environment. Environments that fail are not checked.

    Args:
        start: makes runners of the environment in question.
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
        f"{facts.id} {reason}: its elites will not replay and results depend on the number of ranks and worlds;"
        " policy.normalize_observations = true normalises observations without that"
    )


def _play(runner: Runner, space: Space, seed: int) -> Record:
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
