"""Time of each part of a generation of DCRL-MAP-Elites at paper size on a device; `gpu.py` prints it.

Runs the shipped `experiments/ant_omni/dcrl_map_elites.toml`, 256 episodes of 250 steps, in this process. The first
generations are not counted, since they have no parents or capture graphs.
"""

import gc
import statistics
from collections.abc import Callable, Sequence
from pathlib import Path
from time import perf_counter
from typing import Any

import torch
from measure import line
from training import Size, critic_flops, pg_flops

from qdrl.compute.devices import device_of
from qdrl.config import load_experiment
from qdrl.run.build import build

CONFIG = Path(__file__).parents[1] / "ant_omni" / "dcrl_map_elites.toml"
WARM = 3
PARTS = ("generation", "evaluation", "critic", "pg")
_SIDE, _LARGE = 8192, 1 << 28


def print_generation(device: str, generations: int) -> None:
    """Print the median seconds of a generation and of its parts, and the time of the arithmetic alone."""
    found = generation_split(device, generations)
    for name in PARTS:
        line(f"dcrl_paper.{name}_seconds", statistics.median(found[name]), "s")
    if device == "cuda":
        line("dcrl_paper.memory", found["memory"][0], "B")
        speed, bandwidth = matmul_flops(), copy_bytes()
        line("device.matmul_speed", speed / 1e12, "TFLOP/s")
        line("device.copy_bandwidth", bandwidth / 1e9, "GB/s")
        line("dcrl_paper.critic_arithmetic_seconds", critic_flops(Size()) / speed, "s")
        line("dcrl_paper.pg_arithmetic_seconds", pg_flops(Size()) / speed, "s")


def generation_split(device: str, generations: int, changes: Sequence[str] = ()) -> dict[str, list[float]]:
    """Return the synchronised seconds of each part of each generation, and the memory that the run keeps."""
    wait = (lambda: torch.cuda.synchronize(device_of(device))) if device == "cuda" else (lambda: None)
    before = memory_in_use(device)
    parts = build(load_experiment(CONFIG, [f"compute.device={device}", "compute.worlds=256", *changes]))
    algorithm: Any = parts.algorithm
    found: dict[str, list[float]] = {name: [] for name in PARTS}

    def timed(name: str, work: Callable[..., Any]) -> Callable[..., Any]:
        def both(*arguments: Any, **options: Any) -> Any:
            wait()
            start = perf_counter()
            result = work(*arguments, **options)
            wait()
            found[name].append(perf_counter() - start)
            return result

        return both

    algorithm.learner.td3.train_shards = timed("critic", algorithm.learner.td3.train_shards)
    algorithm._gradient.vary = timed("pg", algorithm._gradient.vary)
    evaluate = timed("evaluation", parts.task.evaluate)

    def generation() -> None:
        evaluation = evaluate(algorithm.ask())
        algorithm.tell(evaluation)
        parts.task.update(evaluation)

    whole = timed("generation", generation)
    for _ in range(WARM + generations):
        whole()
    split = {name: times[-generations:] for name, times in found.items()}
    return split | {"memory": [memory_in_use(device) - before]}


def memory_in_use(device: str) -> float:
    """Return the bytes in use on the device by all processes, without unused cached blocks of this process."""
    if device != "cuda":
        return float("nan")
    gc.collect()
    torch.cuda.synchronize()
    torch.cuda.empty_cache()
    free, total = torch.cuda.mem_get_info()
    return float(total - free)


def matmul_flops() -> float:
    """Return the operations per second of a large float32 matrix product."""
    left = torch.rand(_SIDE, _SIDE, device="cuda")
    return 2 * _SIDE**3 / _seconds(lambda: left @ left)


def copy_bytes() -> float:
    """Return the bytes read and written per second by a large copy."""
    source = torch.empty(_LARGE, device="cuda")
    target = torch.empty_like(source)
    return 2 * source.nbytes / _seconds(lambda: target.copy_(source))


def _seconds(work: Callable[[], object], repeats: int = 10) -> float:
    for _ in range(3):
        work()
    torch.cuda.synchronize()
    start = perf_counter()
    for _ in range(repeats):
        work()
    torch.cuda.synchronize()
    return (perf_counter() - start) / repeats
