"""Settings of tasks: the `[task]` table of an experiment. Importing this module does not import torch."""

from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from qdrl.settings.base import SettingsModel


class TaskSettings(SettingsModel):
    """Base class of a task's settings. Unknown keys are errors, and instances are immutable."""

    name: str
    """Name of the task, or reference `package.module:Class` of a user's task."""


class FunctionSettings(SettingsModel):
    """Options of `arm`, `sphere` and `rastrigin`."""

    name: Literal["arm", "sphere", "rastrigin"]
    """Name of the task."""
    parameters: Annotated[int, Field(ge=2, le=100_000)] | None = None
    """Length of the genome: number of joints of the arm, or of dimensions of the function."""


class MazeSettings(SettingsModel):
    """Options of `hard_maze` and `medium_maze`."""

    name: Literal["hard_maze", "medium_maze"]
    """Name of the task."""
    episode_length: Annotated[int, Field(ge=1, le=100_000)] = 400
    """Control steps per episode."""


class ImageMazeSettings(SettingsModel):
    """Options of `image_hard_maze`."""

    name: Literal["image_hard_maze"]
    """Name of the task."""
    episode_length: Annotated[int, Field(ge=1, le=100_000)] = 400
    """Control steps per episode."""


class PointSettings(SettingsModel):
    """Options of `point_omni`."""

    name: Literal["point_omni"]
    """Name of the task."""
    episode_length: Annotated[int, Field(ge=1, le=100_000)] = 100
    """Control steps of 0.1 s after which an episode is truncated."""


class AtariSettings(SettingsModel):
    """Options of `atari:<game>`."""

    name: Annotated[str, Field(pattern=r"^atari:[a-z0-9_]+$")]
    """Prefix "atari:" and the name of a ROM, as in `atari:frostbite`."""
    episode_length: Annotated[int, Field(ge=1, le=1_000_000)] = 5000
    """Control steps of four frames; 5,000 are the 20,000 frames in training of Such et al. 2017."""
    no_ops: Annotated[int, Field(ge=0, le=10_000)] = 30
    """Number of different counts of frames without action at the start: 0 to 29 frames for 30."""
    at_least_one_no_op: bool = False
    """Draw from 1 to `no_ops` frames without action, as Such et al. 2017, instead of from 0 to `no_ops` - 1."""
    fire_on_reset: bool = False
    """Start with one step of FIRE and one of the minimal set's third action, as Such et al. 2017, if FIRE is the second
    action of that set."""
    minimal_actions: bool = False
    """Choose from the actions that the game uses, as Such et al. 2017, instead of from all 18."""
    resize: Literal["area", "bilinear"] = "area"
    """How a picture shrinks to 84 x 84: averages of the covered area, or bilinear between the four nearest pixels with
    aligned corners, as Such et al. 2017."""
    sticky_actions: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """Probability that a frame repeats the previous action (Machado et al. 2018 recommend 0.25)."""
    qd_offset: Annotated[float, Field(allow_inf_nan=False)] = 0.0
    """Lower bound of the score that the QD score subtracts."""

    @property
    def game(self) -> str:
        """Name of the ROM."""
        return self.name.removeprefix("atari:")

    @model_validator(mode="after")
    def _check_no_ops(self) -> "AtariSettings":
        if self.at_least_one_no_op and self.no_ops == 0:
            raise ValueError("at_least_one_no_op needs no_ops of 1 or more, got 0")
        return self


class AxisSettings(SettingsModel):
    """One axis of the descriptor."""

    name: str
    """Name of the measured quantity."""
    unit: str = "1"
    """Unit; "1" for a fraction."""
    lower: Annotated[float, Field(allow_inf_nan=False)]
    """Lower bound in the unit."""
    upper: Annotated[float, Field(allow_inf_nan=False)]
    """Upper bound in the unit."""


class GymSettings(SettingsModel):
    """Options of `gym:<id>`."""

    name: Annotated[str, Field(pattern=r"^gym:\S+$")]
    """Prefix "gym:" and the id of the environment."""
    descriptor: str
    """`package.module:function` that maps a trajectory to the descriptor."""
    axes: Annotated[tuple[AxisSettings, ...], Field(min_length=1)]
    """Axes of the descriptor, in order."""
    episode_length: Annotated[int, Field(ge=1)] | None = None
    """Steps after which an episode is truncated; the environment's own limit if left out."""
    qd_offset: Annotated[float, Field(allow_inf_nan=False)] = 0.0
    """Lower bound of the return."""
    reward_offset: Annotated[float, Field(allow_inf_nan=False)] | None = None
    """Number that makes every step's reward non-negative, if there is one."""
    kwargs: dict[str, Any] = Field(default_factory=dict)
    """Keyword arguments of `gymnasium.make`."""
    keep_observations: Literal["all", "last"] | None = None  # None: stored configurations stay as they are
    """Observations of an episode that the descriptor function receives: "all", the default, or only the "last" one,
    which saves the memory of images."""
