"""DCG-MAP-Elites (Faldor et al. 2023): descriptor-conditioned critic and actor, and evaluations of the actor.

Paper: https://arxiv.org/abs/2303.03832.

A batch is 128 offspring by variation and 128 by policy gradient. In addition, the conditioned actor is evaluated on the
descriptors of 256 elites, with some noise added. These evaluations never enter the archive.

The defaults differ from the paper: its length scale of S(d, d') is 0.008 in units that differ between tasks, its actor
has 256 x 256 hidden units, and it evaluates the actor after the children have entered the archive. Here the length
scale is that of Faldor et al. 2024 (https://arxiv.org/abs/2401.08632), the actor has the layers of the policies, and it
is evaluated together with the children. `experiments/ant_omni/dcg_gecco.toml` sets the paper's values.
"""

from typing import Annotated, Literal

from pydantic import Field

from qdrl.algorithms.critic_guided import CriticGuided
from qdrl.algorithms.critic_guided_settings import CriticGuidedSettings, Rows


class DcgMapElitesSettings(CriticGuidedSettings):
    """Settings of DCG-MAP-Elites."""

    name: str = "dcg_map_elites"
    gradient_rows: Rows = 128
    actor_rows: Rows = 0
    probe_rows: Rows = 256
    gradient_rows_aim: Literal["parent", "reached"] = "reached"
    target_noise: Annotated[float, Field(ge=0, allow_inf_nan=False)] = 0.0004


class DcgMapElites(CriticGuided):
    """DCG-MAP-Elites: conditioned critics and actor; the actor is evaluated for its transitions."""

    Settings = DcgMapElitesSettings
