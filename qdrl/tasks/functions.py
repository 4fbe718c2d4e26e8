"""Tasks without physics: fitness and descriptor are functions of the genome. Cheap, exact, well known."""

import math
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from typing import Annotated, Any, Literal

import numpy as np
import torch
from pydantic import Field
from torch import Tensor

from qdrl.archives.axes import Axis
from qdrl.compute.arithmetic import PORTABLE, Arithmetic
from qdrl.compute.arithmetic.trigonometry import portable_sines
from qdrl.evaluation import Candidates, Evaluation, evaluated
from qdrl.settings.base import SettingsModel
from qdrl.tasks.base import TaskSpec

Function = Callable[[Tensor], tuple[Tensor, Tensor]]

_DOMAIN = 5.12
_OPTIMUM = 0.4 * _DOMAIN


class FunctionSettings(SettingsModel):
    """Options of `arm`, `sphere` and `rastrigin`."""

    name: Literal["arm", "sphere", "rastrigin"]
    """The task."""
    parameters: Annotated[int, Field(ge=2, le=100_000)] | None = None
    """Length of the genome: the arm's joints, or the function's dimensions."""


class FunctionTask:
    """See `qdrl.tasks.base.Task`.

    Args:
        spec: what the task is.
        parameters: length of a genome.
        spread: half the width of the interval around zero that first genomes are uniform in.
        function: `(rows, parameters)` float64 -> fitness `(rows,)`, descriptor `(rows, d)`.
    """

    mjcf = None

    def __init__(self, spec: TaskSpec, parameters: int, spread: float, function: Function) -> None:
        self.spec = spec
        self.parameters = parameters
        self._spread = spread
        self._function = function

    def initial(self, generator: np.random.Generator) -> np.ndarray:
        return generator.uniform(-self._spread, self._spread, self.parameters).astype(np.float32)

    def evaluate(self, candidates: Candidates) -> Evaluation:
        fitness, descriptor = self._function(candidates.genomes[:].double())
        steps = torch.ones(len(candidates.genomes), dtype=torch.int64, device=fitness.device)
        return evaluated(candidates, fitness=fitness, descriptor=descriptor, steps=steps)

    def update(self, evaluation: Evaluation) -> None:
        """Nothing is learnt from a generation."""

    def describe_policy(self) -> dict[str, Any] | None:
        return None

    def state_dict(self, generations: Iterable[int]) -> dict[str, np.ndarray] | None:  # noqa: ARG002
        return None

    def load_state_dict(self, state: Mapping[str, np.ndarray]) -> None:
        """There is no state."""


def make_function_task(settings: FunctionSettings, arithmetic: Arithmetic = PORTABLE) -> FunctionTask:
    """Make the task that the settings name; `arithmetic` names how sines are computed."""
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
    """Kinematics of Cully et al. 2015's arm: the genome is the relative joint angles in rad, cut to +-pi."""
    joints = genomes.shape[1]
    angles = genomes.clamp(-math.pi, math.pi)
    sine, cosine = _sines(angles.cumsum(1), arithmetic)
    gripper = torch.stack([_row_sum(cosine), _row_sum(sine)], dim=1) / joints
    mean = _row_sum(angles) / joints
    return 0.0 - (_row_sum((angles - mean[:, None]).square()) / joints).sqrt(), gripper


def _linear_projection(name: str, dimensions: int, arithmetic: Arithmetic) -> FunctionTask:
    """Sphere and Rastrigin with linear projection descriptors (Fontaine et al. 2020, section 5.1)."""
    objective = {"sphere": _sphere, "rastrigin": partial(_rastrigin, arithmetic=arithmetic)}[name]
    half = dimensions // 2
    worst = objective(torch.full((1, dimensions), -_DOMAIN, dtype=torch.float64)).item()

    def function(genomes: Tensor) -> tuple[Tensor, Tensor]:
        # Beyond the domain a coordinate counts less the further out it is, so that the corners stay hard to reach.
        inside = torch.where(genomes.abs() <= _DOMAIN, genomes, _DOMAIN / genomes)
        descriptor = torch.stack([_row_sum(inside[:, :half]), _row_sum(inside[:, half:])], dim=1)
        # Cut at zero as in the paper's code: beyond the domain, and for Rastrigin near its border, it is worse still.
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
    # Whole turns leave the cosine as it is; taking them off is exact and keeps the angle small.
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
    """Sum of each row, left to right: unlike `sum`, the same bits however many rows there are."""
    return values.cumsum(1)[:, -1]
