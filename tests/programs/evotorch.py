"""What `test_evotorch_runs.py` runs: `mpirun -n 4 python -m tests.programs.evotorch split <folder>`.

Importing EvoTorch takes seconds, so each program runs every searcher.
"""

import os
import signal
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from qdrl.config import Experiment, parse_experiment
from qdrl.parallel.ranks import OneProcess, Ranks, connect
from qdrl.run.build import build
from qdrl.run.resume import resume
from qdrl.run.start import start
from tests.programs.ending import aborting_all_ranks

GENERATIONS = 5
SEARCHERS: dict[str, dict[str, Any]] = {
    "pgpe": {"name": "pgpe"},
    "adam": {"name": "pgpe", "optimizer": {"name": "adam"}, "initial_stdev": 0.1},
    "snes": {"name": "snes", "initial_stdev": 0.1},
    "xnes": {"name": "xnes", "initial_stdev": 0.1},
    "cem": {"name": "cem", "initial_stdev": 0.1, "parenthood_ratio": 0.3},
    "cmaes": {"name": "cmaes", "initial_stdev": 0.1},
}


def experiment(searcher: str, generations: int = GENERATIONS, **run: Any) -> Experiment:
    """A short run of small policies on `point_omni`, 26 rows a generation."""
    return parse_experiment(
        {
            "name": searcher,
            "seed": 6,
            "task": {"name": "point_omni", "episode_length": 20},
            "policy": {"hidden_sizes": [3], "normalize_observations": True},
            "archive": {"kind": "grid", "shape": [12, 12]},
            "algorithm": {"name": "evotorch", "batch_size": 26, "searcher": SEARCHERS[searcher]},
            "run": {"generations": generations, **run},
        }
    )


def evolve(ranks: Ranks, folder: Path) -> None:
    """Collective. Run every searcher in a folder of its own."""
    for searcher in SEARCHERS:
        start(experiment(searcher), ranks, folder=folder / searcher, progress=False)


def go_on(ranks: Ranks, folder: Path) -> None:
    """Collective. Resume every run up to the generation that its file `until` names."""
    for searcher in SEARCHERS:
        until = int((folder / searcher / "until").read_text())
        resume(
            folder / searcher,
            ranks,
            overrides=[f"run.generations={until}", "run.checkpoint_seconds=60"],
            progress=False,
        )


def split(ranks: Ranks, folder: Path) -> None:
    """Run every searcher on all four ranks; on three and on the fourth; on two, while the others resume."""
    from mpi4py import MPI

    from qdrl.parallel.mpi import MpiRanks

    evolve(ranks, folder / "4")
    group = MpiRanks(MPI.COMM_WORLD.Split(ranks.rank == 3))
    evolve(group, folder / str(group.size))
    group = MpiRanks(MPI.COMM_WORLD.Split(ranks.rank >= 2))
    if ranks.rank < 2:
        evolve(group, folder / "2")
    else:
        go_on(group, folder / "killed")


def kill(_: Ranks, folder: Path) -> None:
    """Run every searcher without an end and kill it after some generations."""
    build(experiment("cem"))  # imports EvoTorch once for all children
    for index, searcher in enumerate(SEARCHERS):
        child = os.fork()
        if child == 0:
            endless = experiment(searcher, 10**9, checkpoint_seconds=0)
            start(endless, OneProcess(), folder=folder / searcher, progress=False)
        _wait_for_rows(folder / searcher / "metrics.csv", 5 + index)
        time.sleep(0.013 * index)
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)


def _wait_for_rows(metrics: Path, rows: int) -> None:
    deadline = time.monotonic() + 60
    while not (metrics.exists() and len(metrics.read_text().splitlines()) > rows):
        if time.monotonic() > deadline:
            raise TimeoutError(f"{metrics} never had {rows} rows")
        time.sleep(0.001)


def main(arguments: Sequence[str]) -> None:
    """Run one program; an exception ends all ranks."""
    program, folder = arguments
    with aborting_all_ranks():
        {"split": split, "kill": kill}[program](connect(), Path(folder))


if __name__ == "__main__":
    main(sys.argv[1:])
