"""Random numbers in bulk: drawn by numpy on the CPU; on a GPU determined by a seed from numpy."""

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
def drawing_device(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """A device that draws its own numbers: a GPU, or the CPU treated as one."""
    monkeypatch.setattr(draws, "_draws_on_device", lambda _: True)
    return request.param


def test_on_the_cpu_numpy_draws_them() -> None:
    assert torch.equal(normal(stream(), (3, 4)), torch.from_numpy(stream().standard_normal((3, 4), np.float32)))
    assert torch.equal(integers(stream(), 9, (50,)), torch.from_numpy(stream().integers(9, size=50)))
    found = normal_like(stream(), np.zeros((2, 5), np.float32))
    np.testing.assert_array_equal(found, stream().standard_normal((2, 5), np.float32))


@pytest.mark.parametrize("draw", [lambda g, d: normal(g, (40,), d), lambda g, d: integers(g, 10**6, (40,), d)])
def test_a_devices_numbers_depend_on_the_generator_alone(drawing_device: str, draw: Any) -> None:
    torch.manual_seed(1)
    first = draw(stream(), drawing_device)
    torch.manual_seed(2)
    assert torch.equal(first, draw(stream(), drawing_device))
    assert not torch.equal(first, draw(stream(4), drawing_device))
    one = stream()
    assert not torch.equal(draw(one, drawing_device), draw(one, drawing_device))  # the generator advances
    assert first.device.type == drawing_device


def test_a_device_draws_from_the_same_distributions(drawing_device: str) -> None:
    numbers = normal_like(stream(), torch.zeros(300, 400, device=drawing_device))
    assert numbers.dtype == torch.float32
    assert float(numbers.mean()) == pytest.approx(0, abs=0.01)
    assert float(numbers.std()) == pytest.approx(1, rel=0.01)
    assert float((numbers**4).mean()) == pytest.approx(3, rel=0.05)
    counts = torch.bincount(integers(stream(), 7, (70_000,), drawing_device).cpu(), minlength=7)
    assert len(counts) == 7
    assert counts.min() > 9_500
    assert counts.max() < 10_500
