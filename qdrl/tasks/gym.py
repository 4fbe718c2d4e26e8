"""`gym:<id>`: any Gymnasium environment (https://arxiv.org/abs/2407.17032) with a user's descriptor function.

Settings name the function as `package.module:function`. It takes a `Trajectory` and returns one number per axis. If the
environment or the function raises an exception, that evaluation has failed and the run continues; see
`qdrl.tasks.environments`.
"""

import inspect
import weakref
from collections.abc import Callable
from functools import partial
from multiprocessing.reduction import ForkingPickler
from typing import Any

import gymnasium
import numpy as np
from gymnasium.spaces import Box, Discrete

from qdrl.archives.axes import Axis
from qdrl.compute.arithmetic import Arithmetic
from qdrl.errors import UserError
from qdrl.naming import load_reference
from qdrl.provenance.source_code import definition_of, is_users
from qdrl.tasks.base import TaskSetup, TaskSpec
from qdrl.tasks.environments.episode import EnvironmentFacts, EpisodePlan
from qdrl.tasks.environments.failures import EpisodeFailure, FailureLog
from qdrl.tasks.environments.ids import require_environment
from qdrl.tasks.environments.isolation import Nursery, ProcessRunner
from qdrl.tasks.environments.repeatability import why_not_repeatable
from qdrl.tasks.environments.runners import DirectRunner, Runner, ThreadRunner
from qdrl.tasks.environments.trajectory import Trajectory
from qdrl.tasks.environments.worlds import GymWorlds
from qdrl.tasks.episodic import EpisodicTask
from qdrl.tasks.settings import GymSettings

__all__ = ["Trajectory", "make_gym_task"]


def make_gym_task(settings: GymSettings, setup: TaskSetup) -> EpisodicTask:
    """Return the task that settings describe.

    Args:
        settings: Settings of the task.
        setup: How the task computes.

    Raises:
        UserError: There is no such environment or function, the bounds are unusable, or policies do not support the
            observation or action space.
    """
    describe = load_reference(settings.descriptor)
    _check_descriptor_function(describe, settings.descriptor)
    require_environment(settings.name.removeprefix("gym:"))
    plan = _plan_of(settings, isolate=setup.isolate)
    start = _starter(plan, setup.episode_seconds, isolate=setup.isolate)
    probe, facts = _probe(plan, start)
    try:
        spec = _spec_of(settings, facts, setup.arithmetic)
    except UserError:
        probe.close()
        raise
    spare, failures = [probe], FailureLog()
    task = EpisodicTask(
        spec,
        _world_maker(spec, facts, lambda: spare.pop() if spare else start(), failures),
        policy=setup.policy_of(discrete=spec.discrete),
        worlds=setup.worlds,
        failures=failures,
        find_warning=lambda: why_not_repeatable(start),
        code=_code(settings, facts, describe),
    )
    weakref.finalize(task, _close, spare)
    return task


def _plan_of(settings: GymSettings, *, isolate: bool) -> EpisodePlan:
    name = settings.name.removeprefix("gym:")
    return EpisodePlan(
        environment=name,
        kwargs=settings.kwargs,
        descriptor=settings.descriptor,
        dimensions=len(settings.axes),
        keep_all=settings.keep_observations != "last",
        registered=gymnasium.registry.get(name.rpartition(":")[2]) if isolate else None,
    )


def _world_maker(
    spec: TaskSpec, facts: EnvironmentFacts, start: Callable[[], Runner], failures: FailureLog
) -> Callable[[int], GymWorlds]:
    """Return a factory of worlds."""
    return partial(
        GymWorlds,
        start=start,
        name=spec.name,
        to_action=_action_of(facts.action_space),
        observations=facts.observation_space.dtype,
        sizes=(spec.observation_size, len(spec.axes)),
        failures=failures,
    )


def _close(runners: list[Runner]) -> None:
    while runners:
        runners.pop().close()


def _starter(plan: EpisodePlan, seconds: float | None, *, isolate: bool) -> Callable[[], Runner]:
    """Return a factory of runners of a plan."""
    if isolate:
        nursery = Nursery()
        _check_it_travels(plan)
        return lambda: ProcessRunner(plan, seconds, nursery)
    if seconds is not None:
        return lambda: ThreadRunner(plan, seconds)
    return lambda: DirectRunner(plan)


def _probe(plan: EpisodePlan, start: Callable[[], Runner]) -> tuple[Runner, EnvironmentFacts]:
    """Make the first environment; return its runner and its properties."""
    runner = None
    try:
        runner = start()
        runner.submit("open")
        return runner, runner.result()
    except EpisodeFailure as failure:
        if runner is not None:
            runner.close()
        reason = failure.reason.removeprefix("the environment raised ")
        raise UserError(f"task.name: gymnasium cannot make '{plan.environment}': {reason}") from failure


def _check_it_travels(plan: EpisodePlan) -> None:
    """Check that a plan can be pickled for a worker process."""
    try:
        ForkingPickler.dumps(plan)
    except Exception as error:
        raise UserError(
            f"compute.isolate: '{plan.environment}' cannot be made in a worker process: {error};"
            " register it with entry_point='module:Class' and plain keyword arguments"
        ) from error


def _spec_of(settings: GymSettings, facts: EnvironmentFacts, arithmetic: Arithmetic) -> TaskSpec:
    """Return the description of the task.

    Raises:
        UserError: Policies do not support the environment's spaces, or the episode length is unknown.
    """
    length = settings.episode_length or facts.max_episode_steps
    if length is None:
        raise UserError(f"task.episode_length: '{facts.id}' has no limit of its own; set one")
    if not isinstance(facts.observation_space, Box):
        raise UserError(f"task.name: '{facts.id}' observes {facts.observation_space}; policies need a Box")
    settings = settings.model_copy(update={"name": f"gym:{facts.id}"})
    return TaskSpec(
        name=settings.name,
        summary=f"Gymnasium's {facts.id}, described by {settings.descriptor}.",
        axes=tuple(Axis(axis.name, axis.unit, axis.lower, axis.upper) for axis in settings.axes),
        fitness_name=f"return of {facts.id}",
        episode_length=length,
        qd_offset=settings.qd_offset,
        reward_offset=settings.reward_offset,
        observation="the environment's, flattened",
        observation_size=_size(facts.observation_space),
        action_size=_action_size(facts.action_space, facts.id),
        discrete=isinstance(facts.action_space, Discrete),
        initial_noise="the environment's own, seeded by the evaluation",
        options=settings.model_dump(exclude_none=True),
        arithmetic=arithmetic,
        gymnasium={"id": facts.id, "kwargs": settings.kwargs},
    )


def _code(settings: GymSettings, facts: EnvironmentFacts, describe: Any) -> tuple[str, ...]:
    """Return references to the user code that an evaluation runs: descriptor function and environment."""
    others = (definition_of(describe), facts.entry_point)
    return tuple(dict.fromkeys([settings.descriptor, *(name for name in others if name and is_users(name))]))


def _check_descriptor_function(describe: Any, name: str) -> None:
    if not callable(describe):
        raise UserError(f"task.descriptor: '{name}' is not a function")
    try:
        inspect.signature(describe).bind(None)
    except TypeError as error:
        raise UserError(f"task.descriptor: '{name}' must take one argument, the trajectory: {error}") from error
    except ValueError:  # functions written in C may have no signature
        return


def _size(space: gymnasium.Space) -> int:
    return int(np.prod(space.shape or ()))


def _action_size(space: gymnasium.Space, environment_id: str) -> int:
    if isinstance(space, Discrete):
        return int(space.n)
    if isinstance(space, Box) and np.isfinite(space.low).all() and np.isfinite(space.high).all():
        return _size(space)
    raise UserError(f"task.name: '{environment_id}' takes {space}; policies need Discrete or a bounded Box")


def _action_of(space: gymnasium.Space) -> Callable[[np.ndarray], Any]:
    """Return the function from a policy's output to an action.

    A discrete action is the index of the largest output. A continuous action is the output, clipped to [-1, 1] and
    scaled linearly to the bounds of the box.
    """
    if isinstance(space, Discrete):
        return lambda output: int(space.start) + int(np.argmax(output))
    assert isinstance(space, Box)  # noqa: S101 - `_action_size` refused everything else
    low, high = space.low.astype(np.float64), space.high.astype(np.float64)
    middle, half = (high + low) / 2, (high - low) / 2

    def stretched(output: np.ndarray) -> np.ndarray:
        within = np.minimum(np.maximum(output, -1), 1).reshape(space.shape)  # np.clip takes five times as long
        action = (middle + half * within).astype(space.dtype)
        return np.minimum(np.maximum(action, space.low), space.high)

    return stretched
