"""Policy-gradient variation compared with the reference implementation."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import settings as limits
from hypothesis import strategies as st
from torch import Tensor

from qdrl.critics.injection import conditioned
from qdrl.critics.reference import reference_offspring, to_network
from qdrl.critics.settings import PolicyGradientSettings
from qdrl.critics.td3 import critic_mlp
from qdrl.critics.variation import PolicyGradient
from qdrl.policies.mlp import Mlp, MlpSettings
from tests.critics.builders import normal

STEPS, BATCH = 6, 20
SETTINGS = PolicyGradientSettings(steps=STEPS, batch_size=BATCH)


def shapes(
    dimensions: int = 2, policy: MlpSettings | None = None, critic: tuple[int, ...] = (24, 24)
) -> tuple[Mlp, Mlp]:
    shape = Mlp(7, 3, policy or MlpSettings(hidden_sizes=(16, 16)))
    return shape, critic_mlp(conditioned(shape, dimensions), critic)


def material(policy: Mlp, critic: Mlp, rows: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    draw = np.random.default_rng(0)
    parents = torch.from_numpy(np.stack([policy.initial(draw) for _ in range(rows)]))
    dimensions = critic.sizes[0] - policy.sizes[0] - policy.sizes[-1]
    descriptors = torch.from_numpy(draw.uniform(-1, 1, (rows, dimensions)))
    return parents, normal(STEPS, BATCH, 7), torch.from_numpy(critic.initial(draw)), descriptors


@pytest.mark.parametrize("dimensions", [0, 1, 2])
@pytest.mark.parametrize("critic", [(24, 24), (12,), (8, 70, 9)])
@pytest.mark.parametrize(
    "policy",
    [
        MlpSettings(hidden_sizes=(16, 16)),
        MlpSettings(hidden_sizes=(70,), activation="tanh"),
        MlpSettings(hidden_sizes=(), output="linear"),
        MlpSettings(hidden_sizes=(9,), output="clip"),
    ],
    ids=lambda policy: f"{policy.hidden_sizes}-{policy.activation}-{policy.output}",
)
def test_offspring_equal_those_of_the_reference(dimensions: int, critic: tuple[int, ...], policy: MlpSettings) -> None:
    shape, critic_shape = shapes(dimensions, policy, critic)
    parents, states, row, descriptors = material(shape, critic_shape, 3)
    offspring = PolicyGradient(shape, critic_shape, SETTINGS).vary(parents, states, row, descriptors)
    for index in range(3):
        expected = reference_offspring(shape, critic_shape, parents[index], states, row, descriptors[index], SETTINGS)
        torch.testing.assert_close(offspring[index].double(), expected, rtol=1e-3, atol=2e-5)
    assert (offspring - parents).abs().mean() > SETTINGS.learning_rate


def test_offspring_have_a_higher_value() -> None:
    policy, critic = shapes()
    parents, states, row, descriptors = material(policy, critic, 1)
    offspring = PolicyGradient(policy, critic, SETTINGS).vary(parents, states, row, descriptors)
    critic_shape, state = to_network(critic, row), states[0].double()
    values = [
        critic_shape(torch.cat([to_network(policy, genome)(state), state, descriptors.expand(BATCH, -1)], 1)).mean()
        for genome in (parents[0], offspring[0])
    ]
    assert values[1] > values[0] + 1e-2


def test_an_offspring_depends_on_its_own_descriptor() -> None:
    policy, critic = shapes()
    parents, states, row, descriptors = material(policy, critic, 2)
    variation = PolicyGradient(policy, critic, SETTINGS)
    same = variation.vary(parents[:1].expand(2, -1), states, row, descriptors[:1].expand(2, -1))
    other = variation.vary(parents[:1].expand(2, -1), states, row, descriptors)
    assert torch.equal(same[0], same[1])
    assert torch.equal(other[0], same[0])
    assert not torch.equal(other[1], same[1])


@limits(max_examples=60)
@given(
    hidden=st.lists(st.sampled_from((5, 64, 65, 128)), min_size=1, max_size=2).map(tuple),
    critic=st.lists(st.sampled_from((9, 64, 100)), min_size=1, max_size=2).map(tuple),
    actions=st.integers(1, 9),
    rows=st.integers(1, 9),
    data=st.data(),
)
def test_the_bits_of_a_row_do_not_depend_on_other_rows_or_memory(
    hidden: tuple[int, ...], critic: tuple[int, ...], actions: int, rows: int, data: st.DataObject
) -> None:
    """Like ranks, each variation has its own buffers and rows and has varied other rows before."""
    policy = Mlp(11, actions, MlpSettings(hidden_sizes=hidden))
    critic_shape = critic_mlp(conditioned(policy, 2), critic)
    settings = PolicyGradientSettings(steps=3, batch_size=data.draw(st.sampled_from((1, 17, 100)), "batch"))
    parents, row = normal(rows, policy.parameters) / 4, normal(critic_shape.parameters, seed=1) / 4
    states, descriptors = normal(3, settings.batch_size, 11, seed=2), normal(rows, 2, seed=3).clamp(-1, 1)
    together = PolicyGradient(policy, critic_shape, settings).vary(parents, states, row, descriptors)
    start = data.draw(st.integers(0, rows - 1), "start")
    end = data.draw(st.integers(start + 1, rows), "end")
    shift = data.draw(st.integers(0, 17), "shift")
    moved = torch.full((shift + states.numel(),), torch.nan)[shift:].view(states.shape).copy_(states)
    other = PolicyGradient(policy, critic_shape, settings)
    other.vary(10 * parents[:1], -states, -row, descriptors[:1])
    share = other.vary(parents[start:end], moved, row, descriptors[start:end])
    assert torch.equal(share, together[start:end])


@pytest.mark.parametrize("count", [1, 2, 5])
def test_the_policies_of_an_ant_give_the_same_bits_in_every_share(count: int) -> None:
    policy = Mlp(30, 8, MlpSettings())
    critic = critic_mlp(conditioned(policy, 2), (256, 256))
    settings = PolicyGradientSettings(steps=2)
    parents, row = normal(5, policy.parameters) / 8, normal(critic.parameters) / 8
    states, descriptors = normal(2, 100, 30), normal(5, 2).clamp(-1, 1)
    together = PolicyGradient(policy, critic, settings).vary(parents, states, row, descriptors)
    alone = PolicyGradient(policy, critic, settings)
    for start in range(0, 5, count):
        part = slice(start, start + count)
        assert torch.equal(alone.vary(parents[part], states, row, descriptors[part]), together[part])


def test_a_row_that_is_not_finite_does_not_affect_others() -> None:
    policy, critic = shapes()
    parents, states, row, descriptors = material(policy, critic, 3)
    variation = PolicyGradient(policy, critic, SETTINGS)
    expected = variation.vary(parents, states, row, descriptors)
    parents[1] = torch.nan
    found = variation.vary(parents, states, row, descriptors)
    assert torch.equal(found[[0, 2]], expected[[0, 2]])
    assert found[1].isnan().any()


def test_arguments_are_not_modified() -> None:
    policy, critic = shapes()
    given_ = material(policy, critic, 2)
    before = [tensor.clone() for tensor in given_]
    PolicyGradient(policy, critic, SETTINGS).vary(*given_)
    assert all(torch.equal(*pair) for pair in zip(before, given_, strict=True))


def test_no_parents_have_no_offspring() -> None:
    policy, critic = shapes()
    parents, states, row, descriptors = material(policy, critic, 1)
    empty = PolicyGradient(policy, critic, SETTINGS).vary(parents[:0], states, row, descriptors[:0])
    assert empty.shape == (0, policy.parameters)


@pytest.mark.parametrize("wrong", range(4))
def test_shapes_that_do_not_fit_are_refused(wrong: int) -> None:
    policy, critic = shapes()
    parts = list(material(policy, critic, 2))
    parts[wrong] = parts[wrong][..., :-1]
    name = ("parents", "states", "critic", "descriptors")[wrong]
    with pytest.raises(ValueError, match=f"{name} has shape"):
        PolicyGradient(policy, critic, SETTINGS).vary(*parts)


def test_a_critic_of_another_task_is_an_error() -> None:
    with pytest.raises(ValueError, match="critic has 4 inputs, fewer than 7 observation and 3 action dimensions"):
        PolicyGradient(Mlp(7, 3, MlpSettings()), Mlp(4, 1, MlpSettings()), SETTINGS)
