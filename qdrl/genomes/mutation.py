"""How strongly genomes mutate over the generations of a run."""

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

Power = Annotated[float, Field(gt=0, allow_inf_nan=False)]


class MutationPower(BaseModel):
    """The power of mutations over generations: from `sigma` to `final_sigma` in `generations`, and then as it is.

    Attributes:
        sigma: deviation of the noise that a mutation adds.
        final_sigma: `sigma` itself where left out.
        generations: children's generations until then.
        schedule: "linear", or "exponential": by the same factor in each.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    sigma: Power = 0.002
    final_sigma: Power | None = None
    generations: Annotated[int, Field(ge=1)] = 1000
    schedule: Literal["linear", "exponential"] = "linear"

    def at(self, generation: int) -> float:
        """In a generation of children, counted from 0."""
        if self.final_sigma is None:
            return self.sigma
        done = min(1.0, generation / self.generations)
        if self.schedule == "linear":
            return self.sigma + done * (self.final_sigma - self.sigma)
        return self.sigma * (self.final_sigma / self.sigma) ** done
