"""What an experiment may say about critics; defaults are those of the papers."""

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]
NotNegative = Annotated[float, Field(ge=0, allow_inf_nan=False)]
Count = Annotated[int, Field(ge=1)]


class Td3Settings(BaseModel):
    """Settings of the critics; defaults are those of Faldor et al. 2024.

    Attributes:
        hidden_sizes: units of each hidden layer of a critic.
        steps: critic steps of a training phase.
        batch_size: transitions a step.
        discount: of the future, gamma.
        target_rate: share of the way that targets go towards what they follow at an update, tau.
        noise: deviation of the target policy's smoothing noise.
        noise_clip: where that noise is cut.
        actor_delay: critic steps a step of the actor.
        critic_learning_rate: of Adam.
        actor_learning_rate: of Adam.
        reward_scale: what rewards are multiplied by.
        length_scale: l of S(d, d') = exp(-||d - d'|| / l), in units of descriptors in [-1, 1].
        truncation: what a step teaches whose episode was cut: "mask" nothing, its loss is zero and the mean still goes
            over the whole batch, as in the code of Faldor et al.; "bootstrap" as much as any other, as in the code of
            Nilsson and Cully.
        order: "code", as in the code of Faldor et al.: the critics' targets move at every step, and the actor climbs,
            at the first step and then every `actor_delay`, the critic before its update. "paper", as in Fujimoto et
            al., algorithm 1: at every `actor_delay`-th step the actor climbs the updated critic, and then all targets
            move.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    hidden_sizes: Annotated[tuple[Annotated[int, Field(ge=1, le=65536)], ...], Field(min_length=1)] = (256, 256)
    steps: Count = 3000
    batch_size: Count = 100
    discount: Annotated[float, Field(ge=0, lt=1)] = 0.99
    target_rate: Annotated[float, Field(gt=0, le=1)] = 0.005
    noise: NotNegative = 0.2
    noise_clip: NotNegative = 0.5
    actor_delay: Count = 2
    critic_learning_rate: Positive = 3e-4
    actor_learning_rate: Positive = 3e-4
    reward_scale: Positive = 1.0
    length_scale: Positive = 0.1
    truncation: Literal["mask", "bootstrap"] = "mask"
    order: Literal["code", "paper"] = "code"


class PolicyGradientSettings(BaseModel):
    """Settings of the variation; defaults are those of Faldor et al. 2023, table 3.

    Attributes:
        steps: steps of Adam an offspring.
        batch_size: states a step.
        learning_rate: of Adam.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    steps: Count = 150
    batch_size: Count = 100
    learning_rate: Positive = 5e-3


class LearningSettings(BaseModel):
    """What learners keep and train.

    Attributes:
        learners: ranks that train together. Each holds a shard of the replay, gives its share of every minibatch, and
            gradients are added over all of them. Results depend on it as on a seed, but not on the number of ranks:
            where there are fewer, a rank holds several shards.
        replay_capacity: transitions kept, all shards together.
        conditioned_actor: whether the actor knows the descriptor aimed at; without, critics still do: an ablation of
            Faldor et al. 2023.
        critic: settings of TD3.
        gradient: settings of policy-gradient variation.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    learners: Annotated[int, Field(ge=1, le=1024)] = 1
    replay_capacity: Annotated[int, Field(ge=1, le=1_000_000_000)] = 1_000_000
    conditioned_actor: bool = True
    critic: Td3Settings = Td3Settings()
    gradient: PolicyGradientSettings = PolicyGradientSettings()

    @model_validator(mode="after")
    def _shares(self) -> "LearningSettings":
        for name, size in (("critic", self.critic.batch_size), ("gradient", self.gradient.batch_size)):
            if size % self.learners:
                raise ValueError(f"{name}.batch_size ({size}) must be a multiple of learners ({self.learners})")
        if (least := max(self.critic.batch_size, self.gradient.batch_size)) > self.replay_capacity:
            raise ValueError(f"replay_capacity ({self.replay_capacity}) must hold a minibatch ({least})")
        return self
