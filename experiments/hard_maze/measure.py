"""Measure finished runs on the hard maze and write `results/*.csv`; README.md has the commands.

`hard_maze_values.csv` has one row per run, `hard_maze_ends.csv` the final positions of the children of the last parents
of one run each: the run with the median number of evaluations.
"""

import argparse
from pathlib import Path

from experiments.hard_maze.run import OBJECTIVES, folder_of
from experiments.reports import is_finished, write_rows
from qdrl.archives.hdf5 import open_archive
from qdrl.run.resume import load

RESULTS = Path(__file__).parent / "results"


def main() -> None:
    parser = argparse.ArgumentParser(description="Write the CSV files of the hard maze from its runs.")
    parser.add_argument("--seeds", type=int, default=10)
    parser.add_argument("--runs", type=Path, default=Path("runs/hard_maze"), help="folder of the runs")
    parser.add_argument("--output", type=Path, default=RESULTS, help="folder of the CSV files")
    arguments = parser.parse_args()
    values, ends = [], []
    for name in OBJECTIVES:
        folders = {seed: folder_of(arguments.runs, name, seed) for seed in range(arguments.seeds)}
        for seed in [seed for seed, folder in folders.items() if not is_finished(folder)]:
            print(f"{folders.pop(seed)}: not finished, left out")
        found = {seed: outcome(folder) for seed, folder in folders.items()}
        values += [{"selection": name, "seed": seed} | row for seed, row in found.items()]
        ranked = sorted(found, key=lambda seed: found[seed]["evaluations"])
        for seed in ranked[len(ranked) // 2 :][:1]:
            ends += [{"selection": name, "seed": seed} | row for row in ends_of(folders[seed])]
    write_rows(arguments.output / "hard_maze_values.csv", values)
    write_rows(arguments.output / "hard_maze_ends.csv", ends)


def outcome(folder: Path) -> dict[str, float]:
    """Return the evaluations spent and the champion's distance to the goal."""
    history = open_archive(folder / "archive.h5").history
    return {"evaluations": int(history["evaluations"][-1]), "distance": -float(history["champion_fitness"][-1])}


def ends_of(folder: Path) -> list[dict[str, str]]:
    """Return the final positions of the generation that would come next."""
    parts = load(folder)
    ends = parts.task.evaluate(parts.algorithm.ask()).descriptor.tolist()
    return [{"x": f"{x:.6g}", "y": f"{y:.6g}"} for x, y in ends]


if __name__ == "__main__":
    main()
