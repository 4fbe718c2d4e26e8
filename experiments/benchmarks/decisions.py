"""Measure the figures of docs/decisions that no other benchmark prints.

    python -m experiments.benchmarks.decisions --csv experiments/benchmarks/results/decisions.csv

Lines are `<decision>.<name> value unit`. Times are CPU time of one thread, so that other programs change them little;
alternatives are timed in turns, so that their ratio transfers to other machines. Counts and distances depend on the
versions of the libraries only.
"""

import argparse
import hashlib
import io
import os
import statistics
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

for _name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
    os.environ.setdefault(_name, "1")

import gymnasium
import h5py
import mujoco
import numpy as np
import torch
from scipy.spatial import KDTree
from xxhash import xxh3_128

from experiments.benchmarks.measure import line, take_turns
from experiments.reports import write_rows
from qdrl.archives.cvt import place_centroids
from qdrl.compute.arithmetic import BLAS, PORTABLE, Arithmetic
from qdrl.policies.mlp import Mlp, MlpSettings
from qdrl.streams import Purpose, Streams
from qdrl.tasks.registry import make_task

Results = dict[str, tuple[float, str]]
REPEATS = 9


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--only", nargs="+", choices=PARTS, default=PARTS, help="decisions by number")
    parser.add_argument("--csv", type=Path, help="file that gets the lines, too")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    found: Results = {}
    for number in arguments.only:
        for name, (value, unit) in PARTS[number]().items():
            found[f"{number}.{name}"] = (value, unit)
            line(f"{number}.{name}", value, unit)
    if arguments.csv:
        rows = [{"name": name, "value": f"{value:.3g}", "unit": unit} for name, (value, unit) in found.items()]
        write_rows(arguments.csv, rows)


def timed(sides: Mapping[str, Callable[[], object]], calls: int) -> Results:
    """Return the median microseconds of one call of each side, measured in turns."""

    def block(call: Callable[[], object]) -> Callable[[], float]:
        def measure() -> float:
            start = time.process_time()
            for _ in range(calls):
                call()
            return (time.process_time() - start) / calls

        return measure

    for call in sides.values():  # warm up
        call()
    found = take_turns({name: block(call) for name, call in sides.items()}, REPEATS)
    return {name: (1e6 * statistics.median(times), "us") for name, times in found.items()}


def rows_independent_of_batch() -> Results:
    """Count batch sizes for which a row of a batched product differs from the same row alone; time policies."""
    draw, found = np.random.default_rng(0), {}
    sizes = range(2, 65)
    for outputs in (6, 17):
        left = draw.standard_normal((64, 1, 128), np.float32)
        right = draw.standard_normal((64, 128, outputs), np.float32)
        for name, product in (("torch", torch_product), ("numpy", np.matmul)):
            alone = np.concatenate([product(left[row : row + 1], right[row : row + 1]) for row in range(64)])
            differ = sum(not np.array_equal(product(left[:size], right[:size]), alone[:size]) for size in sizes)
            found[f"{name}_128x{outputs}_differs"] = (differ, f"of {len(sizes)}")
    arithmetics: dict[str, Arithmetic] = {"ours": PORTABLE, "blas": BLAS}
    for rows, layers in ((64, (17, 128, 128, 6)), (1, (17, 128, 128, 6)), (64, (17, 6, 6)), (1, (17, 6, 6))):
        sides = {
            f"{rows}_of_{'_'.join(map(str, layers))}_{name}": acting(rows, layers, arithmetic)
            for name, arithmetic in arithmetics.items()
        }
        found |= timed(sides, calls=50)
    return found


def torch_product(left: np.ndarray, right: np.ndarray) -> np.ndarray:
    return torch.bmm(torch.from_numpy(left), torch.from_numpy(right)).numpy()


def acting(rows: int, layers: Sequence[int], arithmetic: Arithmetic) -> Callable[[], object]:
    """Return a call in which policies act once."""
    policy = Mlp(layers[0], layers[-1], MlpSettings(hidden_sizes=tuple(layers[1:-1])), arithmetic)
    population = policy.population(rows)
    draw = np.random.default_rng(0)
    population.load(range(rows), torch.from_numpy(np.stack([policy.initial(draw) for _ in range(rows)])))
    observations = torch.from_numpy(draw.standard_normal((rows, layers[0]), np.float32))
    return lambda: population.act(observations)


def small_calls() -> Results:
    """Time one addition of 64 x 17 numbers."""
    left, right = np.random.default_rng(0).standard_normal((2, 64, 17))
    out, tensors = np.empty_like(left), [torch.from_numpy(each) for each in (left, right)]
    target = torch.from_numpy(np.empty_like(left))
    sides = {"numpy_add": lambda: np.add(left, right, out=out), "torch_add": lambda: torch.add(*tensors, out=target)}
    return timed(sides, calls=2000)


def rounded_xml() -> Results:
    """Compare 20 control steps of Walker2d's stored text with those of the text that MjSpec writes of it."""
    text = str(make_task("walker2d_uni").mjcf)
    spec = mujoco.MjSpec.from_string(text)
    spec.compile()
    models = [mujoco.MjModel.from_xml_string(each) for each in (text, spec.to_xml())]
    datas = [mujoco.MjData(model) for model in models]
    controls = np.random.default_rng(0).uniform(-1, 1, (20, models[0].nu))
    for control in controls:
        for model, data in zip(models, datas, strict=True):
            data.ctrl[:] = control
            mujoco.mj_step(model, data, nstep=4)
    return {"largest_difference_of_positions": (float(np.abs(datas[0].qpos - datas[1].qpos).max()), "m_or_rad")}


def lowest_rewards() -> Results:
    """Return the lowest reward in 100 episodes of at most 200 steps of random +-1 actions."""
    found: Results = {}
    for name in ("Walker2d-v5", "Humanoid-v5"):
        environment, draw = gymnasium.make(name), np.random.default_rng(0)
        space: Any = environment.action_space
        lowest = np.inf
        for episode in range(100):
            environment.reset(seed=episode)
            for _ in range(200):
                action = draw.choice([-1.0, 1.0], space.shape) * space.high
                _, reward, ended, _, _ = environment.step(action)
                lowest = min(lowest, float(reward))
                if ended:
                    break
        found[f"lowest_reward_{name}"] = (lowest, "a_step")
    return found


def checksums() -> Results:
    """Time reading one genome of 1,024 of 19,590 parameters, with and without a checksum."""
    genomes = np.random.default_rng(0).standard_normal((1024, 19_590), np.float32)
    with tempfile.TemporaryDirectory() as folder, h5py.File(f"{folder}/x.h5", "w") as file:
        sides: dict[str, Callable[[], object]] = {}
        for name, checked in (("plain", False), ("checksum", True)):
            stored = file.create_dataset(name, data=genomes, chunks=(1, genomes.shape[1]), fletcher32=checked)
            file.flush()
            cells = iter(np.random.default_rng(1).integers(0, 1024, 100_000).tolist())
            sides[f"read_genome_{name}"] = lambda stored=stored, cells=cells: stored[next(cells)]
        return timed(sides, calls=200)


def row_streams() -> Results:
    """Time the generator of one row and the draw of 100 normal numbers, and the draw alone."""
    streams, shared = Streams(0), np.random.default_rng(0)
    rows = iter(range(10**9))
    return timed(
        {
            "stream_and_draw": lambda: streams.generator(Purpose.VARIATION, 1, next(rows)).standard_normal(100),
            "draw": lambda: shared.standard_normal(100),
        },
        calls=1000,
    )


def cvt_masses() -> Results:
    """Return the spread of cells' masses where spans are 8 and 1, with distances in scaled and in raw units."""
    lower, upper = np.zeros(2), np.array([8.0, 1.0])
    centroids = place_centroids(np.random.default_rng(0), 1024, lower.tolist(), upper.tolist())
    points = np.random.default_rng(1).uniform(lower, upper, (1_000_000, 2))
    found: Results = {}
    for name, scale in (("scaled", upper), ("raw", np.ones(2))):
        cells = KDTree(centroids / scale).query(points / scale)[1]
        masses = np.bincount(np.asarray(cells), minlength=1024)
        found[f"deviation_of_masses_{name}"] = (float(masses.std() / masses.mean()), "of_mean")
    return found


def products() -> Results:
    """Time the products and the activation of a critic step in NumPy and torch."""
    draw, found = np.random.default_rng(0), {}
    shapes = {
        "100x256_256x256": ((100, 256), (256, 256), False),
        "100x256_256x256_transposed": ((100, 256), (256, 256), True),
        "100x128_128x8": ((100, 128), (128, 8), False),
        "100x256_8x256_transposed": ((100, 256), (8, 256), True),
    }
    for name, (first, second, transposed) in shapes.items():
        left, right = draw.standard_normal(first, np.float32), draw.standard_normal(second, np.float32)
        right = right.T if transposed else right
        tensors, out = (torch.from_numpy(left), torch.from_numpy(right)), np.empty((100, right.shape[1]), np.float32)
        target = torch.from_numpy(np.empty_like(out))
        sides: dict[str, Callable[[], object]] = {
            f"{name}_numpy": lambda left=left, right=right, out=out: np.matmul(left, right, out=out),
            f"{name}_torch": lambda tensors=tensors, target=target: torch.mm(*tensors, out=target),
        }
        operations = 2 * left.size * right.shape[1]
        found |= {side: (operations / spent / 1e3, "GFLOP/s") for side, (spent, _) in timed(sides, calls=200).items()}
    values = draw.standard_normal((100, 256), np.float32)
    tensor = torch.from_numpy(values.copy())
    relu = {"relu_numpy": lambda: np.maximum(values, 0, out=values), "relu_torch": lambda: torch.relu_(tensor)}
    return found | timed(relu, calls=1000)


def hdf5_writes() -> Results:
    """Time writing 160 MB through a Python file object and through HDF5's own driver."""
    data = np.random.default_rng(0).standard_normal((40, 1_000_000), np.float32)

    def write(target: Any) -> None:
        with h5py.File(target, "w") as file:
            file["x"] = data

    with tempfile.TemporaryDirectory() as folder:

        def through_object() -> None:
            with io.FileIO(f"{folder}/object.h5", "w+") as file:
                write(file)

        sides = {"file_object": through_object, "own_driver": lambda: write(f"{folder}/own.h5")}
        return {name: (spent / 1e6, "s") for name, (spent, _) in timed(sides, calls=1).items()}


def digests() -> Results:
    """Time digests of 800 MB of memory."""
    data = np.random.default_rng(0).bytes(100_000_000)
    sides: dict[str, Callable[[], object]] = {
        "xxh3_128": lambda: xxh3_128(data).digest(),
        "sha256": lambda: hashlib.sha256(data).digest(),
        "blake2b": lambda: hashlib.blake2b(data).digest(),
    }
    return {f"{name}_of_800_MB": (8 * spent / 1e6, "s") for name, (spent, _) in timed(sides, calls=1).items()}


PARTS: dict[str, Callable[[], Results]] = {
    "0001": rows_independent_of_batch,
    "0004": small_calls,
    "0005": rounded_xml,
    "0008": lowest_rewards,
    "0012": checksums,
    "0014": row_streams,
    "0015": cvt_masses,
    "0018": products,
    "0025": hdf5_writes,
    "0026": digests,
}

if __name__ == "__main__":
    main()
