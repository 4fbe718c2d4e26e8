"""DCRL-MAP-Elites (Faldor et al. 2024): descriptor-conditioned critic and actor, and actor injection.

A quarter of the children are the conditioned actor, aimed at the descriptors of elites and folded into ordinary
genomes; their episodes, which miss what they aimed at, teach the critic that.
"""

from qdrl.algorithms.critic_guided import CriticGuided, CriticGuidedSettings


class DcrlMapElitesSettings(CriticGuidedSettings):
    """Settings of DCRL-MAP-Elites: 128 children by variation, 64 by gradient, 64 injected, of a batch of 256."""

    name: str = "dcrl_map_elites"


class DcrlMapElites(CriticGuided):
    """See `qdrl.algorithms.base.Algorithm`."""

    Settings = DcrlMapElitesSettings
