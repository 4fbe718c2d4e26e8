"""Tasks without physics compared with hand-computed values."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from qdrl.evaluation import Evaluation
from qdrl.tasks.base import Task
from qdrl.tasks.registry import make_task
from tests.tasks.builders import candidates

PI = math.pi


def evaluate(task: Task, genomes: np.ndarray | list) -> Evaluation:
    return task.evaluate(candidates(torch.tensor(np.asarray(genomes), dtype=torch.float32)))


@pytest.mark.parametrize(
    ("angles", "gripper", "fitness"),
    [
        ([0, 0, 0, 0], (1, 0), 0),
        ([PI / 2, 0, 0, 0], (0, 1), -math.sqrt(3) * PI / 8),
        ([PI / 2, -PI / 2], (0.5, 0.5), -PI / 2),
        ([PI / 2, PI / 2, PI / 2, PI / 2], (0, 0), 0),
        ([PI, -PI], (0, 0), -PI),
    ],
)
def test_the_arm_reaches_the_point_computed_by_trigonometry(
    angles: list[float], gripper: tuple[float, float], fitness: float
) -> None:
    evaluation = evaluate(make_task("arm", parameters=len(angles)), [angles])
    assert evaluation.descriptor[0].tolist() == pytest.approx(gripper, abs=1e-7)
    assert evaluation.fitness.item() == pytest.approx(fitness, abs=1e-7)


def test_the_arms_descriptor_and_fitness_equal_sums_of_complex_numbers() -> None:
    genomes = np.random.default_rng(0).uniform(-PI, PI, (50, 8)).astype(np.float32)
    evaluation = evaluate(make_task("arm"), genomes)
    ends = np.exp(1j * genomes.astype(float).cumsum(1)).mean(1)
    np.testing.assert_allclose(evaluation.descriptor, np.stack([ends.real, ends.imag], 1), atol=1e-12)
    np.testing.assert_allclose(evaluation.fitness, -genomes.astype(float).std(1), atol=1e-12)
    assert (evaluation.steps == 1).all()
    assert not evaluation.failed.any()


def test_joints_beyond_a_half_turn_count_as_a_half_turn() -> None:
    beyond, at = (evaluate(make_task("arm", parameters=2), [[sign * 50.0, 1.0]]) for sign in (1, -1))
    assert beyond.fitness.item() == pytest.approx(-(PI - 1) / 2)
    assert at.fitness.item() == pytest.approx(-(PI + 1) / 2)


@pytest.mark.parametrize("name", ["sphere", "rastrigin"])
def test_the_optimum_is_a_hundred_and_the_worst_corner_zero(name: str) -> None:
    task = make_task(name, parameters=10)
    evaluation = evaluate(task, [[2.048] * 10, [-5.12] * 10])
    assert evaluation.fitness.tolist() == pytest.approx([100, 0], abs=1e-4)
    assert evaluation.descriptor.tolist() == [pytest.approx([10.24, 10.24]), pytest.approx([-25.6, -25.6])]


def test_sphere_and_rastrigin_by_hand() -> None:
    shifted = np.array([[1.0, 0.5, 0.0, -2.0]])
    sphere, rastrigin = 1 + 0.25 + 4, 1 + (0.25 + 20) + 0 + 4
    worst = 7.168**2, 7.168**2 - 10 * math.cos(2 * PI * 7.168) + 10
    for name, value, most in (("sphere", sphere, worst[0]), ("rastrigin", rastrigin, worst[1])):
        fitness = evaluate(make_task(name, parameters=4), shifted + 2.048).fitness.item()
        assert fitness == pytest.approx(100 * (1 - value / (4 * most)), abs=1e-4), name


@pytest.mark.parametrize("name", ["sphere", "rastrigin"])
@given(rows=st.lists(st.lists(st.floats(-1e6, 1e6, width=32), min_size=4, max_size=4), min_size=1, max_size=20))
def test_fitness_and_descriptor_stay_within_the_stated_bounds(name: str, rows: list[list[float]]) -> None:
    task = make_task(name, parameters=4)
    evaluation = evaluate(task, rows)
    assert (evaluation.fitness >= task.spec.qd_offset).all()
    assert (evaluation.fitness <= 100).all()
    bound = torch.tensor(task.spec.upper) * (1 + 1e-6)  # 5.12 is not a float32
    assert (evaluation.descriptor.abs() <= bound).all()


def test_a_coordinate_outside_the_domain_counts_less_with_its_distance() -> None:
    evaluation = evaluate(make_task("sphere", parameters=4), [[5.12, 0, 10.24, -51.2]])
    assert evaluation.descriptor[0].tolist() == pytest.approx([5.12, 5.12 / 10.24 - 5.12 / 51.2])


@pytest.mark.parametrize("name", ["arm", "sphere", "rastrigin"])
@given(rows=st.integers(1, 70), row=st.integers(0, 69), parameters=st.integers(2, 40))
def test_the_bits_of_a_rows_result_do_not_depend_on_other_rows(name: str, rows: int, row: int, parameters: int) -> None:
    row %= rows
    task = make_task(name, parameters=parameters)
    genomes = np.random.default_rng(rows).normal(0, 4, (rows, parameters)).astype(np.float32)
    many, alone = evaluate(task, genomes), evaluate(task, genomes[row : row + 1])
    assert torch.equal(many.fitness[row], alone.fitness[0])
    assert torch.equal(many.descriptor[row], alone.descriptor[0])


def test_a_genome_that_is_not_finite_fails_alone() -> None:
    evaluation = evaluate(make_task("arm", parameters=3), [[0, 0, 0], [0, math.nan, 0], [0, 0, 0]])
    assert evaluation.failed.tolist() == [False, True, False]
    assert evaluation.fitness.isnan().tolist() == [False, True, False]
    assert evaluation.descriptor[1].isnan().all()


@pytest.mark.parametrize(("name", "bound"), [("arm", PI), ("sphere", 5.12), ("rastrigin", 5.12)])
def test_first_genomes_are_uniform_over_the_domain(name: str, bound: float) -> None:
    row = make_task(name, parameters=10_000).initial(np.random.default_rng(0))
    assert row.dtype == np.float32
    assert np.abs(row).max() <= np.float32(bound)
    assert row.std() == pytest.approx(bound / math.sqrt(3), rel=0.02)
