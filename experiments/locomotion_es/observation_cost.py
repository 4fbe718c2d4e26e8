"""Compare the speed of `humanoid_uni` with that of Gymnasium's Humanoid-v5 and its whole observation, on one core.

Writes `results/observation_cost.csv`. Policies are linear. Controls are zero, so that episodes are equally
long.
"""

import argparse
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import gymnasium
import numpy as np
import torch

from experiments.reports import write_rows
from qdrl.evaluation import Candidates
from qdrl.tasks.registry import make_task

ROWS, STEPS = 200, 5_000


def main() -> None:
    parser = argparse.ArgumentParser(description="Measure control steps per second of CPU time.")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--output", type=Path, default=Path(__file__).parent / "results")
    arguments = parser.parse_args()
    policy = {"hidden_sizes": [], "output": "clip", "normalize_observations": True}
    task = make_task("humanoid_uni", policy=policy, worlds=32)
    environment = gymnasium.make("Humanoid-v5")
    (observed,), (controls,) = environment.observation_space.shape or (0,), environment.action_space.shape or (0,)
    none = torch.zeros(ROWS, dtype=torch.int64)
    rows = Candidates(0, range(ROWS), torch.zeros(ROWS, task.parameters), torch.arange(ROWS), none, none - 1)

    def batched() -> int:
        return int(task.evaluate(rows).steps.sum())

    def single() -> int:
        weights = np.zeros((observed, controls), np.float32)
        observation, _ = environment.reset()
        for _ in range(STEPS):
            action = np.asarray(observation, np.float32) @ weights
            observation, _, terminated, truncated, _ = environment.step(action)
            if terminated or truncated:
                observation, _ = environment.reset()
        return STEPS

    tasks: dict[str, tuple[int, Callable[[], int]]] = {
        "humanoid_uni": (task.parameters, batched),
        "Humanoid-v5": ((observed + 1) * controls, single),
    }
    speeds = {name: [speed(run) for _ in range(arguments.repeats + 1)][1:] for name, (_, run) in tasks.items()}
    found = [
        {"task": name, "weights": tasks[name][0], "steps_per_second": round(statistics.median(values))}
        for name, values in speeds.items()
    ]
    print(found)
    write_rows(arguments.output / "observation_cost.csv", found)


def speed(run: Callable[[], int]) -> float:
    """Return control steps per second of this process's CPU time."""
    start = time.process_time()
    return run() / (time.process_time() - start)


if __name__ == "__main__":
    main()
