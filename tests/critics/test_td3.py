"""TD3 compared with the reference implementation; its schedules, state and behaviour when it diverges."""

from dataclasses import replace
from typing import Any, Literal

import numpy as np
import pytest
import torch
from pydantic import ValidationError

from qdrl.critics.fast.networks import matrices
from qdrl.critics.injection import conditioned
from qdrl.critics.reference import ReferenceTd3
from qdrl.critics.replay_buffer import COLUMNS, ReplayBuffer, SampledTransitions
from qdrl.critics.settings import Td3Settings
from qdrl.critics.td3 import Td3
from qdrl.parallel.learners import OneLearner
from qdrl.policies.mlp import Mlp, MlpSettings
from tests.critics.builders import buffer_of, normal, transitions

NETWORKS = ("critic", "critic_target", "actor", "actor_target")
SMALL = Td3Settings(steps=7, batch_size=20, hidden_sizes=(24, 24))


def small(settings: Td3Settings = SMALL, dimensions: int = 2, policy: MlpSettings | None = None, seed: int = 0) -> Td3:
    shape = Mlp(7, 3, policy or MlpSettings(hidden_sizes=(16, 16)))
    return Td3(conditioned(shape, dimensions), dimensions, settings, np.random.default_rng(seed))


def networks_of(td3: Td3) -> dict[str, torch.Tensor]:
    return {name: getattr(td3, name).clone() for name in NETWORKS}


def assert_equal(one: Any, other: Any) -> None:
    """Assert that nested dicts of arrays and numbers have the same bits."""
    if isinstance(one, dict):
        assert one.keys() == other.keys()
        for key in one:
            assert_equal(one[key], other[key])
    else:
        np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize(
    ("change", "dimensions", "policy"),
    [
        ({}, 2, MlpSettings(hidden_sizes=(16, 16))),
        ({}, 0, MlpSettings(hidden_sizes=(16, 16))),
        ({"order": "paper"}, 2, MlpSettings(hidden_sizes=(16, 16))),
        ({"order": "paper", "actor_delay": 3}, 1, MlpSettings(hidden_sizes=(9,), activation="tanh")),
        ({"truncation": "bootstrap", "actor_delay": 1}, 2, MlpSettings(hidden_sizes=(), output="clip")),
        ({"hidden_sizes": (70, 80, 9), "batch_size": 64}, 3, MlpSettings(hidden_sizes=(70, 70), output="linear")),
        ({"reward_scale": 3.0, "discount": 0.8, "length_scale": 1.0}, 1, MlpSettings(hidden_sizes=(16,))),
        ({"noise": 0.6, "noise_clip": 0.3, "target_rate": 0.2}, 2, MlpSettings(hidden_sizes=(16,))),
        ({"critic_learning_rate": 1e-3, "actor_learning_rate": 2e-3}, 0, MlpSettings(hidden_sizes=(16,))),
    ],
)
def test_training_equals_the_reference(change: dict, dimensions: int, policy: MlpSettings) -> None:
    """Two phases: the schedule and Adam continue from one to the next."""
    td3 = small(SMALL.model_copy(update=change), dimensions, policy)
    buffer, reference, first = buffer_of(transitions(300, 7, 3, dimensions)), ReferenceTd3(td3), networks_of(td3)
    losses, values = [], []
    for phase in range(2):
        counts = td3.train(buffer, np.random.default_rng(phase))
        losses.append(counts["critic_loss"])
        values.append(counts["actor_steps"] * counts["actor_value"])
        reference.train(buffer, np.random.default_rng(phase))
    for name, expected in reference.rows().items():
        found = getattr(td3, name).double()
        torch.testing.assert_close(found, expected, rtol=1e-3, atol=2e-5)
        moved = (expected - first[name]).abs().mean()
        assert (found - expected).abs().mean() < 1e-3 * moved + 3e-8, name
    assert losses == pytest.approx([np.mean(reference.losses[:7]), np.mean(reference.losses[7:])], rel=1e-4)
    assert sum(values) == pytest.approx(sum(reference.values), rel=1e-4, abs=1e-5)


@pytest.mark.parametrize(
    ("order", "delay", "expected"),
    [
        ("code", 2, [2, 1, 2]),
        ("paper", 2, [1, 2, 1]),
        ("code", 3, [1, 1, 1]),
        ("paper", 3, [1, 1, 1]),
        ("code", 7, [1, 0, 1]),
        ("paper", 7, [0, 0, 1]),
    ],
)
def test_the_actor_moves_every_few_steps_counted_over_phases(
    order: Literal["code", "paper"], delay: int, expected: list[int]
) -> None:
    td3 = small(SMALL.model_copy(update={"steps": 3, "order": order, "actor_delay": delay}))
    buffer, generator = buffer_of(transitions(50, 7, 3, 2)), np.random.default_rng(0)
    counts = [td3.train(buffer, generator) for _ in range(3)]
    assert [count["actor_steps"] for count in counts] == expected
    assert [count["critic_steps"] for count in counts] == [3, 3, 3]
    assert td3.steps == 9
    assert all(np.isnan(count["actor_value"]) == (steps == 0) for count, steps in zip(counts, expected, strict=True))


@pytest.mark.parametrize(
    ("order", "moves"),
    [
        ("code", [set(NETWORKS), {"critic", "critic_target"}, set(NETWORKS)]),
        ("paper", [{"critic"}, set(NETWORKS), {"critic"}]),
    ],
)
def test_targets_are_updated_as_the_order_states(order: Literal["code", "paper"], moves: list[set[str]]) -> None:
    td3 = small(SMALL.model_copy(update={"steps": 1, "order": order}))
    buffer, generator = buffer_of(transitions(50, 7, 3, 2)), np.random.default_rng(0)
    for expected in moves:
        before = networks_of(td3)
        td3.train(buffer, generator)
        assert {name for name in NETWORKS if not torch.equal(getattr(td3, name), before[name])} == expected


def test_a_phase_depends_on_its_generator_alone() -> None:
    one, other, third = small(), small(), small()
    buffer = buffer_of(transitions(50, 7, 3, 2))
    torch.manual_seed(1)
    found = one.train(buffer, np.random.default_rng(4))
    torch.manual_seed(2)
    assert other.train(buffer, np.random.default_rng(4)) == found
    assert_equal(other.state_dict(), one.state_dict())
    third.train(buffer, np.random.default_rng(5))
    assert not torch.equal(third.critic, one.critic)


def test_a_phase_may_have_another_number_of_steps_than_the_settings() -> None:
    given, set_ = small(), small(SMALL.model_copy(update={"steps": 4}))
    buffer = buffer_of(transitions(50, 7, 3, 2))
    counts = given.train(buffer, np.random.default_rng(0), steps=4)
    assert counts["critic_steps"] == 4
    assert set_.train(buffer, np.random.default_rng(0)) == counts
    assert_equal(given.state_dict(), set_.state_dict())
    with pytest.raises(ValueError, match="at least 1 step, got 0"):
        given.train(buffer, np.random.default_rng(0), steps=0)


def test_initial_networks_differ_and_targets_start_as_copies() -> None:
    td3 = small()
    assert not torch.equal(td3.critic[0], td3.critic[1])
    assert torch.equal(td3.critic, td3.critic_target)
    assert torch.equal(td3.actor, td3.actor_target)
    assert torch.equal(small().critic, td3.critic)
    assert not torch.equal(small(seed=1).critic, td3.critic)


def test_many_chunks_are_one_phase() -> None:
    """Compare more steps than one chunk with one run of the reference."""
    td3 = small(SMALL.model_copy(update={"steps": 230, "batch_size": 5}))
    buffer, reference = buffer_of(transitions(60, 7, 3, 2)), ReferenceTd3(td3)
    counts = td3.train(buffer, np.random.default_rng(0))
    reference.train(buffer, np.random.default_rng(0))
    assert counts["critic_steps"] == 230
    assert counts["actor_steps"] == 115
    assert counts["critic_loss"] == pytest.approx(np.mean(reference.losses), rel=1e-3)


def test_a_restored_td3_continues_with_the_same_bits() -> None:
    td3, again = small(), small(seed=9)
    buffer = buffer_of(transitions(50, 7, 3, 2))
    td3.train(buffer, np.random.default_rng(0))
    state = td3.state_dict()
    again.load_state_dict(state)
    assert_equal(again.state_dict(), state)
    for phase in range(2):
        assert td3.train(buffer, np.random.default_rng(phase)) == again.train(buffer, np.random.default_rng(phase))
    assert_equal(again.state_dict(), td3.state_dict())
    assert not np.array_equal(state["critic"], td3.state_dict()["critic"])


def test_a_state_is_nested_dicts_of_arrays_and_numbers() -> None:
    def leaves(value: Any) -> list[Any]:
        return [leaf for part in value.values() for leaf in leaves(part)] if isinstance(value, dict) else [value]

    found = leaves(small().state_dict())
    assert len(found) == 4 + 2 * 3 + 1
    assert {type(leaf) for leaf in found} == {np.ndarray, int}


def test_the_state_of_other_networks_is_refused() -> None:
    with pytest.raises(ValueError, match="critic is stored as"):
        small(SMALL.model_copy(update={"hidden_sizes": (8,)})).load_state_dict(small().state_dict())


@pytest.mark.parametrize("spoilt", ["reward", "observation"])
def test_a_phase_that_diverges_is_undone_and_reported(spoilt: str) -> None:
    given = transitions(50, 7, 3, 2)
    good, bad = buffer_of(given), buffer_of(replace(given, **{spoilt: torch.full_like(getattr(given, spoilt), 1e30)}))
    td3, never = small(), small()
    for each in (td3, never):
        each.train(good, np.random.default_rng(0))
    counts = td3.train(bad, np.random.default_rng(1))
    assert counts["diverged"] == 1
    assert counts["critic_steps"] == counts["actor_steps"] == 0
    assert np.isnan(counts["critic_loss"])
    assert_equal(td3.state_dict(), never.state_dict())
    assert td3.train(good, np.random.default_rng(2)) == never.train(good, np.random.default_rng(2))
    assert_equal(td3.state_dict(), never.state_dict())


def test_a_phase_that_leaves_adam_without_a_finite_moment_is_undone() -> None:
    """The loss of the only step and all weights after it are finite, but the square of a gradient is not."""
    td3 = small(SMALL.model_copy(update={"steps": 1}))
    _, second, last = matrices(td3.critic_mlp, td3.critic)
    second *= 1e25
    last[:, :-1] = 0  # Q equals its bias for all values of the hidden units
    td3.critic_target.zero_()
    before = td3.state_dict()
    counts = td3.train(buffer_of(transitions(50, 7, 3, 2)), np.random.default_rng(0))
    assert counts["diverged"] == 1
    assert_equal(td3.state_dict(), before)


def test_training_needs_a_minibatch() -> None:
    buffer = ReplayBuffer(100, 7, 3, 2)
    buffer.add(transitions(19, 7, 3, 2))
    with pytest.raises(RuntimeError, match="holds 19 transitions, a minibatch needs 20"):
        small().train(buffer, np.random.default_rng(0))


def test_a_replay_buffer_of_other_descriptor_dimensions_is_an_error() -> None:
    with pytest.raises(ValueError, match="buffer has 1 descriptor dimensions, expected 2"):
        small().train(buffer_of(transitions(50, 7, 3, 1)), np.random.default_rng(0))


def test_an_actor_without_inputs_for_the_descriptor_is_an_error() -> None:
    with pytest.raises(ValueError, match="dimensions must be 0 to 2 for an actor of 3 inputs, got 3"):
        Td3(Mlp(3, 1, MlpSettings()), 3, SMALL, np.random.default_rng(0))


def test_defaults_are_those_of_the_papers() -> None:
    assert Td3Settings().model_dump() == {
        "hidden_sizes": (256, 256),
        "actor_hidden_sizes": None,
        "steps": 3000,
        "batch_size": 100,
        "discount": 0.99,
        "target_rate": 0.005,
        "noise": 0.2,
        "noise_clip": 0.5,
        "actor_delay": 2,
        "critic_learning_rate": 3e-4,
        "actor_learning_rate": 3e-4,
        "reward_scale": 1.0,
        "length_scale": 0.1,
        "flipped_negatives": False,
        "truncation": "mask",
        "order": "code",
    }


@pytest.mark.parametrize(
    "change",
    [{"discount": 1.0}, {"noise": -1}, {"hidden_sizes": ()}, {"order": "papers"}, {"length_scale": 0}, {"tau": 0.1}],
)
def test_invalid_settings_are_errors(change: dict) -> None:
    with pytest.raises(ValidationError):
        Td3Settings(**change)


def test_a_conditioned_critic_distinguishes_descriptors() -> None:
    """Every step has reward 1 and terminates; a target equal to the reached descriptor is worth 1, others nearly 0."""
    given = transitions(400, 7, 3, 1)
    given = replace(
        given,
        reward=torch.ones(400),
        terminated=torch.ones(400),
        truncated=torch.zeros(400),
        descriptor=torch.sign(normal(400, 1)),
        target_descriptor=torch.sign(normal(400, 1, seed=1)),
        observation=torch.zeros(400, 7),
    )
    given = replace(given, action=given.descriptor.expand(-1, 3))
    td3 = small(SMALL.model_copy(update={"steps": 400, "critic_learning_rate": 3e-3}), dimensions=1)
    counts = td3.train(buffer_of(given), np.random.default_rng(0))
    assert counts["critic_loss"] < 0.3
    again = td3.train(buffer_of(given), np.random.default_rng(1))
    assert again["critic_loss"] < 0.01


class Joined:
    """A replay buffer whose minibatches consist of the parts of all shards."""

    def __init__(self, shards: list[ReplayBuffer], generators: list[np.random.Generator]) -> None:
        self.dimensions, self._shards, self._generators = shards[0].dimensions, shards, generators

    def draw(self, generator: np.random.Generator, shape: tuple[int, int]) -> torch.Tensor:
        share = (shape[0], shape[1] // len(self._shards))
        pairs = zip(self._shards, self._generators, strict=True)
        return torch.cat([shard.draw(own, share) for shard, own in pairs], 1)

    def gather(self, ages: torch.Tensor) -> SampledTransitions:
        parts = [shard.gather(part) for shard, part in zip(self._shards, ages.chunk(len(self._shards), 1), strict=True)]
        return SampledTransitions(**{name: torch.cat([vars(part)[name] for part in parts], 1) for name in COLUMNS})


@pytest.mark.parametrize("shards", [2, 4, 5])
@pytest.mark.parametrize("order", ["code", "paper"])
def test_shards_train_like_one_learner_on_their_joint_minibatches(shards: int, order: Literal["code", "paper"]) -> None:
    settings = SMALL.model_copy(update={"noise": 0.0, "order": order})
    shape = conditioned(Mlp(7, 3, MlpSettings(hidden_sizes=(16, 16))), 2)
    many = Td3(shape, 2, settings, np.random.default_rng(0), shards=shards)
    one = Td3(shape, 2, settings, np.random.default_rng(0))
    buffers = [buffer_of(transitions(50 + shard, 7, 3, 2, seed=100 * shard)) for shard in range(shards)]
    found = many.train_shards(buffers, [np.random.default_rng(k) for k in range(shards)], OneLearner(shards))
    joined: Any = Joined(buffers, [np.random.default_rng(k) for k in range(shards)])
    expected = one.train(joined, np.random.default_rng(9))
    assert found == pytest.approx(expected, rel=1e-5)
    for name in NETWORKS:
        torch.testing.assert_close(getattr(many, name), getattr(one, name), rtol=1e-4, atol=2e-6)


def test_unequal_parts_of_minibatches_and_missing_shards_are_refused() -> None:
    shape = conditioned(Mlp(7, 3, MlpSettings(hidden_sizes=(16, 16))), 2)
    with pytest.raises(ValueError, match=r"batch_size \(20\) must be a multiple of shards \(3\)"):
        Td3(shape, 2, SMALL, np.random.default_rng(0), shards=3)
    td3 = Td3(shape, 2, SMALL, np.random.default_rng(0), shards=2)
    buffer, draw = buffer_of(transitions(50, 7, 3, 2)), np.random.default_rng(0)
    with pytest.raises(ValueError, match="got 1 replay buffers for 1 of 1 shards, expected 2 shards"):
        td3.train(buffer, draw)


def test_an_unconditioned_actor_keeps_zero_descriptor_weights() -> None:
    shape = conditioned(Mlp(7, 3, MlpSettings(hidden_sizes=(16, 16))), 2)
    td3 = Td3(shape, 2, SMALL, np.random.default_rng(0), conditioned_actor=False)
    first = networks_of(td3)
    td3.train(buffer_of(transitions(50, 7, 3, 2)), np.random.default_rng(1))
    for name in ("actor", "actor_target"):
        weights = matrices(shape, getattr(td3, name))[0][0]
        assert (weights[7:9] == 0).all()
        moved = weights - matrices(shape, first[name])[0][0]
        assert (moved[:7] != 0).any(1).all()
        assert (moved[9] != 0).any()  # the bias
