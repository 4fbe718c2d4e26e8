"""TD3 as anybody would write it in torch, in float64: the oracle of `test_td3`."""

from copy import deepcopy

import numpy as np
import torch
from torch import Tensor, nn

from qdrl.critics.replay_buffer import ReplayBuffer
from qdrl.critics.settings import Td3Settings
from qdrl.critics.td3 import Td3
from tests.critics.builders import row_of, sequential


class SlowTd3:
    """Starts from the networks of a `Td3` and learns by autograd and torch's Adam."""

    def __init__(self, td3: Td3) -> None:
        self.settings: Td3Settings = td3.settings
        self.critics = nn.ModuleList(sequential(td3.critic_mlp, row) for row in td3.critic)
        self.actor = sequential(td3.actor_mlp, td3.actor[0])
        self.critic_targets, self.actor_target = deepcopy(self.critics), deepcopy(self.actor)
        self.critic_adam = torch.optim.Adam(self.critics.parameters(), lr=self.settings.critic_learning_rate)
        self.actor_adam = torch.optim.Adam(self.actor.parameters(), lr=self.settings.actor_learning_rate)
        self.actions, self.steps, self.losses, self.values = td3.actor_mlp.sizes[-1], 0, [], []

    def train(self, replay: ReplayBuffer, generator: np.random.Generator) -> None:
        settings = self.settings
        ages = replay.draw(generator, (settings.steps, settings.batch_size))
        noise = generator.standard_normal((*ages.shape, self.actions), np.float32)
        for minibatch, draws in zip(ages, torch.from_numpy(noise).double(), strict=True):
            taken = {name: values.double() for name, values in vars(replay.take(minibatch)).items()}
            acts = (self.steps if settings.order == "code" else self.steps + 1) % settings.actor_delay == 0
            loss = self._critic_loss(taken, draws)
            if acts and settings.order == "code":  # its gradient is that of the critic before the critic's step
                self._improve_actor(taken)
            self.critic_adam.zero_grad()
            loss.backward()
            self.critic_adam.step()
            self.losses.append(loss.item())
            if acts and settings.order == "paper":
                self._improve_actor(taken)
            if acts or settings.order == "code":
                self._follow(self.critic_targets, self.critics)
            if acts:
                self._follow(self.actor_target, self.actor)
            self.steps += 1

    def rows(self) -> dict[str, Tensor]:
        return {
            "critic": torch.stack([row_of(critic) for critic in self.critics]),  # pyright: ignore[reportArgumentType]
            "critic_target": torch.stack([row_of(critic) for critic in self.critic_targets]),  # pyright: ignore[reportArgumentType]
            "actor": row_of(self.actor)[None],
            "actor_target": row_of(self.actor_target)[None],
        }

    def _critic_loss(self, taken: dict[str, Tensor], draws: Tensor) -> Tensor:
        settings, aim = self.settings, taken["target_descriptor"]
        with torch.no_grad():
            noise = (settings.noise * draws).clamp(-settings.noise_clip, settings.noise_clip)
            state = torch.cat([taken["next_observation"], aim], 1)
            action = (self.actor_target(state) + noise).clamp(-1, 1)
            following = torch.cat([target(torch.cat([action, state], 1)) for target in self.critic_targets], 1)
            distance = (taken["descriptor"] - aim).square().sum(1).sqrt()
            reward = settings.reward_scale * torch.exp(-distance / settings.length_scale) * taken["reward"]
            target = reward + settings.discount * (1 - taken["terminated"]) * following.min(1).values
        inputs = torch.cat([taken["action"], taken["observation"], aim], 1)
        kept = torch.ones(len(target), dtype=torch.float64)
        if settings.truncation == "mask":
            kept[(taken["truncated"] == 1) & (taken["terminated"] == 0)] = 0
        errors = [(critic(inputs)[:, 0] - target) * kept for critic in self.critics]
        return (errors[0] ** 2).mean() + (errors[1] ** 2).mean()

    def _improve_actor(self, taken: dict[str, Tensor]) -> None:
        state = torch.cat([taken["observation"], taken["target_descriptor"]], 1)
        value = self.critics[0](torch.cat([self.actor(state), state], 1)).mean()
        self.actor_adam.zero_grad()
        (-value).backward(inputs=list(self.actor.parameters()))
        self.actor_adam.step()
        self.values.append(value.item())

    def _follow(self, targets: nn.Module, followed: nn.Module) -> None:
        for target, source in zip(targets.parameters(), followed.parameters(), strict=True):
            target.data += self.settings.target_rate * (source.data - target.data)
