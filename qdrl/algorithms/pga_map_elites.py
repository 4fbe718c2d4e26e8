"""PGA-MAP-Elites (Nilsson and Cully 2021): half the offspring by variation, half by policy gradient, and the actor.

Paper: https://doi.org/10.1145/3449639.3459304.

The critics are not conditioned on descriptors, so gradients increase fitness alone. `critic.order = "paper"` and
`critic.truncation = "bootstrap"` reproduce the authors' code (see `qdrl.critics.settings.Td3Settings`).
"""

from qdrl.algorithms.critic_guided import CriticGuided
from qdrl.algorithms.critic_guided_settings import CriticGuidedSettings, Rows


class PgaMapElitesSettings(CriticGuidedSettings):
    """Settings of PGA-MAP-Elites: a batch of 128 offspring by variation, 127 by gradient, and the greedy actor."""

    name: str = "pga_map_elites"
    gradient_rows: Rows = 127
    actor_rows: Rows = 1


class PgaMapElites(CriticGuided):
    """PGA-MAP-Elites: critics and actor of fitness alone, not conditioned on descriptors."""

    Settings = PgaMapElitesSettings
    conditioned = False
