"""Deep neuroevolution: `python experiments/benchmarks/neuroevolution.py`. One thread.

- hard_maze: episodes of 400 steps through `task.evaluate`, with 256 worlds and networks of 16 hidden units.
- deep_ga_4m: a lineage of 139 mutations of the 4,052,658 weights of Such et al. 2017: size of the weights over the size
  of the lineage, seconds to decode it without cached ancestors, and seconds to decode a child whose parent is cached.
  `_table` is measured with a noise table of 25 million numbers.
- es_hopper: wall time of EvoTorch's PGPE with ClipUp on EvoTorch's GymNE over ours, for the same number of control
  steps of Hopper-v5 with linear policies and normalised observations. Ours are `openai_es` (`es`) and EvoTorch's PGPE
  with our evaluator (`pgpe`). The fitness of each final mean is measured in the same 20 episodes.
- frostbite: game frames per second of random policies with 4 million parameters, each playing its own game.
"""

import os

for _name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
    os.environ.setdefault(_name, "1")

import argparse
import statistics
import sys
import tempfile
import warnings
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from measure import line, seconds

from qdrl.analysis.decode import champion_genome
from qdrl.archives.hdf5 import open_archive
from qdrl.config import parse_experiment
from qdrl.evaluation import Candidates
from qdrl.genomes.ancestry import NO_PARENT, Ancestry
from qdrl.genomes.lineage_weights import Decoder, Offspring
from qdrl.genomes.noise import KeyedNoise, TableNoise
from qdrl.parallel.ranks import OneProcess
from qdrl.policies.conv import Conv, ConvSettings
from qdrl.run.start import start
from qdrl.tasks.registry import make_task

MUTATIONS, SIGMA = 139, 0.002
PGPE_CLIPUP = {"name": "pgpe", "optimizer": {"name": "clipup", "max_speed": 0.015}}
HOPPER = {"hidden_sizes": [], "normalize_observations": True, "output": "clip"}


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--only", nargs="+", choices=PARTS, default=list(PARTS))
    parser.add_argument("--hopper-steps", type=int, default=200_000, help="control steps of each run")
    parser.add_argument("--seeds", type=int, default=1, help="number of seeds of the comparison on Hopper")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    for name in arguments.only:
        PARTS[name](arguments)


def hard_maze(arguments: argparse.Namespace) -> None:
    task = make_task("hard_maze", policy={"hidden_sizes": (16,), "activation": "tanh"}, worlds=256)
    count = 1024
    genomes = torch.from_numpy(np.stack([task.initial(np.random.default_rng(row)) for row in range(count)]))
    candidates = _candidates(genomes)
    task.evaluate(candidates)
    speeds = [count / seconds(lambda: task.evaluate(candidates)) for _ in range(arguments.repeats)]
    line("hard_maze.episodes_per_second", statistics.median(speeds), "1/s")


def deep_ga_4m(arguments: argparse.Namespace) -> None:
    policy = Conv((4, 84, 84), 18, ConvSettings(kind="conv"))
    for suffix, noise in (("", KeyedNoise()), ("_table", TableNoise(size=25_000_000))):
        ancestry, source, draw = Ancestry(), noise.source(), np.random.default_rng(0)
        ancestry.add([NO_PARENT], [int(draw.integers(2**32))], [0.0])
        for node in range(MUTATIONS):
            ancestry.add([node], [source.draw(draw, policy.parameters)], [SIGMA])
        decoder = Decoder(ancestry, policy.initial, source)
        if not suffix:
            lineage = ancestry.lineage(MUTATIONS)
            line("deep_ga_4m.lineage_bytes", lineage.nbytes, "B")
            line("deep_ga_4m.compression", 4 * policy.parameters / lineage.nbytes, "x")
        decoder.genome(0)  # fills the table
        cold = [seconds(lambda decoder=decoder: decoder.genome(MUTATIONS)) for _ in range(arguments.repeats)]
        line(f"deep_ga_4m{suffix}.cold_decode_seconds", statistics.median(cold), "s")
        decoder.hold([MUTATIONS])
        child = Offspring(decoder, [MUTATIONS], [source.draw(draw, policy.parameters)], [SIGMA])
        warm = [seconds(lambda child=child: child[0:1]) for _ in range(4 * arguments.repeats)]
        line(f"deep_ga_4m{suffix}.child_seconds", statistics.median(warm), "s")


def es_hopper(arguments: argparse.Namespace) -> None:
    ours = {
        "es": {"name": "openai_es", "batch_size": 40, "learning_rate": 0.02, "initial": "zeros"},
        "pgpe": {"name": "evotorch", "batch_size": 40, "initial": "zeros", "searcher": PGPE_CLIPUP},
    }
    spent: dict[str, list[float]] = {name: [] for name in (*ours, "evotorch")}
    fitnesses: dict[str, list[float]] = {name: [] for name in spent}
    runs = {"evotorch": _evotorch_alone, **{name: partial(_ours, algorithm) for name, algorithm in ours.items()}}
    for seed in range(arguments.seeds):
        for name, run in runs.items():
            took, fitness = run(arguments.hopper_steps, seed)
            print(f"# {name}, seed {seed}: {took:.1f} s, fitness {fitness:.1f}", file=sys.stderr, flush=True)
            spent[name].append(took)
            fitnesses[name].append(fitness)
    for name, times in spent.items():
        line(f"{name}_hopper.seconds", statistics.median(times), "s")
        line(f"{name}_hopper.fitness", statistics.median(fitnesses[name]), "1")
    for name in ours:
        ratios = [peer / own for peer, own in zip(spent["evotorch"], spent[name], strict=True)]
        line(f"{name}_hopper.times_evotorch", statistics.median(ratios), "x")


def _ours(algorithm: dict[str, Any], steps: int, seed: int) -> tuple[float, float]:
    """Return the wall time of a run and the mean return of its final mean policy over 20 episodes."""
    experiment = parse_experiment(
        {
            "name": "hopper",
            "seed": seed,
            "task": {"name": "hopper_uni"},
            "policy": HOPPER,
            "archive": {"cells": 1, "samples": 10},
            "algorithm": algorithm,
            "run": {"env_steps": steps, "checkpoint_seconds": 1e6},
        }
    )
    with tempfile.TemporaryDirectory() as folder:
        run = Path(folder) / "run"
        took = seconds(lambda: start(experiment, OneProcess(), folder=run, progress=False))
        archive = open_archive(run / "archive.h5")
        genome, normalizer = champion_genome(archive), archive.normalizer
    assert normalizer is not None
    return took, _mean_return(genome, normalizer["mean"], np.sqrt(normalizer["var"]))


def _evotorch_alone(steps: int, seed: int) -> tuple[float, float]:
    """Run the same in EvoTorch alone: GymNE, observation normalisation, PGPE with ClipUp (settings of its example)."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from evotorch.algorithms import PGPE
        from evotorch.neuroevolution import GymNE

        torch.manual_seed(seed)
        problem: Any = GymNE(
            env="Hopper-v5",
            network="Linear(obs_length, act_length)",
            observation_normalization=True,
            num_actors=0,
        )
        searcher = PGPE(
            problem,
            popsize=40,
            center_learning_rate=0.0075,
            stdev_learning_rate=0.1,
            optimizer="clipup",
            optimizer_config={"max_speed": 0.015},
            radius_init=0.225,
            center_init=0.0,
            ranking_method="centered",
        )

        def train() -> None:
            while (problem.status.get("total_interaction_count") or 0) < steps:
                searcher.step()

        took = seconds(train)
        weight, bias = _linear_of(problem.parameterize_net(searcher.status["center"]))
        stats = problem.get_observation_stats()
        mean, deviation = np.asarray(stats.mean), np.asarray(stats.stdev)
    return took, _mean_return(np.concatenate([weight.T.ravel(), bias]).astype(np.float32), mean, deviation)


def _linear_of(network: torch.nn.Module) -> tuple[np.ndarray, np.ndarray]:
    """Return the weight and bias of the only linear layer."""
    tensors = [parameter.detach().numpy() for parameter in network.parameters()]
    weight = next(tensor for tensor in tensors if tensor.ndim == 2)
    return weight, next(tensor for tensor in tensors if tensor.ndim == 1)


def _mean_return(genome: np.ndarray, mean: np.ndarray, deviation: np.ndarray) -> float:
    """Return the mean return of a linear policy over 20 episodes of Hopper-v5."""
    import gymnasium

    environment = gymnasium.make("Hopper-v5")
    kernel, bias = genome[:33].reshape(11, 3), genome[33:]
    returns = []
    for episode in range(20):
        observation, over, total = environment.reset(seed=1000 + episode)[0], False, 0.0
        while not over:
            seen = np.clip((observation - mean) / np.maximum(deviation, 1e-2), -10, 10)
            observation, reward, terminated, truncated, _ = environment.step(np.clip(seen @ kernel + bias, -1, 1))
            over, total = terminated or truncated, total + float(reward)
        returns.append(total)
    return statistics.mean(returns)


def frostbite(arguments: argparse.Namespace) -> None:
    policy = {"kind": "conv", "output": "linear"}
    task: Any = make_task("atari:frostbite", policy=policy, worlds=8, episode_length=200)
    genomes = torch.from_numpy(np.stack([task.initial(np.random.default_rng(row)) for row in range(8)]))
    candidates = _candidates(genomes)
    task.evaluate(candidates)
    speeds = []
    for _ in range(arguments.repeats):
        found: list[Any] = []
        took = seconds(lambda found=found: found.append(task.evaluate(candidates)))
        speeds.append(4 * int(found[0].steps.sum()) / took)
    line("frostbite.frames_per_second", statistics.median(speeds), "1/s")


def _candidates(genomes: torch.Tensor) -> Candidates:
    none = torch.zeros(len(genomes), dtype=torch.int64)
    return Candidates(0, range(len(genomes)), genomes, torch.arange(len(genomes)), none, none - 1)


PARTS = {"hard_maze": hard_maze, "deep_ga_4m": deep_ga_4m, "es_hopper": es_hopper, "frostbite": frostbite}


if __name__ == "__main__":
    main()
