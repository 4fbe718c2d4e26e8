"""Tasks without physics: fitness and descriptor are exact, cheap functions of the genome."""

import math
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor

from qdrl.archives.axes import Axis
from qdrl.compute.arithmetic import PORTABLE, Arithmetic
from qdrl.compute.arithmetic.trigonometry import portable_sines
from qdrl.evaluation import Candidates, Evaluation, evaluated
from qdrl.tasks.base import Task, TaskSetup, TaskSpec
from qdrl.tasks.episodes.contract import check_pair, check_tensor
from qdrl.tasks.settings import FunctionSettings

Function = Callable[[Tensor], tuple[Tensor, Tensor]]

_DOMAIN = 5.12
_OPTIMUM = 0.4 * _DOMAIN


class FunctionTask(Task):
    """A task whose fitness and descriptor are functions of the genome; see `qdrl.tasks.base.Task`.

    Args:
        spec: Description of the task.
        parameters: Length of a genome.
        spread: Half the width of the interval around zero in which first genomes are uniform.
        function: Maps genomes `(rows, parameters)` float64 to fitness `(rows,)` and descriptors `(rows, d)`.
    """

    def __init__(self, spec: TaskSpec, parameters: int, spread: float, function: Function) -> None:
        self.spec = spec
        self.parameters = parameters
        self._spread = spread
        self._function = function

    def initial(self, generator: np.random.Generator) -> np.ndarray:
        """Return a random first genome."""
        return generator.uniform(-self._spread, self._spread, self.parameters).astype(np.float32)

    def evaluate(self, candidates: Candidates) -> Evaluation:
        """Evaluate every row once.

        Raises:
            UserError: The function returned values of another type, shape or dtype than it must.
        """
        fitness, descriptor = self._call(candidates.genomes[:].double())
        steps = torch.ones(len(candidates.genomes), dtype=torch.int64, device=fitness.device)
        return evaluated(candidates, fitness=fitness, descriptor=descriptor, steps=steps)

    def _call(self, genomes: Tensor) -> tuple[Tensor, Tensor]:
        """Call the function and check what it returns."""
        returned: Any = self._function(genomes)
        name = f"the function of {type(self).__name__} ('{self.spec.name}') returned"
        fitness, descriptor = check_pair(name, returned, "(fitness, descriptor)")
        order = "; it returns (fitness, descriptor)"
        check_tensor(f"{name} as fitness", fitness, (len(genomes),), torch.float64, order)
        shape = len(genomes), len(self.spec.axes)
        check_tensor(f"{name} as descriptor", descriptor, shape, torch.float64, order)
        return fitness, descriptor


def make_function_task(settings: FunctionSettings, setup: TaskSetup) -> FunctionTask:
    """Return the task that settings name.

    Args:
        settings: Settings of the task.
        setup: How the task computes; of it only `arithmetic` is used, for sines.
    """
    arithmetic = setup.arithmetic
    if settings.name == "arm":
        return _arm(settings.parameters or 8, arithmetic)
    return _linear_projection(settings.name, settings.parameters or 20, arithmetic)


def _arm(joints: int, arithmetic: Arithmetic) -> FunctionTask:
    spec = TaskSpec(
        name="arm",
        summary="Planar arm of total length 1 m: reach everywhere with joints as equal as possible.",
        axes=(Axis("gripper x", "m", -1.0, 1.0), Axis("gripper y", "m", -1.0, 1.0)),
        fitness_name="minus standard deviation of the joint angles [rad]",
        episode_length=1,
        qd_offset=-math.pi,
        reward_offset=math.pi,
        options={"name": "arm", "parameters": joints},
        arithmetic=arithmetic,
    )
    return FunctionTask(spec, joints, math.pi, partial(_reach, arithmetic=arithmetic))


def _reach(genomes: Tensor, arithmetic: Arithmetic) -> tuple[Tensor, Tensor]:
    """Return fitness and gripper positions of the arm of Cully et al. 2015; genes are joint angles, clipped to +-pi."""
    joints = genomes.shape[1]
    angles = genomes.clamp(-math.pi, math.pi)
    sine, cosine = _sines(angles.cumsum(1), arithmetic)
    gripper = torch.stack([_row_sum(cosine), _row_sum(sine)], dim=1) / joints
    mean = _row_sum(angles) / joints
    return 0.0 - (_row_sum((angles - mean[:, None]).square()) / joints).sqrt(), gripper


def _linear_projection(name: str, dimensions: int, arithmetic: Arithmetic) -> FunctionTask:
    """Return sphere or Rastrigin with linear projection descriptors (Fontaine et al. 2020, section 5.1)."""
    objective = {"sphere": _sphere, "rastrigin": partial(_rastrigin, arithmetic=arithmetic)}[name]
    half = dimensions // 2
    worst = objective(torch.full((1, dimensions), -_DOMAIN, dtype=torch.float64)).item()

    def function(genomes: Tensor) -> tuple[Tensor, Tensor]:
        # Outside the domain a coordinate's contribution decreases with its magnitude: corners stay hard to reach.
        inside = torch.where(genomes.abs() <= _DOMAIN, genomes, _DOMAIN / genomes)
        descriptor = torch.stack([_row_sum(inside[:, :half]), _row_sum(inside[:, half:])], dim=1)
        # Clipped at zero as in the paper's code: outside the domain, and near Rastrigin's border, it is negative.
        return (100.0 * (1.0 - objective(genomes) / worst)).clamp(min=0.0), descriptor

    spec = TaskSpec(
        name=name,
        summary=f"{name.capitalize()} function shifted to 2.048, with linear projection descriptors.",
        axes=(
            Axis("sum of the first half", "1", -_DOMAIN * half, _DOMAIN * half),
            Axis("sum of the second half", "1", -_DOMAIN * (dimensions - half), _DOMAIN * (dimensions - half)),
        ),
        fitness_name="per cent of the way from the worst corner to the optimum",
        episode_length=1,
        qd_offset=0.0,
        reward_offset=0.0,
        options={"name": name, "parameters": dimensions},
        arithmetic=arithmetic,
    )
    return FunctionTask(spec, dimensions, _DOMAIN, function)


def _sphere(genomes: Tensor) -> Tensor:
    return _row_sum((genomes - _OPTIMUM).square())


def _rastrigin(genomes: Tensor, arithmetic: Arithmetic) -> Tensor:
    shifted = genomes - _OPTIMUM
    # Whole turns do not change the cosine; subtracting them is exact and keeps the angle small.
    turns = shifted - shifted.round() if arithmetic == PORTABLE else shifted
    _, cosine = _sines(2.0 * math.pi * turns, arithmetic)
    return _row_sum(shifted.square() - 10.0 * cosine + 10.0)


def _sines(angles: Tensor, arithmetic: Arithmetic) -> tuple[Tensor, Tensor]:
    """Return sines and cosines of angles in rad."""
    if arithmetic != PORTABLE:
        return angles.sin(), angles.cos()
    sine, cosine = portable_sines(angles.numpy())
    return torch.from_numpy(sine), torch.from_numpy(cosine)


def _row_sum(values: Tensor) -> Tensor:
    """Return the sum of each row, left to right: unlike `sum`, the same bits for any number of rows."""
    return values.cumsum(1)[:, -1]
