"""Checks of what the algorithms with critics need from a task and from their settings."""

from collections.abc import Mapping

import numpy as np

from qdrl.algorithms.critic_guided_settings import CriticGuidedSettings
from qdrl.errors import UserError
from qdrl.policies.mlp import Mlp
from qdrl.tasks.base import Task
from qdrl.tasks.episodic import EpisodicTask


def policy_of(task: Task, algorithm: str) -> Mlp:
    """Return the shape of a task's policies.

    Raises:
        UserError: a deterministic actor-critic method cannot train policies of this task.
    """
    if not isinstance(task, EpisodicTask):
        raise UserError(f"algorithm.name: {algorithm} needs a task whose genomes are policies, not {task.spec.name}")
    if not isinstance(task.policy, Mlp):
        raise UserError(f"policy.kind: {algorithm} needs 'mlp', not '{task.policy.settings.kind}'")
    if task.spec.discrete:
        raise UserError(f"algorithm.name: {algorithm} needs continuous actions, those of {task.spec.name} are discrete")
    if task.policy.settings.output == "linear":
        raise UserError(f"policy.output: {algorithm} needs actions within [-1, 1]: 'tanh' or 'clip', not 'linear'")
    return task.policy


def reward_offset_of(task: Task, settings: CriticGuidedSettings, *, conditioned: bool) -> float | None:
    """Return the offset of rewards; None if they are left unchanged.

    Args:
        task: gives the default.
        settings: of the algorithm.
        conditioned: whether its critics take a descriptor as input.

    Raises:
        UserError: the critics need an offset and there is none, or rewards contain one already.
    """
    if settings.reward_offset and task.spec.included_offset:
        raise UserError(
            f"algorithm.reward_offset: {settings.reward_offset:g} would be added to rewards that contain"
            f" {task.spec.included_offset:g} by task.offset_in_fitness; leave it out"
        )
    if settings.reward_offset is not None or not conditioned:
        return settings.reward_offset
    if task.spec.reward_offset is None:
        raise UserError(
            f"algorithm.reward_offset: {settings.name} needs rewards >= 0, because it scales them by the"
            f" distance to the target descriptor; task '{task.spec.name}' states no offset, set one"
        )
    return task.spec.reward_offset


def check_rows(settings: CriticGuidedSettings, policy: Mlp) -> None:
    """Check the rows of a generation.

    Raises:
        UserError: there are more learners than rows, or an actor with other layers than the policies' is used as a
            genome or evaluated in the generation of the children.
    """
    children, probes = settings.batch_size, settings.probe_rows
    if settings.learners > (least := min(children, probes) if settings.probes_apart else children + probes):
        raise UserError(f"algorithm.learners: at most {least} (rows of a generation), got {settings.learners}")
    actor = policy.resized(settings.critic.actor_hidden_sizes)
    if actor is policy:
        return
    found = f"{list(actor.settings.hidden_sizes)} differ from policy.hidden_sizes {list(policy.settings.hidden_sizes)}"
    if settings.actor_rows:
        raise UserError(
            f"algorithm.critic.actor_hidden_sizes: {found}, so that the actor is no genome: set actor_rows = 0 or equal"
            " sizes"
        )
    if probes and not settings.probes_apart:
        raise UserError(
            f"algorithm.critic.actor_hidden_sizes: {found}, so that probes need a generation of their own: set"
            " probe_order = 'after_children'"
        )


def check_negatives(settings: CriticGuidedSettings, *, conditioned: bool) -> None:
    """Check that negatives differ from the transitions they repeat.

    Raises:
        UserError: `flipped_negatives` is set, but the critics take no descriptor as input.
    """
    if settings.critic.flipped_negatives and not conditioned:
        raise UserError(
            f"algorithm.critic.flipped_negatives: the critics of {settings.name} take no descriptor, so that half of"
            " each minibatch would repeat the other half: remove the setting"
        )


def check_learned(learned: Mapping[str, np.ndarray], expected: Mapping[str, tuple[int, ...]]) -> None:
    """Check the shapes of a training's arrays in a checkpoint.

    Raises:
        ValueError: an array has another shape than the expected one.
    """
    for name, array in learned.items():
        if array.shape != expected[name] or array.ndim > 3:
            raise ValueError(f"the learned {name} has shape {array.shape}, expected {expected[name]}")
