"""From transitions of a generation to labelled transitions of the replay buffer."""

from typing import Any

import torch
from torch import Tensor

from qdrl.compute.arrays import all_finite
from qdrl.critics.replay_buffer import COLUMNS, IndexedRows, LabelledTransitions
from qdrl.evaluation import Transitions


def drop_nonfinite(transitions: Transitions) -> Transitions:
    """Return the transitions without steps that hold NaN or infinity, which a user's environment may give."""
    observations, action, reward = transitions.observations, transitions.action, transitions.reward
    if all_finite(observations) and all_finite(action) and all_finite(reward):
        return transitions
    finite = torch.isfinite(observations).all(dim=1)
    kept = finite[transitions.index] & finite[transitions.index + 1]
    return transitions.select(kept & torch.isfinite(action).all(dim=1) & torch.isfinite(reward))


def label(
    transitions: Transitions, offset: float | None, descriptor: Tensor, target_descriptor: Tensor
) -> LabelledTransitions:
    """Return transitions with the descriptors of their rows; observations are not copied.

    Args:
        transitions: transitions of a generation.
        offset: added to rewards, which are then clipped to at least 0; None leaves rewards unchanged.
        descriptor: `(rows, d)` reached by each row of the generation, normalised.
        target_descriptor: `(rows, d)` target of each row, normalised.
    """
    reward = transitions.reward if offset is None else (transitions.reward + offset).clamp(min=0)
    descriptor, target_descriptor = descriptor.to(reward.device), target_descriptor.to(reward.device)
    return LabelledTransitions(
        observation=IndexedRows(transitions.observations, transitions.index),
        action=transitions.action,
        reward=reward,
        next_observation=IndexedRows(transitions.observations, transitions.index + 1),
        terminated=transitions.terminated,
        truncated=transitions.truncated,
        descriptor=descriptor[transitions.row],
        target_descriptor=target_descriptor[transitions.row],
    )


def concatenate(first: LabelledTransitions, second: LabelledTransitions) -> LabelledTransitions:
    """Return the transitions of both, which share their observations; these are not copied.

    Raises:
        ValueError: the observations are not shared.
    """
    columns: dict[str, Any] = {name: _joined(vars(first)[name], vars(second)[name]) for name in COLUMNS}
    return LabelledTransitions(**columns)


def _joined(first: Tensor | IndexedRows, second: Tensor | IndexedRows) -> Tensor | IndexedRows:
    if isinstance(first, Tensor) and isinstance(second, Tensor):
        return torch.cat([first, second])
    if isinstance(first, IndexedRows) and isinstance(second, IndexedRows) and first.source is second.source:
        return IndexedRows(first.source, torch.cat([first.index, second.index]))
    raise ValueError("only transitions of one generation can be concatenated: they share their observations")
