"""Settings of tasks: the `[task]` table of an experiment. Importing this module does not import torch."""

from qdrl.settings.base import SettingsModel


class TaskSettings(SettingsModel):
    """Base class of a task's settings. Unknown keys are refused, and values cannot be changed afterwards."""

    name: str
    """Name of the task, or reference `package.module:Class` of a user's task."""
