"""Values of Faldor et al. 2023 in the units of this project, compared with their code's formulas."""

from math import exp
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from qdrl.config import load_experiment
from qdrl.critics.descriptors import normalize, similarity

FOLDER = Path(__file__).parents[2] / "experiments" / "ant_omni"
LENGTH_SCALE, SIGMA = 0.008, 0.0004  # their table 3; the code multiplies both by the width of the bounds


@pytest.mark.parametrize(
    ("name", "lower", "upper", "divisor"), [("dcg_gecco", -30.0, 30.0, 30.0), ("dcg_gecco_walker", 0.0, 1.0, 1.0)]
)
def test_similarity_and_target_noise_are_those_of_the_gecco_code(
    name: str, lower: float, upper: float, divisor: float
) -> None:
    settings: Any = load_experiment(FOLDER / f"{name}.toml").algorithm
    width = upper - lower
    reached = np.array([lower + 0.4 * width, lower + 0.7 * width])
    target = reached + np.array([0.003, 0.004]) * width
    published = exp(-float(np.linalg.norm(reached / divisor - target / divisor)) / (LENGTH_SCALE * width))
    bounds = np.array([lower, lower]), np.array([upper, upper])
    seen, aim = (normalize(torch.from_numpy(values)[None], *bounds) for values in (reached, target))
    ours = similarity(seen, aim, settings.critic.length_scale)
    assert float(ours[0]) == pytest.approx(published, rel=1e-4)
    assert settings.target_noise * width == pytest.approx(SIGMA * width)
