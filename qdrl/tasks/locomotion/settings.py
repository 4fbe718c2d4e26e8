"""Settings of the built-in locomotion tasks. Importing this module imports neither torch nor MuJoCo."""

from dataclasses import dataclass
from typing import Annotated, Literal

from pydantic import Field, model_validator

from qdrl.settings.base import SettingsModel
from qdrl.tasks.locomotion.robots import ROBOTS, GymnasiumRobot


@dataclass(frozen=True)
class Defaults:
    """Robot and published settings of a built-in task.

    Attributes:
        robot: The robot.
        episode_length: Control steps per episode.
        reach: Half the width of the square of final positions in m; None for `_uni` tasks.
        trap: Whether the walls of AntTrap are added.
    """

    robot: GymnasiumRobot
    episode_length: int
    reach: float | None = None
    trap: bool = False


# Episode lengths and omni bounds of Faldor et al. 2023 and 2024; differences: docs/decisions/0009-omni-observations.md.
DEFAULTS = {
    "walker2d_uni": Defaults(ROBOTS["walker2d"], 1000),
    "halfcheetah_uni": Defaults(ROBOTS["halfcheetah"], 1000),
    "hopper_uni": Defaults(ROBOTS["hopper"], 1000),
    "ant_uni": Defaults(ROBOTS["ant"], 1000),
    "humanoid_uni": Defaults(ROBOTS["humanoid"], 1000),
    "ant_omni": Defaults(ROBOTS["ant"], 250, reach=30.0),
    "anttrap_omni": Defaults(ROBOTS["ant"], 250, reach=30.0, trap=True),
    "humanoid_omni": Defaults(ROBOTS["humanoid"], 1000, reach=10.0),
}
LOCOMOTION_NAMES = tuple(DEFAULTS)


class LocomotionSettings(SettingsModel):
    """Options of the locomotion tasks."""

    name: Literal[
        "walker2d_uni",
        "halfcheetah_uni",
        "hopper_uni",
        "ant_uni",
        "humanoid_uni",
        "ant_omni",
        "anttrap_omni",
        "humanoid_omni",
    ]
    """Name of the task."""
    episode_length: Annotated[int, Field(ge=1, le=100_000)] | None = None
    """Control steps after which an episode is truncated; the published length if left out."""
    initial_noise: Annotated[float, Field(ge=0, le=10, allow_inf_nan=False)] | None = None
    """Scale of the initial state's noise; Gymnasium's if left out, 0 for one fixed state."""
    time_in_observation: bool | None = None
    """Append the fraction of the episode left to the observation; on in omni tasks if left out."""
    healthy_reward: Annotated[float, Field(ge=0, le=1e6, allow_inf_nan=False)] | None = None
    """Reward per step while healthy; Gymnasium's if left out. 0 keeps evolution strategies from learning to stand
    still (Toklu et al. 2020 subtract it in training); fitness is then the return without it."""
    reach: Annotated[float, Field(gt=0, le=1e6, allow_inf_nan=False)] | None = None
    """Half the width of the square of final positions, in m; only of omni tasks."""

    reward_offset: Annotated[float, Field(ge=-1e6, le=1e6)] | None = None
    """Number that the QD score and descriptor-conditioned critics add to the reward of every control step; the
    task's own if left out."""
    offset_in_fitness: bool = False
    """Make fitness the sum of max(reward + `reward_offset`, 0) over the steps, as in the published code of PGA-, DCG-
    and DCRL-MAP-Elites. Elites then compete by it, and all critics receive these rewards."""

    @model_validator(mode="after")
    def _check_options(self) -> "LocomotionSettings":
        defaults = DEFAULTS[self.name]
        if self.reach is not None and defaults.reach is None:
            raise ValueError(f"reach applies only to omni tasks, not to {self.name}")
        if self.healthy_reward is not None and defaults.robot.healthy is None:
            raise ValueError(f"{self.name} has no healthy state: leave healthy_reward out")
        return self

    def resolved(self) -> "LocomotionSettings":
        """Return these settings with every default filled in."""
        defaults = DEFAULTS[self.name]
        omni, robot = defaults.reach is not None, defaults.robot
        usual = None if robot.healthy is None else robot.healthy_reward
        return LocomotionSettings(
            name=self.name,
            episode_length=self.episode_length or defaults.episode_length,
            initial_noise=robot.noise if self.initial_noise is None else self.initial_noise,
            healthy_reward=usual if self.healthy_reward is None else self.healthy_reward,
            time_in_observation=omni if self.time_in_observation is None else self.time_in_observation,
            reach=(self.reach or defaults.reach) if omni else None,
            reward_offset=self.reward_offset,
            offset_in_fitness=self.offset_in_fitness,
        )
