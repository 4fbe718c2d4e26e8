"""Normalised descriptors and their similarity."""

from math import exp

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from qdrl.critics.descriptors import normalize, similarity

axis = st.floats(-1, 1, width=32)
points = st.lists(axis, min_size=1, max_size=4)


def test_bounds_become_one_and_minus_one_and_values_beyond_are_clipped() -> None:
    descriptor = torch.tensor([[-30.0, 0.0], [30.0, 0.25], [0.0, 1.0], [99.0, -5.0]], dtype=torch.float64)
    found = normalize(descriptor, np.array([-30.0, 0.0]), np.array([30.0, 1.0]))
    assert found.dtype == torch.float32
    assert found.tolist() == [[-1, -1], [1, -0.5], [0, 1], [1, -1]]


@given(points)
def test_a_descriptor_is_as_similar_as_can_be_to_itself(point: list[float]) -> None:
    assert similarity(torch.tensor(point), torch.tensor(point), 0.1).item() == 1


@given(points, st.floats(0.01, 1), st.floats(1.01, 4), st.sampled_from((0.05, 0.1, 2.0)))
def test_similarity_falls_with_distance(point: list[float], step: float, further: float, length: float) -> None:
    here = torch.tensor(point, dtype=torch.float64)
    away = torch.zeros_like(here)
    away[0] = step
    near, far = (similarity(here + scale * away, here, length).item() for scale in (1, further))
    assert 0 < far < near < 1
    assert near == pytest.approx(exp(-step / length))


def test_similarity_is_euclidean_and_taken_for_each_transition() -> None:
    descriptor = torch.tensor([[[0.3, 0.4], [0.0, 0.2]]])
    found = similarity(descriptor, torch.zeros(1, 2, 2), 0.1)
    assert found.tolist() == [pytest.approx([exp(-5), exp(-2)], rel=1e-5)]


def test_without_descriptors_every_reward_counts_in_full() -> None:
    assert similarity(torch.zeros(3, 0), torch.zeros(3, 0), 0.1).tolist() == [1, 1, 1]
