"""Run novelty search and fitness-based search on the hard maze; README.md has the commands.

Interrupted runs are resumed and finished runs are kept.
"""

import argparse
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from experiments.reports import run_to_end

HERE = Path(__file__).parent
OBJECTIVES = ("novelty", "objective")  # experiment files


def main() -> None:
    parser = argparse.ArgumentParser(description="Novelty search against the objective on the hard maze.")
    parser.add_argument("--seeds", type=int, default=10)
    parser.add_argument("--workers", type=int, default=2, help="number of runs in parallel, one thread each")
    parser.add_argument("--runs", type=Path, default=Path("runs/hard_maze"), help="folder of the runs")
    arguments = parser.parse_args()
    jobs = [(name, seed) for name in OBJECTIVES for seed in range(arguments.seeds)]
    with ThreadPoolExecutor(arguments.workers) as pool:
        list(pool.map(lambda job: run_to_end(HERE / f"{job[0]}.toml", job[1], folder_of(arguments.runs, *job)), jobs))


def folder_of(runs: Path, name: str, seed: int) -> Path:
    """Return the folder of a run."""
    return runs / name / f"seed{seed}"


if __name__ == "__main__":
    main()
