"""DCRL-MAP-Elites (Faldor et al. 2024): descriptor-conditioned critic and actor, and actor injection.

Paper: https://arxiv.org/abs/2401.08632.

A quarter of each batch is the conditioned actor. Its targets are descriptors of elites; each target is folded into the
biases of the first layer, so that the result is an ordinary genome. The episodes of these rows, which reach other
descriptors than their targets, are negative examples for the critic.
"""

from qdrl.algorithms.critic_guided import CriticGuided
from qdrl.algorithms.critic_guided_settings import CriticGuidedSettings


class DcrlMapElitesSettings(CriticGuidedSettings):
    """Settings of DCRL-MAP-Elites: a batch of 128 offspring by variation, 64 by gradient and 64 injected actors."""

    name: str = "dcrl_map_elites"


class DcrlMapElites(CriticGuided):
    """DCRL-MAP-Elites: conditioned critics and actor; the actor is injected into the batch."""

    Settings = DcrlMapElitesSettings
