"""Print digests of results as JSON; tests/runs/test_portability.py runs this under several settings.

Inputs are uniform random numbers, which are the same bits on every platform.
"""

import json
import sys
from collections.abc import Callable
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
import torch

from qdrl.analysis.rerun import replay
from qdrl.archives.hdf5 import open_archive
from qdrl.compute.arithmetic.trigonometry import portable_sines
from qdrl.evaluation import Candidates
from qdrl.policies.base import make_policy
from qdrl.policies.conv_populations import ConvSlots
from qdrl.policies.settings import policy_settings
from qdrl.streams import Purpose, Streams
from qdrl.tasks.registry import make_task

REFERENCE = Path(__file__).parents[2] / "archives" / "reference"
ARCHIVES = ("walker2d_uni_portable", "ant_uni_portable")
IMAGE = (2, 21, 18)
CONV = {
    "kind": "conv",
    "convolutions": ({"filters": 24, "size": 5, "stride": 2}, {"filters": 9, "size": 3}),
    "hidden_sizes": (33,),
    "virtual_batch_norm": 20,
}


def uniform(*shape: int, seed: int = 0, scale: float = 1.0) -> torch.Tensor:
    return torch.from_numpy(np.random.default_rng(seed).uniform(-scale, scale, shape).astype(np.float32))


def digest(*arrays: Any) -> str:
    return sha256(b"".join(np.ascontiguousarray(array).tobytes() for array in arrays)).hexdigest()[:16]


def perceptrons() -> str:
    """Return the digest of networks with whole and partial vectors and with every activation and output."""
    found = []
    for hidden in ((), (6,), (128, 128), (37, 64)):
        for activation, output in (("relu", "tanh"), ("tanh", "linear"), ("tanh", "clip")):
            shape = {"hidden_sizes": hidden, "activation": activation, "output": output}
            policy = make_policy(policy_settings(None)(**shape), 27, 17)
            population = policy.population(5)
            population.load(range(5), uniform(5, policy.parameters, scale=0.3))
            found.append(population.act(uniform(5, 27, seed=1, scale=3.0)).numpy().copy())
    return digest(*found)


def convolutions() -> str:
    policy = make_policy(policy_settings(CONV)(**CONV), IMAGE[0] * IMAGE[1] * IMAGE[2], 3, IMAGE)
    population = policy.population(3)
    assert isinstance(population, ConvSlots)
    population.set_reference(uniform(20, policy.observation_size, seed=2))
    population.load(range(3), uniform(3, policy.parameters, scale=0.2))
    return digest(population.act(uniform(3, policy.observation_size, seed=1)).numpy())


def sines() -> str:
    generator = np.random.default_rng(0)
    return digest(*portable_sines(np.concatenate([generator.uniform(-9, 9, 5000), generator.uniform(-1e6, 1e6, 5000)])))


def evaluated(name: str, scale: float, **options: Any) -> Callable[[], str]:
    """Return a function that digests the fitness and descriptors of a few genomes of a task."""

    def evaluate() -> str:
        task, rows = make_task(name, worlds=8, **options), range(12)
        zeros = torch.zeros(12, dtype=torch.int64)
        seeds = torch.from_numpy(Streams(0).seeds(Purpose.EVALUATION, 0, rows))
        found = task.evaluate(Candidates(0, rows, uniform(12, task.parameters, scale=scale), seeds, zeros, zeros))
        return digest(found.fitness.numpy(), found.descriptor.numpy())

    return evaluate


PARTS: dict[str, Callable[[], str]] = {
    "perceptrons": perceptrons,
    "convolutions": convolutions,
    "sines": sines,
    "arm": evaluated("arm", 4.0),
    "rastrigin": evaluated("rastrigin", 6.0),
    "hard_maze": evaluated("hard_maze", 1.0, policy={"hidden_sizes": (16,)}, episode_length=100),
    "point_omni": evaluated("point_omni", 1.0, policy={"hidden_sizes": (16,), "activation": "tanh"}),
    "image_hard_maze": evaluated("image_hard_maze", 0.1, policy=CONV | {"virtual_batch_norm": 0}, episode_length=5),
}


def replayed(name: str, stride: int) -> list[int]:
    """Replay every `stride`-th elite of a reference archive; return the numbers of identical and of all replays."""
    archive = open_archive(REFERENCE / f"{name}.h5")
    same = [replay(archive, int(cell)).same for cell in archive.elites["cell"][::stride]]
    return [sum(map(bool, same)), len(same)]


def main(stride: int) -> None:
    torch.set_num_threads(1)
    found: dict[str, Any] = {name: part() for name, part in PARTS.items()}
    found |= {name: replayed(name, stride) for name in ARCHIVES if stride}
    notes = replay(open_archive(REFERENCE / f"{ARCHIVES[0]}.h5"), 57).notes if stride else ()
    sys.stdout.write(json.dumps(found | {"notes": notes}) + "\n")


if __name__ == "__main__":
    main(int(sys.argv[1]))
