"""TD3's target, losses and first step compared with numbers computed by hand."""

from dataclasses import replace
from math import exp
from typing import Any

import numpy as np
import pytest
import torch

from qdrl.critics.replay_buffer import SampledTransitions
from qdrl.critics.settings import Td3Settings
from qdrl.critics.td3 import Td3
from qdrl.policies.mlp import Mlp, MlpSettings
from tests.critics.builders import buffer_of

NETWORKS = ("critic", "critic_target", "actor", "actor_target")
RATE, TAU = 3e-4, 0.005

# A critic has the inputs (action, observation, descriptor) and one ReLU unit; the actor is linear, clipped to [-1, 1].
# Rows: kernel of the unit, its bias, kernel of the output, its bias.
CRITIC = [[1.0, 2.0, 0.0, 0.5, 2.0, -1.0], [-1.0, 1.0, 0.0, 0.0, 3.0, 1.0]]
TARGET = [[1.0, 1.0, 0.0, 0.0, 1.0, 0.0], [0.5, 1.0, 0.0, 0.0, 1.0, 0.1]]
ACTOR, ACTOR_TARGET = [[0.5, 0.0, 0.0]], [[0.3, 0.0, 0.1]]


def by_hand(**settings: Any) -> Td3:
    settings = {"steps": 1, "batch_size": 1, "hidden_sizes": (1,), "noise": 0.0} | settings
    shape = Mlp(2, 1, MlpSettings(hidden_sizes=(), output="clip"))
    td3 = Td3(shape, 1, Td3Settings(**settings), np.random.default_rng(0))
    for name, rows in zip(NETWORKS, (CRITIC, TARGET, ACTOR, ACTOR_TARGET), strict=True):
        getattr(td3, name).copy_(torch.tensor(rows))
    return td3


def one_transition(
    aim: float = 0.1, terminated: bool = False, truncated: bool = False, descriptor: float = 0.1
) -> SampledTransitions:
    def column(value: float) -> torch.Tensor:
        return torch.tensor([[value]])

    return SampledTransitions(
        observation=column(0.5),
        action=column(0.2),
        reward=torch.tensor([1.0]),
        next_observation=column(1.0),
        terminated=torch.tensor([terminated]),
        truncated=torch.tensor([truncated]),
        descriptor=column(descriptor),
        target_descriptor=column(aim),
    )


# Q_1 = 2 * (0.2 + 2 * 0.5 + 0.5) - 1 = 2.4 and Q_2 = 3 * (-0.2 + 0.5) + 1 = 1.9.
# pi'(1) = 0.3 + 0.1 = 0.4; Q'_1 = 0.4 + 1 = 1.4 and Q'_2 = 0.2 + 1 + 0.1 = 1.3, the smaller one.
@pytest.mark.parametrize(
    ("transition", "target"),
    [
        (one_transition(), 1 + 0.99 * 1.3),
        (one_transition(descriptor=0.3), exp(-2) + 0.99 * 1.3),
        (one_transition(aim=-0.05), exp(-1.5) + 0.99 * 1.3),
        (one_transition(terminated=True), 1.0),
        (one_transition(terminated=True, truncated=True), 1.0),
    ],
)
def test_the_critics_loss_is_that_computed_by_hand(transition: SampledTransitions, target: float) -> None:
    counts = by_hand().train(buffer_of(transition), np.random.default_rng(0))
    assert counts["critic_loss"] == pytest.approx((2.4 - target) ** 2 + (1.9 - target) ** 2, rel=1e-5)


def test_the_actors_value_is_that_computed_by_hand() -> None:
    """pi(0.5) = 0.25, Q_1 = 2 * (0.25 + 1 + 0.5) - 1."""
    counts = by_hand().train(buffer_of(one_transition()), np.random.default_rng(0))
    assert counts["actor_value"] == pytest.approx(2.5, rel=1e-6)


def test_the_first_step_moves_every_weight_as_computed_by_hand() -> None:
    """Adam's first step is the learning rate, against the gradient's sign; Q_1 is too high, Q_2 too low."""
    td3 = by_hand()
    td3.train(buffer_of(one_transition()), np.random.default_rng(0))
    signs = torch.tensor([[1.0, 1, 1, 1, 1, 1], [-1, -1, -1, -1, -1, -1]])
    critic = torch.tensor(CRITIC) - RATE * signs
    actor = torch.tensor(ACTOR) + RATE
    torch.testing.assert_close(td3.critic, critic, rtol=0, atol=1e-7)
    torch.testing.assert_close(td3.actor, actor, rtol=0, atol=1e-7)
    target, actor_target = torch.tensor(TARGET), torch.tensor(ACTOR_TARGET)
    torch.testing.assert_close(td3.critic_target, target + TAU * (critic - target), rtol=0, atol=1e-6)
    torch.testing.assert_close(td3.actor_target, actor_target + TAU * (actor - actor_target), rtol=0, atol=1e-6)


def test_gradients_are_those_computed_by_hand() -> None:
    """Adam's mean is a tenth of its first gradient; only the mean shows the scale of the gradient."""
    td3 = by_hand()
    td3.train(buffer_of(one_transition()), np.random.default_rng(0))
    state = td3.state_dict()
    # 2 (Q - y) times the derivatives by the output's bias, its kernel and the unit's bias; units are 1.7 and 0.3.
    errors = np.array([2.4 - 2.287, 1.9 - 2.287])
    expected = 0.2 * errors[:, None] * np.array([[2.0, 1.7, 1.0], [3.0, 0.3, 1.0]])
    np.testing.assert_allclose(state["critic_adam"]["mean"][:, 3:], expected, rtol=1e-5)
    # Q_1 rises by 2 with the action, the action by 0.5, 0.1 and 1 with the actor's weights.
    np.testing.assert_allclose(state["actor_adam"]["mean"], [[-0.1, -0.02, -0.2]], rtol=1e-5)


@pytest.mark.parametrize("aim", [0.1, 0.9])
def test_smoothing_noise_is_scaled_cut_and_added_to_the_next_action(aim: float) -> None:
    """The noise is so large that every draw is clipped at 0.25, and the sum with pi'(1) = 0.9 at 1."""
    td3 = by_hand(noise=1e6, noise_clip=0.25)
    td3.actor_target.copy_(torch.tensor([[aim, 0.0, 0.0]]))
    counts = td3.train(buffer_of(one_transition()), np.random.default_rng(0))
    up = np.random.default_rng(0)
    up.integers(1, size=(1, 1))
    action = min(aim + 0.25 * np.sign(up.standard_normal()), 1.0)
    target = 1 + 0.99 * min(action + 1, 0.5 * action + 1.1)
    assert counts["critic_loss"] == pytest.approx((2.4 - target) ** 2 + (1.9 - target) ** 2, rel=1e-5)


def mixed(count: int = 40) -> SampledTransitions:
    """Return copies of one transition, every fourth of them truncated."""
    single = one_transition()
    columns = {name: value.repeat(count, *[1] * (value.ndim - 1)) for name, value in vars(single).items()}
    return replace(SampledTransitions(**columns), truncated=torch.arange(count) % 4 == 0)


def test_masked_steps_have_no_loss_and_the_mean_is_over_the_whole_batch() -> None:
    td3, buffer = by_hand(batch_size=40), buffer_of(mixed())
    share = float((buffer.draw(np.random.default_rng(5), (1, 40)) % 4 != 0).float().mean())
    counts = td3.train(buffer, np.random.default_rng(5))
    target = 1 + 0.99 * 1.3
    assert 0 < share < 1
    assert counts["critic_loss"] == pytest.approx(share * ((2.4 - target) ** 2 + (1.9 - target) ** 2), rel=1e-5)


def test_a_batch_of_masked_steps_leaves_the_critics_as_they_were() -> None:
    td3 = by_hand()
    counts = td3.train(buffer_of(one_transition(truncated=True)), np.random.default_rng(0))
    assert counts["critic_loss"] == 0
    assert torch.equal(td3.critic, torch.tensor(CRITIC))
    assert not torch.equal(td3.actor, torch.tensor(ACTOR))


def test_bootstrapped_steps_count_like_any_other() -> None:
    cut, plain = (by_hand(truncation="bootstrap") for _ in range(2))
    found = cut.train(buffer_of(one_transition(truncated=True)), np.random.default_rng(0))
    assert found == plain.train(buffer_of(one_transition()), np.random.default_rng(0))
    assert torch.equal(cut.critic, plain.critic)
