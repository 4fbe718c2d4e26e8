"""The schedule of the mutation power over the generations of a run."""

from typing import Annotated, Literal

from pydantic import Field

from qdrl.settings.base import SettingsModel

Power = Annotated[float, Field(gt=0, allow_inf_nan=False)]


class MutationPower(SettingsModel):
    """The power of mutations: from `sigma` to `final_sigma` within `generations`, constant from then on."""

    sigma: Power = 0.002
    """Standard deviation of the noise that a mutation adds."""
    final_sigma: Power | None = None
    """Standard deviation after the schedule; `sigma` where left out."""
    generations: Annotated[int, Field(ge=1)] = 1000
    """Length of the schedule, in generations of children."""
    schedule: Literal["linear", "exponential"] = "linear"
    """Course of the power: "linear", or "exponential" with the same factor in every generation."""

    def at(self, generation: int) -> float:
        """Return the power in a generation of children, counted from 0."""
        if self.final_sigma is None:
            return self.sigma
        done = min(1.0, generation / self.generations)
        if self.schedule == "linear":
            return self.sigma + done * (self.final_sigma - self.sigma)
        return self.sigma * (self.final_sigma / self.sigma) ** done
