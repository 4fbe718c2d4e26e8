"""Injected actors compared with the conditioned actor."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from qdrl.critics.injection import conditioned, inject
from qdrl.critics.reference import to_network
from qdrl.policies.mlp import Mlp, MlpSettings
from tests.critics.builders import normal

SHAPES = [(30, (128, 128), 8, 2), (17, (64,), 6, 1), (5, (), 3, 4), (27, (16, 16, 16), 8, 3)]


def actions(mlp: Mlp, genome: torch.Tensor, observations: torch.Tensor) -> torch.Tensor:
    population = mlp.population(len(observations))
    population.load(range(len(observations)), genome.expand(len(observations), -1))
    return population.act(observations).clone()


@pytest.mark.parametrize("activation", ["relu", "tanh"])
@pytest.mark.parametrize(("observations", "hidden", "size", "dimensions"), SHAPES)
def test_an_injected_genome_acts_like_the_actor_with_its_descriptor(
    observations: int, hidden: tuple[int, ...], size: int, dimensions: int, activation
) -> None:
    policy = Mlp(observations, size, MlpSettings(hidden_sizes=hidden, activation=activation))
    shape = conditioned(policy, dimensions)
    actor = torch.from_numpy(shape.initial(np.random.default_rng(0))) + 0.05 * normal(shape.parameters)
    descriptors = torch.from_numpy(np.random.default_rng(1).uniform(-1, 1, (5, dimensions)))
    seen = normal(20, observations, seed=2)
    found = []
    for descriptor, genome in zip(descriptors, inject(policy, actor, descriptors), strict=True):
        both = torch.cat([seen, descriptor.float().expand(20, -1)], 1)
        found.append(actions(policy, genome, seen))
        torch.testing.assert_close(found[-1], actions(shape, actor, both), rtol=1e-5, atol=3e-6)
        exactly = to_network(shape, actor)(both.double())
        torch.testing.assert_close(to_network(policy, genome)(seen.double()), exactly, rtol=1e-6, atol=1e-6)
    assert (found[0] - found[1]).abs().max() > 1e-2


def test_the_middle_of_the_bounds_adds_nothing() -> None:
    policy = Mlp(4, 2, MlpSettings(hidden_sizes=(3,)))
    shape = conditioned(policy, 2)
    actor = normal(shape.parameters)
    genome = inject(policy, actor, torch.zeros(1, 2))
    assert torch.equal(genome[0], torch.cat([actor[: 4 * 3], actor[6 * 3 :]]))


def test_no_dimensions_give_the_actor_itself() -> None:
    policy = Mlp(4, 2, MlpSettings(hidden_sizes=(3,)))
    actor = normal(policy.parameters)
    assert torch.equal(inject(policy, actor, torch.zeros(2, 0)), actor.expand(2, -1))


@given(st.integers(1, 9), st.integers(1, 5), st.data())
def test_the_bits_of_a_row_do_not_depend_on_other_rows(rows: int, dimensions: int, data: st.DataObject) -> None:
    policy = Mlp(6, 3, MlpSettings(hidden_sizes=(17,)))
    actor = normal(conditioned(policy, dimensions).parameters)
    descriptors = normal(rows, dimensions, seed=1)
    start = data.draw(st.integers(0, rows - 1))
    end = data.draw(st.integers(start + 1, rows))
    assert torch.equal(inject(policy, actor, descriptors[start:end]), inject(policy, actor, descriptors)[start:end])


def test_an_actor_of_another_policy_is_an_error() -> None:
    policy = Mlp(6, 3, MlpSettings(hidden_sizes=(17,)))
    with pytest.raises(ValueError, match="2 descriptor dimensions"):
        inject(policy, normal(conditioned(policy, 1).parameters), torch.zeros(1, 2))
