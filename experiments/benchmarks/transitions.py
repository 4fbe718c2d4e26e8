"""Storing a generation's episodes in the replay buffer: `python experiments/benchmarks/transitions.py`.

256 episodes of up to 250 steps of an ant, half of them of full length, on one thread. The path packs the episodes,
drops steps that are not finite, labels the others with descriptors and adds them to a replay buffer. Seconds are CPU
time. `times_copy` is the time of the whole path over that of a plain copy of the stored bytes, in the same repeat.
"""

import argparse
import statistics
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from measure import line

from qdrl.critics.labelling import drop_nonfinite, label
from qdrl.critics.replay_buffer import ReplayBuffer
from qdrl.evaluation import Transitions
from qdrl.tasks.episodes.transitions import TransitionLog

ROWS, LENGTH, OBSERVATION, ACTION, DIMENSIONS = 256, 250, 29, 8, 2
CAPACITY = 100_000  # transitions
WARMUP = 3  # repeats that are not counted: they fill the buffer, so that its memory is allocated


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--repeats", type=int, default=20)
    repeats = parser.parse_args().repeats
    torch.set_num_threads(1)
    buffer, descriptor = ReplayBuffer(CAPACITY, OBSERVATION, ACTION, DIMENSIONS), torch.rand(ROWS, DIMENSIONS)
    found: dict[str, list[float]] = {name: [] for name in ("pack", "label", "add", "path", "copy")}
    for repeat in range(WARMUP + repeats):
        log, times = filled_log(repeat), {}
        transitions: Transitions = timed("pack", lambda log=log: log.transitions(0, np.zeros(ROWS, bool)), times)
        labelled = timed("label", lambda t=transitions: label(drop_nonfinite(t), 0.5, descriptor, descriptor), times)
        timed("add", lambda labelled=labelled: buffer.add(labelled), times)
        times["path"] = sum(times.values())
        stored = torch.ones(len(transitions), 2 * OBSERVATION + ACTION + 3 + 2 * DIMENSIONS)
        timed("copy", stored.clone, times)
        for name, seconds in times.items():
            found[name] += [seconds] * (repeat >= WARMUP)
    for name, seconds in found.items():
        line(f"transitions.{name}_seconds", statistics.median(seconds), "s")
    ratios = [path / copy for path, copy in zip(found["path"], found["copy"], strict=True)]
    line("transitions.times_copy", statistics.median(ratios), "x")


def filled_log(seed: int) -> TransitionLog:
    """Return a log of random episodes."""
    draw = np.random.default_rng(seed)
    log = TransitionLog(ROWS, LENGTH, OBSERVATION, ACTION)
    steps = np.where(draw.random(ROWS) < 0.5, LENGTH, draw.integers(20, LENGTH, ROWS))
    for age in range(LENGTH):
        rows = np.flatnonzero(age < steps)
        observations, actions = (draw.standard_normal((len(rows), size), np.float32) for size in (OBSERVATION, ACTION))
        log.add(rows, np.full(len(rows), age), observations, actions, draw.random(len(rows), np.float32))
    for row, count in enumerate(steps.tolist()):
        log.end(row, count, draw.standard_normal(OBSERVATION, np.float32), terminated=count < LENGTH)
    return log


def timed(name: str, work: Callable[[], Any], times: dict[str, float]) -> Any:
    """Call `work`, store its CPU time in `times` and return its result."""
    begun = time.process_time()
    result = work()
    times[name] = time.process_time() - begun
    return result


if __name__ == "__main__":
    main()
