"""`Robot`, the base class of a user's robot: any MJCF model with functions of the user's; see docs/how-to/robot.md."""

from pathlib import Path
from typing import ClassVar

from pydantic import BaseModel

from qdrl.archives.axes import Axis
from qdrl.errors import UserError
from qdrl.physics.mjcf import ModelSource
from qdrl.tasks.base import TaskSetup
from qdrl.tasks.episodic import EpisodicTask
from qdrl.tasks.locomotion.behaviour import Array, Behaviour, RobotSettings, State, Step
from qdrl.tasks.locomotion.models import read_model
from qdrl.tasks.locomotion.task import make_robot_task

__all__ = ["Array", "Axis", "Robot", "RobotSettings", "State", "Step"]


class Robot(Behaviour):
    """A user's robot. Subclass it, and name the subclass in the experiment: `task.name = "package.module:Class"`.

    See `Behaviour` for the attributes and functions that a subclass can define; `reward` and `descriptor` are needed.

    Args:
        settings: The task's settings, an instance of `Settings`.

    Attributes:
        Settings: Settings class: `RobotSettings` or a subclass.
        devices: Values of `compute.device` on which the robot can be simulated.
        xml: Path of the MJCF file. Includes and meshes are resolved from it and stored in archives.
        touch: Bodies that get a touch sensor each; their readings follow the model's own in `sensordata`.
    """

    Settings: ClassVar[type[BaseModel]] = RobotSettings
    devices: ClassVar[tuple[str, ...]] = ("cpu", "cuda", "warp-cpu")

    xml: str | Path = ""
    touch: tuple[str, ...] = ()

    @classmethod
    def make_task(cls, settings: RobotSettings, setup: TaskSetup) -> EpisodicTask:
        """Return the task of this robot; the registry calls it for a reference to the class.

        Args:
            settings: An instance of `Settings`.
            setup: How the task computes.

        Raises:
            UserError: The class lacks something, or its functions do not fit its model.
        """
        if not isinstance(settings, RobotSettings):
            raise UserError(f"task.name: {cls.__name__}.Settings must be a subclass of RobotSettings")
        return make_robot_task(cls(settings), setup)

    def source(self) -> ModelSource:
        """Return the model's text and files."""
        return read_model(self.xml, touch=self.touch)
