"""point_omni compared with hand-computed values."""

import numpy as np
import pytest
import torch

from qdrl.streams import generator_from_seed
from qdrl.tasks.point import PointWorlds
from qdrl.tasks.registry import make_task
from tests.tasks.builders import candidates, first_genomes


def test_a_constant_thrust_moves_the_point_by_the_equations_of_motion() -> None:
    worlds = PointWorlds(1, episode_length=50)
    worlds.reset([0], [5])
    place, speed = generator_from_seed(5).uniform(-0.1, 0.1, 2), np.zeros(2)
    force = np.array([0.5, -1.0])
    for age in range(50):
        seen = worlds.observe(torch.tensor([age]))[0].numpy()
        np.testing.assert_allclose(seen, [*(place / 10), *(speed / 4), 1 - age / 50], atol=1e-6)
        reward, terminated = worlds.step(torch.from_numpy(force)[None].float())
        speed = speed + 0.1 * (2.0 * force - 0.5 * speed)
        place = place + 0.1 * speed
        assert reward.item() == pytest.approx(1 - 0.5 * 1.25)
        assert not terminated.item()
    np.testing.assert_allclose(worlds.descriptor(0, 50).numpy(), place, rtol=1e-12)


def test_standing_still_is_the_optimum_of_fitness() -> None:
    task = make_task("point_omni", policy={"hidden_sizes": (4,)}, episode_length=30)
    genomes = first_genomes(task, 20)
    genomes[0] = 0.0
    evaluation = task.evaluate(candidates(genomes))
    assert evaluation.fitness[0] == 30.0 == evaluation.fitness.max()
    assert evaluation.fitness.min() >= task.spec.qd_offset
    assert evaluation.descriptor[0].tolist() == generator_from_seed(0).uniform(-0.1, 0.1, 2).tolist()


@pytest.mark.parametrize("corner", [(1.0, 1.0), (-1.0, 1.0), (1.0, -1.0), (-1.0, -1.0)])
def test_every_corner_of_the_descriptors_bounds_is_within_reach(corner: tuple[float, float]) -> None:
    task = make_task("point_omni")
    worlds = PointWorlds(1, task.spec.episode_length)
    worlds.reset([0], [0])
    for _ in range(task.spec.episode_length):
        worlds.step(torch.tensor([corner]))
    assert (worlds.descriptor(0, 100).abs() >= torch.tensor(task.spec.upper)).all()
