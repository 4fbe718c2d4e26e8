"""PGA-MAP-Elites (Nilsson and Cully 2021): half the children by variation, half by policy gradient, one the actor.

The critics know nothing of descriptors: gradients lead to fitness alone. What is said of differences between paper
and code in `Td3Settings` holds here: `order = "paper"` and `truncation = "bootstrap"` are those of the authors' code.
"""

from qdrl.algorithms.critic_guided import CriticGuided, CriticGuidedSettings, Rows


class PgaMapElitesSettings(CriticGuidedSettings):
    """Settings of PGA-MAP-Elites: 128 children by variation, 127 by gradient and the greedy actor of a batch of 256."""

    name: str = "pga_map_elites"
    gradient_rows: Rows = 127
    actor_rows: Rows = 1


class PgaMapElites(CriticGuided):
    """See `qdrl.algorithms.base.Algorithm`."""

    Settings = PgaMapElitesSettings
    conditioned = False
