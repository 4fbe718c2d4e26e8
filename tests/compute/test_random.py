"""Numbers in bulk: on the CPU the stream's own; on a device of their own chance they are the stream's all the same."""

from typing import Any

import numpy as np
import pytest
import torch

from qdrl.compute import random as draws
from qdrl.compute.random import integers, normal, normal_like
from tests.helpers.devices import CUDA


def stream(seed: int = 3) -> np.random.Generator:
    return np.random.default_rng(seed)


@pytest.fixture(params=["cpu", CUDA])
def apart(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """A device that draws its own numbers: a GPU, or the CPU taken for one."""
    monkeypatch.setattr(draws, "_draws_itself", lambda _: True)
    return request.param


def test_on_the_cpu_they_are_the_streams_own() -> None:
    assert torch.equal(normal(stream(), (3, 4)), torch.from_numpy(stream().standard_normal((3, 4), np.float32)))
    assert torch.equal(integers(stream(), 9, (50,)), torch.from_numpy(stream().integers(9, size=50)))
    found = normal_like(stream(), np.zeros((2, 5), np.float32))
    np.testing.assert_array_equal(found, stream().standard_normal((2, 5), np.float32))


@pytest.mark.parametrize("draw", [lambda g, d: normal(g, (40,), d), lambda g, d: integers(g, 10**6, (40,), d)])
def test_a_device_draws_by_the_stream_alone(apart: str, draw: Any) -> None:
    torch.manual_seed(1)
    first = draw(stream(), apart)
    torch.manual_seed(2)
    assert torch.equal(first, draw(stream(), apart))
    assert not torch.equal(first, draw(stream(4), apart))
    one = stream()
    assert not torch.equal(draw(one, apart), draw(one, apart))  # a stream goes on
    assert first.device.type == apart


def test_a_device_draws_from_the_same_distributions(apart: str) -> None:
    numbers = normal_like(stream(), torch.zeros(300, 400, device=apart))
    assert numbers.dtype == torch.float32
    assert float(numbers.mean()) == pytest.approx(0, abs=0.01)
    assert float(numbers.std()) == pytest.approx(1, rel=0.01)
    assert float((numbers**4).mean()) == pytest.approx(3, rel=0.05)
    counts = torch.bincount(integers(stream(), 7, (70_000,), apart).cpu(), minlength=7)
    assert len(counts) == 7
    assert counts.min() > 9_500
    assert counts.max() < 10_500
