"""Write the elites and the scores of a finished `make demo` as CSV: `python -m experiments.quickstart.measure RUN`."""

import argparse
from pathlib import Path

from experiments.reports import elite_rows, write_rows
from qdrl.archives.hdf5 import open_archive

RESULTS = Path(__file__).parent / "results"


def main() -> None:
    parser = argparse.ArgumentParser(description="Write results/*.csv of the quickstart from its run.")
    parser.add_argument("run", type=Path, help="folder of the run")
    parser.add_argument("--output", type=Path, default=RESULTS, help="folder of the CSV files")
    arguments = parser.parse_args()
    archive = open_archive(arguments.run / "archive.h5")
    now = archive.statistics()
    values = {
        "seed": int(archive.attributes["seed"]),
        "evaluations": int(archive.history["evaluations"][-1]),
        "elites": now.elites,
        "cells": archive.cells,
        "qd_score": now.qd_score,
        "fitness_sum": now.fitness_sum,
        "max_fitness": now.max_fitness,
        "end_early": int((archive.elites["steps"] < archive.meta["config"]["task"]["episode_length"]).sum()),
    }
    write_rows(arguments.output / "quickstart_values.csv", [values])
    write_rows(arguments.output / "quickstart_elites.csv", elite_rows(archive))


if __name__ == "__main__":
    main()
