"""Settings of critics and of policy-gradient variation; defaults are those of the papers.

TD3: https://arxiv.org/abs/1802.09477. Faldor et al. 2023: https://arxiv.org/abs/2303.03832. Faldor et al. 2024:
https://arxiv.org/abs/2401.08632. Nilsson and Cully 2021: https://doi.org/10.1145/3449639.3459304.
"""

from typing import Annotated, Literal

from pydantic import Field, model_validator

from qdrl.settings.base import SettingsModel

Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]
NotNegative = Annotated[float, Field(ge=0, allow_inf_nan=False)]
Count = Annotated[int, Field(ge=1)]


class Td3Settings(SettingsModel):
    """Settings of TD3; defaults are those of Faldor et al. 2024."""

    hidden_sizes: Annotated[tuple[Annotated[int, Field(ge=1, le=65536)], ...], Field(min_length=1)] = (256, 256)
    """Units of each hidden layer of a critic."""
    actor_hidden_sizes: Annotated[tuple[Annotated[int, Field(ge=1, le=65536)], ...], Field(min_length=1)] | None = None
    """Units of each hidden layer of the actor; those of the policies if left out. Faldor et al. 2023, table 3, use
    [256, 256] with policies of [128, 128]. An actor of other sizes than the policies' cannot be a genome: it needs
    `actor_rows = 0`, and `probe_order = "after_children"` where there are probes."""
    steps: Count = 3000
    """Critic steps of a training phase, one phase a generation."""
    batch_size: Count = 100
    """Transitions of a minibatch."""
    discount: Annotated[float, Field(ge=0, lt=1)] = 0.99
    """Discount factor of future rewards, gamma."""
    target_rate: Annotated[float, Field(gt=0, le=1)] = 0.005
    """Rate tau of the targets' updates: target += tau * (network - target)."""
    noise: NotNegative = 0.2
    """Standard deviation of the target policy's smoothing noise."""
    noise_clip: NotNegative = 0.5
    """Largest absolute value of that noise."""
    actor_delay: Count = 2
    """Critic steps for each actor step."""
    critic_learning_rate: Positive = 3e-4
    """Learning rate of the critics' Adam."""
    actor_learning_rate: Positive = 3e-4
    """Learning rate of the actor's Adam."""
    reward_scale: Positive = 1.0
    """Factor of all rewards."""
    length_scale: Positive = 0.1
    """Length scale l of S(d, d') = exp(-||d - d'|| / l), in units of descriptors in [-1, 1]."""
    flipped_negatives: bool = False
    """Draw only half of a minibatch. The other half are the same transitions with their target descriptors in reverse
    order, and S(d, d') scales their rewards accordingly. These are the artificial negatives in the code of Faldor et
    al. 2023, an ablation of their section 5.5. Each shard's part of `batch_size` must be even, and the critics must be
    conditioned on descriptors."""
    truncation: Literal["mask", "bootstrap"] = "mask"
    """Weight of the last transition of a truncated episode in the critics' loss. "mask": zero, and the mean is still
    over the whole minibatch, as in the code of Faldor et al. "bootstrap": one, like all other transitions, as in the
    code of Nilsson and Cully."""
    order: Literal["code", "paper"] = "code"
    """Order of the updates. "code", as in the code of Faldor et al.: critic targets move at every step; the actor is
    updated at the first step and every `actor_delay` steps, with the critic before its update. "paper", as in Fujimoto
    et al., algorithm 1: at every `actor_delay`-th step the actor is updated with the updated critic, and then all
    targets move."""


class PolicyGradientSettings(SettingsModel):
    """Settings of policy-gradient variation; defaults are those of Faldor et al. 2023, table 3."""

    steps: Count = 150
    """Steps of Adam for each offspring."""
    batch_size: Count = 100
    """States of a step."""
    learning_rate: Positive = 5e-3
    """Learning rate of Adam."""


class LearningSettings(SettingsModel):
    """Settings of the learners: replay buffer, TD3 and policy-gradient variation."""

    learners: Annotated[int, Field(ge=1, le=1024)] = 1
    """Number of ranks that train together. The replay buffer has one shard for each; each shard gives an equal part of
    every minibatch, and gradients are summed over all of them. Results depend on this number as on a seed, but not on
    the number of ranks: with fewer ranks, a rank holds several shards."""
    replay_capacity: Annotated[int, Field(ge=1, le=1_000_000_000)] = 1_000_000
    """Transitions in the replay buffer, all shards together."""
    conditioned_actor: bool = True
    """Whether the actor sees the target descriptor. Critics always do; without is an ablation of Faldor et al. 2023."""
    critic: Td3Settings = Td3Settings()
    """Settings of TD3."""
    gradient: PolicyGradientSettings = PolicyGradientSettings()
    """Settings of policy-gradient variation."""

    @model_validator(mode="after")
    def _check_batches(self) -> "LearningSettings":
        for name, size in (("critic", self.critic.batch_size), ("gradient", self.gradient.batch_size)):
            if size % self.learners:
                raise ValueError(f"{name}.batch_size ({size}) must be a multiple of learners ({self.learners})")
        if self.critic.flipped_negatives and (size := self.critic.batch_size) % (2 * self.learners):
            raise ValueError(
                f"critic.batch_size ({size}) must be a multiple of {2 * self.learners}, twice the learners, with"
                " flipped_negatives"
            )
        if (least := max(self.critic.batch_size, self.gradient.batch_size)) > self.replay_capacity:
            raise ValueError(f"replay_capacity ({self.replay_capacity}) must hold a minibatch ({least})")
        return self
