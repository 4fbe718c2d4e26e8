"""Minimum work of a generation of DCRL-MAP-Elites on a GPU; `python experiments/benchmarks/gpu_floor.py` needs no GPU.

For each robot:

- `<task>.kernels_per_control_step`: number of MuJoCo Warp's kernel launches that are not empty; the mean of 25 control
  steps with random controls in 64 worlds, on Warp's CPU device. The solver iterates until its slowest world has
  converged, so more worlds need a few more launches;
- `<task>.world_bytes`: size of a world's data. Each dynamics evaluation of a control step (four per substep of RK4)
  reads or writes most of it;
- `<task>.policy_bytes`: size of the weights of a 128 x 128 policy, which each control step reads once.

For the training of a generation at paper size on `ant_omni`: `dcrl_paper.critic_kernels` per critic step, the mean of a
step with and a step without an actor update; `.pg_kernels` per step of all 64 policies; `.critic_flops` and
`.pg_flops` in total.
"""

import os

for _name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
    os.environ.setdefault(_name, "1")

import math
import statistics
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
import warp
from measure import line
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from training import ACTIONS, DIMENSIONS, OBSERVATIONS, POLICY, Size, critic_flops, pg_flops

from qdrl.critics.chunks import allocate_chunk
from qdrl.critics.injection import conditioned
from qdrl.critics.minibatches import Minibatch
from qdrl.critics.td3 import Td3
from qdrl.critics.variation import PolicyGradient
from qdrl.parallel.learners import OneLearner
from qdrl.tasks.registry import make_task

TASKS = ("walker2d_uni", "ant_uni", "ant_omni", "humanoid_uni")
WORLDS, STEPS = 64, 25


def main() -> None:
    torch.set_num_threads(1)
    for name in TASKS:
        task: Any = make_task(name, policy={"hidden_sizes": (128, 128)}, device="warp-cpu", worlds=WORLDS)
        line(f"{name}.kernels_per_control_step", physics_kernels(task.make_worlds(WORLDS)), "1")
        line(f"{name}.world_bytes", task.make_worlds.bytes_each * 4 / 5, "B")  # without the memory for a step
        line(f"{name}.policy_bytes", 4 * task.parameters, "B")
    with FakeTensorMode(allow_non_fake_inputs=True):
        line("dcrl_paper.critic_kernels", critic_kernels(), "1")
        line("dcrl_paper.pg_kernels", pg_kernels(), "1")
    line("dcrl_paper.critic_flops", critic_flops(Size()) / 1e9, "GFLOP")
    line("dcrl_paper.pg_flops", pg_flops(Size()) / 1e9, "GFLOP")


def physics_kernels(worlds: Any) -> float:
    """Return the mean number of kernel launches of a control step."""
    draw, found = np.random.default_rng(0), []
    worlds.reset(range(WORLDS), list(range(WORLDS)))
    for _ in range(STEPS):
        actions = draw.uniform(-1, 1, tuple(worlds.physics.control.shape)).astype(np.float32)
        worlds.apply(torch.from_numpy(actions))
        with warp_launches() as launches:
            worlds.advance()
        found.append(len(launches))
    return statistics.mean(found)


@contextmanager
def warp_launches() -> Iterator[list[object]]:
    """Record the kernels that Warp launches in this context, without empty launches."""
    launched, plain = [], {name: getattr(warp, name) for name in ("launch", "launch_tiled")}

    def noting(launch: Callable[..., Any]) -> Callable[..., Any]:
        def both(kernel: Any, *arguments: Any, **options: Any) -> Any:
            dim = options["dim"] if "dim" in options else arguments[0]
            if math.prod(dim if isinstance(dim, Sequence) else [dim]):
                launched.append(kernel)
            return launch(kernel, *arguments, **options)

        return both

    for name, launch in plain.items():
        setattr(warp, name, noting(launch))
    try:
        yield launched
    finally:
        for name, launch in plain.items():
            setattr(warp, name, launch)


class TorchKernels(TorchDispatchMode):
    """Count torch's calls that compute or move data: no views, and no queries of a tensor's shape or device."""

    def __init__(self) -> None:
        super().__init__()
        self.count = 0

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        returned = func._schema.returns
        is_view = any(entry.alias_info is not None and not entry.alias_info.is_write for entry in returned)
        self.count += func.namespace == "aten" and not is_view
        return func(*args, **(kwargs or {}))


def critic_kernels() -> float:
    """Return the torch kernels of a critic step, counted on tensors without data."""
    settings = Size().critic
    td3 = Td3(conditioned(POLICY, DIMENSIONS), DIMENSIONS, settings, np.random.default_rng(0), device="meta")

    def column(width: int) -> torch.Tensor:
        return torch.zeros(steps, settings.batch_size, width, device="meta")

    steps, seen = 100 * settings.actor_delay, OBSERVATIONS + DIMENSIONS
    chunk = allocate_chunk(
        [Minibatch(*map(column, (ACTIONS + seen, seen, ACTIONS, 1, 1, 1)))], steps // settings.actor_delay
    )
    with TorchKernels() as kernels:
        td3._run_steps(chunk, 0, OneLearner())
    return kernels.count / steps


def pg_kernels() -> float:
    """Return the torch kernels of one step of all policies together, including their share of the preparation."""
    size = Size()
    td3 = Td3(conditioned(POLICY, DIMENSIONS), DIMENSIONS, size.critic, np.random.default_rng(0), device="meta")
    variation = PolicyGradient(POLICY, td3.critic_mlp, size.variation, "meta")
    states = torch.zeros(size.variation.steps, size.variation.batch_size, OBSERVATIONS, device="meta")
    parents = torch.zeros(size.policies, POLICY.parameters, device="meta")
    descriptors = torch.zeros(size.policies, DIMENSIONS, device="meta")
    with TorchKernels() as kernels:
        variation.vary(parents, states, td3.critic[0], descriptors)
    return kernels.count / size.variation.steps


if __name__ == "__main__":
    main()
