"""What a generation of DCRL-MAP-Elites on a GPU has to do; `python experiments/benchmarks/gpu_floor.py` needs no GPU.

For each robot:

- `<task>.kernels_per_control_step`: MuJoCo Warp's launches that have anything to do, one after the other; the mean of
  25 control steps under random controls in 64 worlds, on Warp's CPU device. The solver goes on until its slowest world
  is done, so that more worlds take a few more;
- `<task>.world_bytes`: a world's data. Each of a control step's dynamics evaluations, four a substep of RK4, touches
  most of it;
- `<task>.policy_bytes`: weights of a 128 x 128 policy, which each control step reads once.

For the training of a generation at paper size on `ant_omni`: `dcrl_paper.critic_kernels` a critic step, the mean of a
step with and one without the actor's; `.pg_kernels` a step of all 64 policies; `.critic_flops` and `.pg_flops` in all.
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
        line(f"{name}.world_bytes", task.make_worlds.bytes_each * 4 / 5, "B")  # without the room for a step
        line(f"{name}.policy_bytes", 4 * task.parameters, "B")
    with FakeTensorMode(allow_non_fake_inputs=True):
        line("dcrl_paper.critic_kernels", critic_kernels(), "1")
        line("dcrl_paper.pg_kernels", pg_kernels(), "1")
    line("dcrl_paper.critic_flops", critic_flops(Size()) / 1e9, "GFLOP")
    line("dcrl_paper.pg_flops", pg_flops(Size()) / 1e9, "GFLOP")


def physics_kernels(worlds: Any) -> float:
    """Launch a control step."""
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
    """Kernels that Warp is asked for meanwhile, those over nothing left out."""
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
    """Counts torch's calls that work on numbers: no views, and no questions for a tensor's shape or place."""

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
    """Of torch, a critic step, on tensors that hold no numbers."""
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
    """Of torch, a step of all policies side by side, what comes before the first step included."""
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
