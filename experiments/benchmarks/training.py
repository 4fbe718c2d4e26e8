"""Critic training and policy variation compared with plain torch: `python experiments/benchmarks/training.py`.

`dcrl_paper`: one generation of DCRL-MAP-Elites at the sizes of `ant_omni` (Faldor et al. 2024), on one thread:

- critic: 3,000 steps of descriptor-conditioned TD3 at batch 100, two critics of 256 x 256, an actor of 128 x 128;
- pg: policy-gradient variation of 64 policies of 128 x 128, 150 steps at batch 100;
- training: both.

The peer is the same algorithm in standard torch: `torch.nn`, autograd, `torch.optim.Adam`; its 64 policies are trained
together in batched products. Both sides sample from equal replay buffers and are timed in every repeat.

`share_of_matmul_speed` is the speed of our training, counted in the operations of the products that the algorithm
needs, over the speed of the largest product alone, (100, 256) @ (256, 256), measured in the same repeat.
"""

import os

for _name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
    os.environ.setdefault(_name, "1")

import argparse
import copy
import statistics
import time
from dataclasses import dataclass, field
from itertools import pairwise

import numpy as np
import torch
from measure import compare, line, median_ratio, seconds, take_turns
from torch import Tensor, nn

from qdrl.critics.injection import conditioned
from qdrl.critics.replay_buffer import LabelledTransitions, ReplayBuffer
from qdrl.critics.settings import PolicyGradientSettings, Td3Settings
from qdrl.critics.td3 import Td3
from qdrl.critics.variation import PolicyGradient
from qdrl.policies.mlp import Mlp, MlpSettings

OBSERVATIONS, ACTIONS, DIMENSIONS = 30, 8, 2
POLICY = Mlp(OBSERVATIONS, ACTIONS, MlpSettings())


@dataclass(frozen=True)
class Size:
    """Sizes of the benchmark."""

    critic: Td3Settings = field(default_factory=Td3Settings)
    variation: PolicyGradientSettings = field(default_factory=PolicyGradientSettings)
    policies: int = 64
    transitions: int = 250_000
    repeats: int = 5


QUICK = Size(Td3Settings(steps=100), PolicyGradientSettings(steps=15), policies=4, transitions=20_000, repeats=3)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--repeats", type=int, help="number of repeats of the comparison")
    parser.add_argument("--quick", action="store_true", help="small sizes to test the script, not to be quoted")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    size = QUICK if arguments.quick else Size()
    ours, peer = Ours(size), Peer(size)
    for side in (ours, peer):  # warm up
        side.train(50)
        side.vary(2, 5)
    sides = {
        "critic": lambda: seconds(lambda: ours.train(size.critic.steps)),
        "autograd_critic": lambda: seconds(lambda: peer.train(size.critic.steps)),
        "pg": lambda: seconds(lambda: ours.vary(size.policies, size.variation.steps)),
        "autograd_pg": lambda: seconds(lambda: peer.vary(size.policies, size.variation.steps)),
        "matmul": matmul_speed,
    }
    found = take_turns(sides, arguments.repeats or size.repeats)
    for name in ("", "autograd_"):
        pairs = zip(found[f"{name}critic"], found[f"{name}pg"], strict=True)
        found[f"{name}training"] = [sum(pair) for pair in pairs]
    for what in ("critic", "pg", "training"):
        medians = (statistics.median(found[f"{name}{what}"]) for name in ("", "autograd_"))
        compare("dcrl_paper", "autograd", what, *medians)
    for what, operations in {"critic": critic_flops(size), "pg": pg_flops(size)}.items():
        speeds = [operations / spent for spent in found[what]]
        line(f"dcrl_paper.{what}_share_of_matmul_speed", median_ratio(speeds, found["matmul"]), "x")
    speeds = [(critic_flops(size) + pg_flops(size)) / spent for spent in found["training"]]
    line("dcrl_paper.share_of_matmul_speed", median_ratio(speeds, found["matmul"]), "x")
    line("dcrl_paper.matmul_gflops_per_second", statistics.median(found["matmul"]) / 1e9, "GFLOP/s")


def filled_replay(count: int) -> ReplayBuffer:
    """Return a replay buffer of random transitions."""
    draw = np.random.default_rng(0)

    def normal(*shape: int) -> Tensor:
        return torch.from_numpy(draw.standard_normal((count, *shape), np.float32))

    flags = torch.from_numpy(draw.random((2, count)) < 0.01)
    replay = ReplayBuffer(count, OBSERVATIONS, ACTIONS, DIMENSIONS)
    replay.add(
        LabelledTransitions(
            observation=normal(OBSERVATIONS),
            action=normal(ACTIONS).clamp(-1, 1),
            reward=normal().abs(),
            next_observation=normal(OBSERVATIONS),
            terminated=flags[0],
            truncated=flags[1],
            descriptor=normal(DIMENSIONS).clamp(-1, 1),
            target_descriptor=normal(DIMENSIONS).clamp(-1, 1),
        )
    )
    return replay


class Ours:
    """Training and variation by `qdrl.critics`."""

    def __init__(self, size: Size) -> None:
        self._size, self._replay = size, filled_replay(size.transitions)
        self._generator = np.random.default_rng(1)
        self._td3 = Td3(conditioned(POLICY, DIMENSIONS), DIMENSIONS, size.critic, self._generator)
        self._parents = torch.from_numpy(np.stack([POLICY.initial(self._generator) for _ in range(size.policies)]))
        self._descriptors = torch.zeros(size.policies, DIMENSIONS)
        self._variation = PolicyGradient(POLICY, self._td3.critic_mlp, size.variation)

    def train(self, steps: int) -> None:
        if self._td3.train(self._replay, self._generator, steps)["diverged"]:
            raise AssertionError("training diverged: its time is meaningless")

    def vary(self, policies: int, steps: int) -> None:
        variation = self._variation
        if steps != self._size.variation.steps:
            settings = self._size.variation.model_copy(update={"steps": steps})
            variation = PolicyGradient(POLICY, self._td3.critic_mlp, settings)
        states = self._replay.sample(self._generator, (steps, self._size.variation.batch_size)).observation
        variation.vary(self._parents[:policies], states, self._td3.critic[0], self._descriptors[:policies])


class Peer:
    """The same in `torch.nn`, autograd and `torch.optim.Adam`."""

    def __init__(self, size: Size) -> None:
        self._size, self._replay, self._steps = size, filled_replay(size.transitions), 0
        self._generator = np.random.default_rng(1)
        torch.manual_seed(1)
        units, inputs = size.critic.hidden_sizes, OBSERVATIONS + DIMENSIONS
        self._critics = nn.ModuleList(perceptron([inputs + ACTIONS, *units, 1]) for _ in range(2))
        self._actor = nn.Sequential(perceptron([inputs, *POLICY.sizes[1:]]), nn.Tanh())
        self._critic_targets, self._actor_target = copy.deepcopy(self._critics), copy.deepcopy(self._actor)
        self._critic_adam = torch.optim.Adam(self._critics.parameters(), lr=size.critic.critic_learning_rate)
        self._actor_adam = torch.optim.Adam(self._actor.parameters(), lr=size.critic.actor_learning_rate)

    def train(self, steps: int) -> None:
        settings = self._size.critic
        sample = self._replay.sample(self._generator, (steps, settings.batch_size))
        distance = (sample.descriptor - sample.target_descriptor).norm(dim=-1)
        rewards = torch.exp(-distance / settings.length_scale) * sample.reward
        noise = torch.from_numpy(self._generator.standard_normal((*rewards.shape, ACTIONS), np.float32))
        noise = (settings.noise * noise).clamp(-settings.noise_clip, settings.noise_clip)
        for step in range(steps):
            aim = sample.target_descriptor[step]
            state = torch.cat([sample.observation[step], aim], 1)
            following = torch.cat([sample.next_observation[step], aim], 1)
            acts = self._steps % settings.actor_delay == 0
            if acts:
                self._improve_actor(state)
            with torch.no_grad():
                action = (self._actor_target(following) + noise[step]).clamp(-1, 1)
                inputs = torch.cat([following, action], 1)
                value = torch.min(*(target(inputs)[:, 0] for target in self._critic_targets))
                goal = rewards[step] + settings.discount * (1 - sample.terminated[step]) * value
            inputs = torch.cat([state, sample.action[step]], 1)
            kept = 1 - sample.truncated[step]
            errors = [((critic(inputs)[:, 0] - goal) * kept).square().mean() for critic in self._critics]
            self._critic_adam.zero_grad()
            torch.stack(errors).sum().backward()
            self._critic_adam.step()
            self._follow(self._critic_targets, self._critics)
            if acts:
                self._follow(self._actor_target, self._actor)
            self._steps += 1

    def vary(self, policies: int, steps: int) -> None:
        rows = torch.from_numpy(np.stack([POLICY.initial(self._generator) for _ in range(policies)]))
        parameters = [nn.Parameter(part.clone()) for layer in POLICY.split(rows) for part in layer]
        optimiser = torch.optim.Adam(parameters, lr=self._size.variation.learning_rate)
        aim = torch.zeros(policies, self._size.variation.batch_size, DIMENSIONS)
        sample = self._replay.sample(self._generator, (steps, self._size.variation.batch_size))
        for state in sample.observation:
            states = state.expand(policies, -1, -1)
            values = states
            for layer in range(0, len(parameters), 2):
                values = torch.baddbmm(parameters[layer + 1][:, None], values, parameters[layer])
                values = values.relu() if layer + 2 < len(parameters) else values.tanh()
            inputs = torch.cat([states, aim, values], 2)
            loss = -self._critics[0](inputs).mean(1).sum()
            gradients = torch.autograd.grad(loss, parameters)
            for parameter, gradient in zip(parameters, gradients, strict=True):
                parameter.grad = gradient
            optimiser.step()

    def _improve_actor(self, state: Tensor) -> None:
        for parameter in self._critics.parameters():
            parameter.requires_grad_(False)
        value = self._critics[0](torch.cat([state, self._actor(state)], 1)).mean()
        self._actor_adam.zero_grad()
        (-value).backward()
        self._actor_adam.step()
        for parameter in self._critics.parameters():
            parameter.requires_grad_(True)

    @torch.no_grad()
    def _follow(self, targets: nn.Module, followed: nn.Module) -> None:
        for target, source in zip(targets.parameters(), followed.parameters(), strict=True):
            target.lerp_(source, self._size.critic.target_rate)


def perceptron(sizes: list[int]) -> nn.Sequential:
    layers = [layer for inputs, outputs in pairwise(sizes) for layer in (nn.Linear(inputs, outputs), nn.ReLU())]
    return nn.Sequential(*layers[:-1])


def matmul_speed() -> float:
    """Return the operations per second of the largest product, the best of many blocks."""
    draw = np.random.default_rng(0)
    left, right = draw.standard_normal((100, 256), np.float32), draw.standard_normal((256, 256), np.float32)
    out, best = np.empty_like(left), np.inf
    for _ in range(100):
        start = time.perf_counter()
        for _ in range(10):
            np.matmul(left, right, out=out)
        best = min(best, time.perf_counter() - start)
    return 10 * 2 * 100 * 256 * 256 / best


def critic_flops(size: Size) -> float:
    """Return the operations of all products of a training phase: two per weight, sample and pass."""
    settings = size.critic
    critic = [OBSERVATIONS + DIMENSIONS + ACTIONS, *settings.hidden_sizes, 1]
    actor = [OBSERVATIONS + DIMENSIONS, *POLICY.sizes[1:]]
    critic_step = 2 * (2 * weights(critic) + weights(critic) + weights(critic[1:])) + weights(actor)
    actor_step = 2 * weights(actor) + weights(actor[1:]) + weights(critic) + weights(critic[1:])
    actor_step += ACTIONS * critic[1]
    return 2 * settings.batch_size * settings.steps * (critic_step + actor_step / settings.actor_delay)


def pg_flops(size: Size) -> float:
    """Return the operations of all products of the variation; the critic's product with the states counts once."""
    critic = [ACTIONS, *size.critic.hidden_sizes]
    step = 2 * weights(POLICY.sizes) + weights(POLICY.sizes[1:]) + 2 * weights(critic)
    shared = OBSERVATIONS * critic[1]
    return 2 * size.variation.batch_size * size.variation.steps * (size.policies * step + shared)


def weights(sizes: list[int] | tuple[int, ...]) -> int:
    return sum(inputs * outputs for inputs, outputs in pairwise(sizes))


if __name__ == "__main__":
    main()
