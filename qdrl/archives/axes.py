"""An axis of the behaviour descriptor."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Axis:
    """One number of the descriptor.

    Attributes:
        name: what it measures, for example "left foot contact".
        unit: its unit; "1" for a fraction.
        lower: lower bound of the archive along it, in the unit.
        upper: upper bound.
    """

    name: str
    unit: str
    lower: float
    upper: float

    @property
    def label(self) -> str:
        """Name and unit, for a plot or a table."""
        return self.name if self.unit == "1" else f"{self.name} [{self.unit}]"
