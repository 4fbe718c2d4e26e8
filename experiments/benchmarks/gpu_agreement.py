"""Whole episodes of MuJoCo Warp compared with C MuJoCo: `python experiments/benchmarks/gpu_agreement.py`.

Both run 256 random policies from the same initial states. Episodes are chaotic, so single ones diverge; only the
distributions of fitness and descriptors must agree. The two-sample Kolmogorov-Smirnov distance of each is printed. For
scale, `.between_seeds` is the distance of two evaluations by C MuJoCo with different initial states. Episodes that
failed on either side are left out.
"""

import os

for _name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
    os.environ.setdefault(_name, "1")

import argparse
from typing import Any

import numpy as np
import torch
from measure import line
from scipy.stats import ks_2samp

from qdrl.evaluation import Candidates, Evaluation
from qdrl.tasks.registry import make_task

TASKS = ("walker2d_uni", "halfcheetah_uni", "hopper_uni", "ant_uni", "humanoid_uni", "ant_omni")


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--tasks", nargs="+", choices=TASKS, default=TASKS)
    parser.add_argument("--policies", type=int, default=256)
    parser.add_argument("--episode-length", type=int, default=250)
    parser.add_argument("--device", choices=("cuda", "warp-cpu"), default="warp-cpu")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    for name in arguments.tasks:
        ours, theirs, again = (
            evaluated(name, arguments, device, seed) for device, seed in ((arguments.device, 0), ("cpu", 0), ("cpu", 1))
        )
        for suffix, one in (("", ours), (".between_seeds", again)):
            line(f"{name}.fitness_distance{suffix}", distance(one.fitness, theirs.fitness), "1")
            for axis in range(theirs.descriptor.shape[1]):
                apart = distance(one.descriptor[:, axis], theirs.descriptor[:, axis])
                line(f"{name}.descriptor_{axis}_distance{suffix}", apart, "1")
        line(f"{name}.same_steps", float((ours.steps == theirs.steps).double().mean()), "1")


def evaluated(name: str, arguments: argparse.Namespace, device: str, seed: int) -> Evaluation:
    """Evaluate one episode of each policy."""
    count = arguments.policies
    policy = {"hidden_sizes": (128, 128)}
    worlds = count if device != "cpu" else 64
    task: Any = make_task(name, policy=policy, worlds=worlds, device=device, episode_length=arguments.episode_length)
    genomes = torch.from_numpy(np.stack([task.initial(np.random.default_rng(row)) for row in range(count)]))
    none = torch.zeros(count, dtype=torch.int64)
    return task.evaluate(Candidates(0, range(count), genomes, torch.arange(count) + seed * count, none, none - 1))


def distance(one: torch.Tensor, other: torch.Tensor) -> float:
    """Return the Kolmogorov-Smirnov distance of two samples."""
    known = ~(one.isnan() | other.isnan())
    one, other = one[known], other[known]
    return float(ks_2samp(one.numpy(), other.numpy()).statistic)  # pyright: ignore[reportAttributeAccessIssue]


if __name__ == "__main__":
    main()
