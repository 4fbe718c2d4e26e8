"""Settings of the algorithms with critics: rows of each emitter, and targets and rewards of transitions."""

from typing import Annotated, Literal

from pydantic import Field, model_validator

from qdrl.algorithms.map_elites import MapElitesSettings
from qdrl.critics.settings import LearningSettings

Rows = Annotated[int, Field(ge=0, le=1_000_000)]


class CriticGuidedSettings(MapElitesSettings, LearningSettings):
    """Settings that the critic-guided algorithms share.

    The settings of the learners are in `qdrl.critics.settings.LearningSettings`.
    """

    gradient_rows: Rows = 64
    """Rows of `batch_size` by policy-gradient variation."""
    actor_rows: Rows = 64
    """Rows of `batch_size` that are the trained actor and may enter the archive."""
    probe_rows: Rows = 0
    """Rows in addition to `batch_size` that are the trained actor; only their transitions are used."""
    probe_order: Literal["with_children", "after_children"] = "with_children"
    """When probes are evaluated. "with_children": in the same generation, with targets from the archive before it.
    "after_children": in a generation of their own, with targets from the archive that the children have entered, also
    after random genomes. Training follows the probes, so that one generation of the algorithm takes two of the run.
    That is the order in Faldor et al. 2023, algorithm 1, and in the code of Faldor et al. 2023 and 2024. Failed probes
    in a generation of their own do not end the run (`run.max_failed_share`)."""
    count_probes: bool = False
    """Whether probes count in `evaluations` and `run.evaluations`. Faldor et al. 2023 do not count them; the plots of
    the code of Faldor et al. 2024 do: 320 for 256 children and 64 probes. `env_steps` always counts them."""
    gradient_rows_aim: Literal["parent", "reached"] = "parent"
    """Target descriptor stored with the transitions of gradient rows. "parent": the descriptor of their parent, as in
    the code of Faldor et al. 2024. "reached": the descriptor they reached, as for all other offspring (Faldor et al.
    2023)."""
    artificial_negatives: bool = False
    """Store the transitions of rows that are not the actor a second time, with the descriptor of a random elite as
    target. `critic.flipped_negatives` is the rule in the code of Faldor et al. 2023."""
    target_noise: Annotated[float, Field(ge=0, allow_inf_nan=False)] = 0.0
    """Standard deviation of the noise on the actor's target descriptors, as a fraction of the width of each axis."""
    reward_offset: Annotated[float, Field(ge=-1e6, le=1e6)] | None = None
    """Offset added to each reward before negative rewards become zero; the task's own offset by default. Rewards of
    unconditioned critics are left unchanged unless this is set."""

    @property
    def emitter_rows(self) -> dict[str, int]:
        """Return the number of rows of each emitter, once genomes are no longer random."""
        return {
            "variation": self.batch_size - self.gradient_rows - self.actor_rows,
            "gradient": self.gradient_rows,
            "actor": self.actor_rows,
            "probe": self.probe_rows,
        }

    @property
    def probes_apart(self) -> bool:
        """Return whether probes are a generation of their own."""
        return self.probe_order == "after_children" and self.probe_rows > 0

    @model_validator(mode="after")
    def _fits(self) -> "CriticGuidedSettings":
        if self.gradient_rows + self.actor_rows > self.batch_size:
            raise ValueError(
                f"gradient_rows ({self.gradient_rows}) + actor_rows ({self.actor_rows}) must be at most"
                f" batch_size ({self.batch_size})"
            )
        return self
