"""Settings of Deep GA."""

from typing import Annotated, Literal

from pydantic import Field, model_validator

from qdrl.genomes.mutation import MutationPower
from qdrl.genomes.noise import KeyedNoise, Noise
from qdrl.settings.base import SettingsModel


class DeepGaSettings(SettingsModel):
    """Settings of Deep GA; defaults are those of Such et al. 2017 on Atari."""

    name: str = "deep_ga"
    """Name of the algorithm: "deep_ga"."""
    objective: Literal["fitness", "novelty"] = "fitness"
    """Objective that selects parents: "fitness", or "novelty", which needs `archive.kind = "novelty"`."""
    batch_size: Annotated[int, Field(ge=1, le=1_000_000)] = 1000
    """Children per generation."""
    episodes_per_child: Annotated[int, Field(ge=1, le=10_000)] = 1
    """Episodes of each child, over which its fitness and its descriptor are averaged; 5 on Humanoid in Such et al.
    2017. All of them count in every budget."""
    copy_elite: bool = False
    """Evaluate an unmodified copy of the elite beside the children, as in the paper ("1,000 + 1"); it competes as they
    do. If the objective is "novelty", the copy is of the most novel genome of the generation before. The authors' code
    mutates all children."""
    parents: Annotated[int, Field(ge=0, le=1_000_000)] = 20
    """Number of parents, which include the elite if the objective is "fitness"; 0 for random search."""
    distance: Literal["euclidean", "squared_euclidean"] = "euclidean"
    """Distance between behaviours, of which novelty is the mean over the nearest neighbours, if the objective is
    "novelty": "euclidean" (Lehman and Stanley 2011), or "squared_euclidean" (Such et al. 2017, as a summary of the
    paper states; the authors' code of GA-NS was not released)."""
    mutation: MutationPower = MutationPower()
    """Standard deviation of mutations."""
    candidates: Annotated[int, Field(ge=1, le=10_000)] = 10
    """Number of candidates for the elite: the elite so far and the best children."""
    candidate_episodes: Annotated[int, Field(ge=0, le=10_000)] = 30
    """Additional episodes of each candidate; 0 selects the elite by its single evaluation, which is enough if episodes
    are deterministic."""
    noise: Noise = KeyedNoise()
    """Source of the noise of mutations."""
    rebase_depth: Annotated[int, Field(ge=1)] | None = None
    """Number of lineage entries of the parents' last common ancestor beyond which its genome is stored, and lineages
    start from there. Never by default."""

    @model_validator(mode="after")
    def _check_candidates(self) -> "DeepGaSettings":
        if self.candidate_episodes and self.candidates < 2:
            raise ValueError("candidates must be at least 2 (the elite so far and a child), or candidate_episodes 0")
        if self.copy_elite and not self.parents:
            raise ValueError("copy_elite needs parents: random search has no elite among its children")
        return self
