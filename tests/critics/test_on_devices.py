"""Critics and variation on a GPU: properties that need none, and with one, agreement with the CPU."""

from typing import Any, Literal

import numpy as np
import pytest
import torch
from torch._subclasses.fake_tensor import DataDependentOutputException, FakeTensorMode

from qdrl.compute import random as draws
from qdrl.compute.cuda_graphs import GraphedCall
from qdrl.critics.chunks import Chunk, ChunkGraphs, allocate_chunk
from qdrl.critics.injection import conditioned
from qdrl.critics.minibatches import Minibatch
from qdrl.critics.replay_buffer import COLUMNS, ReplayBuffer
from qdrl.critics.settings import PolicyGradientSettings, Td3Settings
from qdrl.critics.td3 import Td3
from qdrl.critics.variation import PolicyGradient
from qdrl.errors import UserError
from qdrl.parallel.learners import OneLearner
from qdrl.policies.mlp import Mlp, MlpSettings
from tests.critics.builders import normal, transitions
from tests.helpers.devices import CUDA

POLICY = Mlp(7, 3, MlpSettings(hidden_sizes=(16, 16)))
SETTINGS = Td3Settings(batch_size=20, hidden_sizes=(24, 24))
GRADIENT = PolicyGradientSettings(steps=6, batch_size=20)
NETWORKS = ("critic", "critic_target", "actor", "actor_target")


def td3_on(device: str, order: Literal["code", "paper"] = "code", shards: int = 1, *, sees: bool = True) -> Td3:
    settings = SETTINGS.model_copy(update={"order": order})
    shape = conditioned(POLICY, 2)
    return Td3(shape, 2, settings, np.random.default_rng(0), shards=shards, conditioned_actor=sees, device=device)


def buffers_on(device: str, shards: int = 1) -> list[ReplayBuffer]:
    buffers = [ReplayBuffer(60, 7, 3, 2, device) for _ in range(shards)]
    for shard, buffer in enumerate(buffers):
        buffer.add(transitions(50 + shard, 7, 3, 2, seed=100 * shard))
    return buffers


def train(td3: Td3, buffers: list[ReplayBuffer], steps: int, seed: int = 0) -> dict[str, float]:
    draws = [np.random.default_rng([seed, shard]) for shard in range(len(buffers))]
    return td3.train_shards(buffers, draws, OneLearner(len(buffers)), steps)


def variation_on(device: str, at_once: int | None = None, rows: int = 7) -> tuple[PolicyGradient, list[torch.Tensor]]:
    critic = td3_on(device).critic_mlp
    given = [normal(rows, POLICY.parameters) / 4, normal(6, 20, 7), normal(critic.parameters, seed=1) / 4]
    given.append(normal(rows, 2, seed=3).clamp(-1, 1))
    return PolicyGradient(POLICY, critic, GRADIENT, device, rows_at_once=at_once), [
        tensor.to(device) for tensor in given
    ]


def steps_on(device: str, batch: int = 20) -> Minibatch:
    def column(width: int) -> torch.Tensor:
        return torch.zeros(4, batch, width, device=device)

    return Minibatch(column(3 + 7 + 2), column(7 + 2), column(3), column(1), column(1), column(1))


@pytest.mark.parametrize("order", ["code", "paper"])
@pytest.mark.parametrize("sees", [True, False])
@pytest.mark.parametrize("shards", [1, 2])
def test_critic_steps_never_read_from_the_device(order: Literal["code", "paper"], sees: bool, shards: int) -> None:
    """A graph must not read values from the device; tensors without data raise an error when read."""
    with FakeTensorMode(allow_non_fake_inputs=True):
        td3 = td3_on("meta", order, shards, sees=sees)
        chunk = allocate_chunk([steps_on("meta", 20 // shards) for _ in range(shards)], 2)
        for gradient in (td3._critic_sum, td3._actor_sum):
            gradient.allocate(shards)
        td3._run_steps(chunk, 0, OneLearner(shards))
        with pytest.raises(DataDependentOutputException):
            float(chunk.errors.sum())


def test_variation_never_reads_from_the_device() -> None:
    with FakeTensorMode(allow_non_fake_inputs=True):
        variation, given = variation_on("meta")
        assert variation.vary(*given).device.type == "meta"


@pytest.mark.parametrize("order", ["code", "paper"])
@pytest.mark.parametrize("shards", [1, 2])
def test_steps_on_copied_minibatches_give_the_same_bits(order: Literal["code", "paper"], shards: int) -> None:
    """On a GPU a graph reads all minibatches from the same memory."""
    plain, fixed = td3_on("cpu", order, shards), td3_on("cpu", order, shards)
    fixed._graphs = ChunkGraphs(torch.device("cpu"))
    buffers = buffers_on("cpu", shards)
    for seed, steps in enumerate((205, 1, 100, 107)):
        assert train(plain, buffers, steps, seed) == train(fixed, buffers, steps, seed)
    for name in NETWORKS:
        assert torch.equal(getattr(plain, name), getattr(fixed, name))


def test_chunks_are_kept_by_their_key() -> None:
    graphs, made = ChunkGraphs(torch.device("cpu")), []

    def make(kept: Any) -> tuple[Chunk, GraphedCall]:
        chunk = allocate_chunk(kept, 1)
        made.append(chunk)
        return chunk, GraphedCall(lambda: chunk.values.add_(chunk.minibatches[0].reward.sum()), torch.device("cpu"))

    step = steps_on("cpu")
    step.reward.fill_(1)
    first = graphs.run((4, 0, 1), [step], make)
    step.reward.fill_(2)
    assert graphs.run((4, 0, 1), [step], make) is first
    assert float(first.values) == 80 + 160
    assert graphs.run((4, 1, 1), [step], make) is not first
    assert len(made) == 2


@pytest.mark.parametrize("at_once", [2, 7, 50])
def test_rows_varied_together_equal_rows_varied_one_by_one(at_once: int) -> None:
    (one, given), (many, _) = variation_on("cpu"), variation_on("cpu", at_once)
    expected = one.vary(*given)
    for rows in (7, 3, 7):
        parents, states, critic, descriptors = given
        found = many.vary(parents[:rows], states, critic, descriptors[:rows])
        torch.testing.assert_close(found, expected[:rows], rtol=1e-4, atol=1e-5)


def test_a_buffer_larger_than_the_memory_of_a_gpu_is_refused_before_allocation(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    width = 7 + 3 + 1 + 7 + 2 + 2 + 2
    monkeypatch.setattr("qdrl.critics.replay_buffer.free_memory", lambda _: 400 * 4 * width)
    ReplayBuffer(400, 7, 3, 2, "cuda")
    with pytest.raises(
        UserError, match=r"algorithm.replay_capacity: 401 .* of cuda, .* GB are free for this rank: at most 400$"
    ):
        ReplayBuffer(401, 7, 3, 2, "cuda")


@pytest.mark.parametrize("device", [CUDA])
@pytest.mark.parametrize("order", ["code", "paper"])
def test_a_gpu_trains_as_the_cpu_does(
    order: Literal["code", "paper"], device: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(draws, "_draws_on_device", lambda _: False)
    ours, theirs = td3_on(device, order), td3_on("cpu", order)
    for seed in range(4):  # a direct call, a capture, two launches
        report = train(ours, buffers_on(device), 8, seed)
        assert report == pytest.approx(train(theirs, buffers_on("cpu"), 8, seed), rel=1e-3, abs=1e-4)
    for name in NETWORKS:
        torch.testing.assert_close(getattr(ours, name).cpu(), getattr(theirs, name), rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("device", [CUDA])
def test_a_gpu_varies_as_the_cpu_does(device: str) -> None:
    (ours, here), (theirs, there) = variation_on(device), variation_on("cpu")
    for sign in (1, -1, 1):
        found = ours.vary(here[0], sign * here[1], here[2], here[3])
        expected = theirs.vary(there[0], sign * there[1], there[2], there[3])
        torch.testing.assert_close(found.cpu(), expected, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("device", [CUDA])
def test_a_buffer_on_a_gpu_samples_like_one_on_the_host(device: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(draws, "_draws_on_device", lambda _: False)
    (ours,), (theirs,) = buffers_on(device), buffers_on("cpu")
    for buffer in (ours, theirs):
        buffer.add(transitions(37, 7, 3, 2, seed=5))
    one, other = (buffer.sample(np.random.default_rng(1), (3, 20)) for buffer in (ours, theirs))
    for name in COLUMNS:
        assert torch.equal(getattr(one, name).cpu(), getattr(other, name))
