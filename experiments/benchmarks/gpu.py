"""Locomotion on a GPU: `python experiments/benchmarks/gpu.py`; needs a GPU and the extra `gpu`.

For each robot and number of worlds, where every world has its own 128 x 128 policy:

- `<task>.control_steps_per_second_<worlds>`: speed of the whole `task.evaluate` with resets, policies, rewards and
  descriptors. Until the last episode ends, steps of worlds whose episode has ended count too, since they cost as much;
- `<task>.share_of_bare_<worlds>`: that speed over the speed of MuJoCo Warp's own stepping loop with random controls,
  captured in a CUDA graph, with the same model and worlds, in alternating repeats. The loop leaves out the contact
  forces that the rewards of Ant and Humanoid need;
- `<task>.memory_<worlds>`: device memory that both allocate;
- `<task>.times_cpu_<worlds>`: steps per second of unfinished episodes over those of C MuJoCo on `--ranks` processes.

Then `gpu_generation.py` prints `dcrl_paper.*_seconds` of `experiments/ant_omni/dcrl_map_elites.toml` on the device: a
whole generation, and its evaluation, critic training and policy-gradient variation; its memory; and the time that the
arithmetic of the training would take at the device's speed of large matrix products.

With `--device warp-cpu` it only tests the script.
"""

import os

for _name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
    os.environ.setdefault(_name, "1")

import argparse
import statistics
import sys
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from multiprocessing import get_context
from typing import Any

import numpy as np
import torch
from gpu_generation import memory_in_use, print_generation
from measure import line, median_ratio, seconds, take_turns

from qdrl.compute.devices import device_of
from qdrl.errors import UserError
from qdrl.evaluation import Candidates, Evaluation
from qdrl.tasks.registry import make_task

TASKS = ("walker2d_uni", "ant_uni", "humanoid_uni")
CPU_WORLDS = 64


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--tasks", nargs="+", choices=TASKS, default=TASKS)
    parser.add_argument("--worlds", nargs="+", type=int, default=[256, 1024, 4096, 16384])
    parser.add_argument("--steps", type=int, default=250, help="control steps per episode")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--ranks", type=int, default=16, help="CPU processes to compare with; 0 for no comparison")
    parser.add_argument("--device", choices=("cuda", "warp-cpu"), default="cuda")
    parser.add_argument("--generations", type=int, default=7, help="generations of DCRL-MAP-Elites; 0 for none")
    arguments = parser.parse_args()
    try:
        device_of(arguments.device)
    except UserError as error:
        sys.exit(str(error))
    torch.set_num_threads(1)
    # The CPU is measured first, in new processes that inherit nothing from GPU libraries.
    peers = {name: cpu_speed(name, arguments.ranks, arguments.steps) for name in arguments.tasks if arguments.ranks}
    for name in arguments.tasks:
        for worlds in arguments.worlds:
            measure(name, worlds, arguments, peers.get(name))
    if arguments.generations:
        print_generation(arguments.device, arguments.generations)


def measure(name: str, worlds: int, arguments: argparse.Namespace, peer: float | None) -> None:
    """Print the lines of one robot and one number of worlds."""
    wait = torch.cuda.synchronize if arguments.device == "cuda" else lambda: None
    before = memory_in_use(arguments.device)
    evaluate = evaluation(name, worlds, arguments.steps, arguments.device)
    bare = bare_loop(name, worlds, arguments.steps, arguments.device)
    steps = evaluate().steps  # compiles and captures the kernels
    bare()
    wait()
    taken = memory_in_use(arguments.device) - before
    sides = {"ours": partial(_timed, evaluate, wait), "bare": partial(_timed, bare, wait)}
    times = take_turns(sides, arguments.repeats)
    took = statistics.median(times["ours"])
    speed = worlds * int(steps.max()) / took
    line(f"{name}.control_steps_per_second_{worlds}", speed, "1/s")
    share = median_ratio(times["bare"], times["ours"]) * int(steps.max()) / arguments.steps
    line(f"{name}.share_of_bare_{worlds}", share, "1")
    line(f"{name}.memory_{worlds}", taken, "B")
    if peer is not None:
        line(f"{name}.times_cpu_{worlds}", int(steps.sum()) / took / peer, "x")


def evaluation(name: str, worlds: int, steps: int, device: str) -> Callable[[], Evaluation]:
    """Return the evaluation of one episode per world, of `steps` steps unless the robot falls."""
    task: Any = make_task(name, policy={"hidden_sizes": (128, 128)}, worlds=worlds, device=device, episode_length=steps)
    genomes = torch.from_numpy(np.stack([task.initial(np.random.default_rng(row)) for row in range(worlds)]))
    if device != "cpu":
        genomes = genomes.to(device_of(device))  # as in an archive on the device
    none = torch.zeros(worlds, dtype=torch.int64)
    return partial(task.evaluate, Candidates(0, range(worlds), genomes, torch.arange(worlds), none, none - 1))


def bare_loop(name: str, worlds: int, steps: int, device: str) -> Callable[[], object]:
    """Return a loop of MuJoCo Warp alone: the same control steps and worlds, with controls that are drawn once."""
    import mujoco_warp
    import warp

    task: Any = make_task(name, policy={"hidden_sizes": (8,)}, worlds=worlds, device=device, episode_length=steps)
    made = task.make_worlds(worlds)
    made.reset(range(worlds), list(range(worlds)))
    physics = made.physics
    physics.control.copy_(torch.rand_like(physics.control) * 2 - 1)
    model, data, substeps = physics._model, physics._data, physics._frame_skip
    place = warp.get_device("cpu" if device == "warp-cpu" else f"cuda:{device_of(device).index}")

    def control_step() -> None:
        for _ in range(substeps):
            mujoco_warp.step(model, data)

    if device == "warp-cpu":

        def run() -> None:
            with warp.ScopedDevice(place):
                for _ in range(steps):
                    control_step()

        return run
    with warp.ScopedDevice(place):
        control_step()
        with warp.ScopedCapture() as capture:
            control_step()
    graph: Any = capture.graph

    def replay() -> None:
        with warp.ScopedDevice(place):
            for _ in range(steps):
                warp.capture_launch(graph)

    replay.kept = made  # pyright: ignore[reportFunctionMemberAccess] - a graph holds no references to its arrays
    return replay


def cpu_speed(name: str, ranks: int, steps: int) -> float:
    """Return the control steps per second of C MuJoCo, summed over parallel processes."""
    with ProcessPoolExecutor(ranks, mp_context=get_context("spawn")) as pool:
        return sum(pool.map(_cpu_rank, [name] * ranks, [steps] * ranks))


def _cpu_rank(name: str, steps: int) -> float:
    evaluate = evaluation(name, CPU_WORLDS, steps, "cpu")
    evaluate()
    found: list[Evaluation] = []
    took = seconds(lambda: found.append(evaluate()))
    return int(found[0].steps.sum()) / took


def _timed(work: Callable[[], object], wait: Callable[[], None]) -> float:
    def both() -> None:
        work()
        wait()

    return seconds(both)


if __name__ == "__main__":
    main()
