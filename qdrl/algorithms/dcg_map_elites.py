"""DCG-MAP-Elites (Faldor et al. 2023): descriptor-conditioned critic and actor, and evaluations of the actor.

Besides a batch of 128 children by variation and 128 by gradient, the conditioned actor is evaluated on 256 descriptors
of elites, a little noise added. These episodes never enter the archive; they cost as much as the batch, and count.
The paper's length of S(d, d') is 0.008 in units that differ between tasks, and its actor has 256 x 256 units; here the
length is that of Faldor et al. 2024 and the actor has the policies' shape.
"""

from typing import Annotated, Literal

from pydantic import Field

from qdrl.algorithms.critic_guided import CriticGuided, CriticGuidedSettings, Rows


class DcgMapElitesSettings(CriticGuidedSettings):
    """Settings of DCG-MAP-Elites."""

    name: str = "dcg_map_elites"
    gradient_rows: Rows = 128
    actor_rows: Rows = 0
    probe_rows: Rows = 256
    gradient_rows_aim: Literal["parent", "reached"] = "reached"
    target_noise: Annotated[float, Field(ge=0, allow_inf_nan=False)] = 0.0004


class DcgMapElites(CriticGuided):
    """See `qdrl.algorithms.base.Algorithm`."""

    Settings = DcgMapElitesSettings
