"""Variation operators compared with their documented distributions."""

from typing import Any

import numpy as np
import pytest
import torch
from pydantic import ValidationError

from qdrl.genomes.variation import Gaussian, IsoLine

SIZE = 20_000


def parents(size: int = SIZE) -> tuple[np.ndarray, np.ndarray]:
    draw = np.random.default_rng(0)
    first = draw.normal(0, 1, size).astype(np.float32)
    return first, first + np.float32(2.0)


def children(operator: IsoLine | Gaussian, count: int, size: int) -> np.ndarray:
    """Return children minus their first parent, `(count, size)`, each from a separate stream."""
    pair = parents(size)[: operator.parents]
    rows = [operator(np.random.default_rng(seed), *pair) - pair[0] for seed in range(count)]
    return np.array(rows, np.float64)


def test_iso_line_moves_each_gene_by_noise_and_the_whole_genome_by_one_step_along_the_line() -> None:
    """child - x1 = 0.1 N(0, I) + 0.5 N(0, 1) (x2 - x1), with x2 - x1 = 2 in every gene."""
    moved = children(IsoLine(iso_sigma=0.1, line_sigma=0.5), count=400, size=2000)
    steps = moved.mean(axis=1)  # the step along the line, since the noise averages out
    assert moved.mean() == pytest.approx(0, abs=0.15)
    assert steps.std() == pytest.approx(0.5 * 2, rel=0.1)
    assert (moved - steps[:, None]).std() == pytest.approx(0.1, rel=0.01)
    assert moved.std() == pytest.approx(np.hypot(1.0, 0.1), rel=0.1)


def test_iso_line_without_noise_stays_on_the_line_through_its_parents() -> None:
    first, second = np.array([0, 1, 2], np.float32), np.array([4, 1, -2], np.float32)
    child = IsoLine(iso_sigma=0.0, line_sigma=0.3)(np.random.default_rng(5), first, second)
    line = 0.3 * np.random.default_rng(5).standard_normal()
    np.testing.assert_allclose(child, first + line * (second - first), rtol=1e-6)


def test_iso_line_of_one_elite_with_itself_is_gaussian_noise() -> None:
    first, _ = parents()
    moved = IsoLine()(np.random.default_rng(1), first, first) - first
    assert moved.std() == pytest.approx(0.005, rel=0.02)
    assert abs(moved.mean()) < 1e-4


def test_gaussian_adds_independent_noise_of_its_deviation() -> None:
    moved = children(Gaussian(sigma=0.2), count=200, size=500)
    assert moved.mean() == pytest.approx(0, abs=0.003)
    assert moved.std() == pytest.approx(0.2, rel=0.01)
    assert np.abs(np.corrcoef(moved[:, :5].T) - np.eye(5)).max() < 0.25
    assert moved.mean(axis=1).std() == pytest.approx(0.2 / np.sqrt(500), rel=0.15)


@pytest.mark.parametrize("operator", [IsoLine(), Gaussian()])
def test_a_child_depends_on_its_stream_only_and_parents_are_not_modified(operator: IsoLine | Gaussian) -> None:
    pair = parents(50)[: operator.parents]
    before = [parent.copy() for parent in pair]
    child, again = (operator(np.random.default_rng(3), *pair) for _ in range(2))
    assert child.dtype == np.float32
    assert child.shape == (50,)
    np.testing.assert_array_equal(child, again)
    assert not np.array_equal(child, operator(np.random.default_rng(4), *pair))
    for parent, copy in zip(pair, before, strict=True):
        np.testing.assert_array_equal(parent, copy)
        assert not np.shares_memory(child, parent)


@pytest.mark.parametrize("operator", [IsoLine(), Gaussian()])
def test_tensors_vary_as_arrays_do(operator: IsoLine | Gaussian) -> None:
    pair = parents(50)[: operator.parents]
    child = operator(np.random.default_rng(3), *map(torch.from_numpy, pair))
    assert torch.equal(child, torch.from_numpy(operator(np.random.default_rng(3), *pair)))


@pytest.mark.parametrize("sigma", [-0.1, float("nan"), float("inf"), "much"])
def test_invalid_scales_are_errors(sigma: Any) -> None:
    with pytest.raises(ValidationError):
        IsoLine(iso_sigma=sigma)
    with pytest.raises(ValidationError):
        Gaussian(sigma=sigma)
