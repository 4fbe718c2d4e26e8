"""Minibatches with artificial negatives, compared with numbers computed by hand."""

from math import exp

import numpy as np
import pytest
import torch

from qdrl.algorithms.critic_guided_settings import CriticGuidedSettings
from qdrl.critics.minibatches import MinibatchSampler
from qdrl.critics.replay_buffer import SampledTransitions
from qdrl.critics.settings import Td3Settings
from tests.critics.builders import buffer_of

# Two transitions; the first reached 0.1 and had the target 0.1, the second reached 0.5 and had the target 0.3.
REACHED, AIM, REWARD = (0.1, 0.5), (0.1, 0.3), (2.0, 3.0)
SCALE = 0.4
FACTOR = {
    (0, 0): 1.0,
    (1, 1): exp(-0.5),
    (0, 1): exp(-0.5),
    (1, 0): exp(-1.0),
}  # S of (transition, transition of target)


def column(*values: float) -> torch.Tensor:
    return torch.tensor(values)[:, None]


def test_flipped_negatives_are_the_same_transitions_with_targets_in_reverse_order() -> None:
    buffer = buffer_of(
        SampledTransitions(
            observation=column(0.0, 1.0),
            action=column(0.25, 0.75),
            reward=torch.tensor(REWARD),
            next_observation=column(10.0, 11.0),
            terminated=torch.tensor([False, True]),
            truncated=torch.tensor([True, False]),
            descriptor=column(*REACHED),
            target_descriptor=column(*AIM),
        )
    )
    settings = Td3Settings(batch_size=4, length_scale=SCALE, flipped_negatives=True)
    (chunk,) = MinibatchSampler(settings, 4, 1).chunks(buffer, np.random.default_rng(1), steps=20)
    kinds = set()
    for step in chunk.unbind():
        first, second = step.inputs[:2, 1].int().tolist()  # an observation is the number of its transition
        kinds.add((first, second))
        pairs = [(first, first), (second, second), (first, second), (second, first)]
        expected = [(0.25 + 0.5 * one, float(one), AIM[other]) for one, other in pairs]
        torch.testing.assert_close(step.inputs, torch.tensor(expected))
        torch.testing.assert_close(step.next_states, torch.tensor([(10.0 + one, AIM[other]) for one, other in pairs]))
        torch.testing.assert_close(step.reward, column(*(FACTOR[pair] * REWARD[pair[0]] for pair in pairs)))
        assert step.discount[:, 0].tolist() == pytest.approx([0.0 if one else 0.99 for one, _ in pairs])
        assert step.weight[:, 0].tolist() == [float(one) for one, _ in pairs]
        assert len(set(step.noise[:, 0].tolist())) > 2  # the halves have noise of their own
    assert kinds == {(0, 0), (0, 1), (1, 0), (1, 1)}


def test_half_a_minibatch_of_each_shard_must_be_whole() -> None:
    with pytest.raises(ValueError, match=r"critic.batch_size \(15\) must be a multiple of 2, twice the learners"):
        CriticGuidedSettings(critic=Td3Settings(batch_size=15, flipped_negatives=True))
    with pytest.raises(ValueError, match=r"critic.batch_size \(100\) must be a multiple of 8, twice the learners"):
        CriticGuidedSettings(learners=4, critic=Td3Settings(flipped_negatives=True))
