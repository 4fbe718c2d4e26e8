"""Novelty search compared with fitness-based search on the hard maze; README.md discusses the results.

Interrupted runs are resumed and finished runs are reused. Then the script writes `results/hard_maze.md` and plots the
final positions of the agents.
"""

import argparse
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

from qdrl.archives.hdf5 import open_archive
from qdrl.run.resume import load
from qdrl.tasks.maze import SUCCESS
from qdrl.tasks.mazes import MAZES, walls

HERE = Path(__file__).parent
OBJECTIVES = {"novelty": "novelty search", "objective": "distance to the goal"}


def main() -> None:
    parser = argparse.ArgumentParser(description="Novelty search against the objective on the hard maze.")
    parser.add_argument("--seeds", type=int, default=10)
    parser.add_argument("--workers", type=int, default=2, help="number of runs in parallel, one thread each")
    parser.add_argument("--runs", type=Path, default=Path("runs/hard_maze"), help="folder of the runs")
    arguments = parser.parse_args()
    jobs = [(name, seed, arguments.runs) for name in OBJECTIVES for seed in range(arguments.seeds)]
    with ThreadPoolExecutor(arguments.workers) as pool:
        list(pool.map(lambda job: run(*job), jobs))
    report(arguments.seeds, arguments.runs)


def run(name: str, seed: int, runs: Path) -> None:
    """Start or resume one run in a process of its own; do nothing if it has finished."""
    folder = runs / name / f"seed{seed}"
    command = [sys.executable, "-m", "qdrl"]
    if folder.exists():
        if (folder / "log.txt").read_text(encoding="utf-8").rstrip().endswith("finished"):
            return
        command += ["resume", str(folder)]
    else:
        folder.parent.mkdir(parents=True, exist_ok=True)
        command += ["evolve", str(HERE / f"{name}.toml"), "--seed", str(seed), "--output", str(folder)]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, env=os.environ | {"OMP_NUM_THREADS": "1"})


def report(seeds: int, runs: Path) -> None:
    """Write the table and the figure."""
    results = HERE / "results"
    results.mkdir(exist_ok=True)
    lines = [
        f"{seeds} seeds; evaluations until an agent ended within {SUCCESS:g} units of the goal, at most 200,000.",
        "",
        "| parents are chosen by | solved | evaluations: median [least, most] | from the goal: median [least, most] |",
        "|---|---|---|---|",
    ]
    for name, words in OBJECTIVES.items():
        spent, nearest = zip(*(outcome(runs / name / f"seed{seed}") for seed in range(seeds)), strict=True)
        solved = sum(distance < SUCCESS for distance in nearest)
        evaluations = f"{np.median(spent):,.0f} [{min(spent):,.0f}, {max(spent):,.0f}]"
        distances = f"{np.median(nearest):.2f} [{min(nearest):.2f}, {max(nearest):.2f}]"
        lines.append(f"| {words} | {solved} of {seeds} | {evaluations} | {distances} |")
    (results / "hard_maze.md").write_text("\n".join(lines) + "\n", encoding="utf-8")
    ends_figure(runs).savefig(results / "hard_maze_ends.png", dpi=110)


def outcome(folder: Path) -> tuple[float, float]:
    """Return the evaluations spent and the champion's distance to the goal."""
    archive = open_archive(folder / "archive.h5")
    return float(archive.history["evaluations"][-1]), -float(archive.history["champion_fitness"][-1])


def ends_figure(runs: Path) -> Figure:
    """Plot the final positions of the children of each run's last parents, for the first seed."""
    figure = Figure(figsize=(9, 4.4), layout="constrained")
    maze = MAZES["hard_maze"]
    for axes, (name, words) in zip(figure.subplots(1, 2), OBJECTIVES.items(), strict=True):
        folder = runs / name / "seed0"
        parts = load(folder)
        ends = parts.task.evaluate(parts.algorithm.ask()).descriptor.numpy()
        for x1, y1, x2, y2 in walls("hard_maze"):
            axes.plot([x1, x2], [y1, y2], color="#333333", linewidth=1.4)
        axes.scatter(*ends.T, s=7, color="#21918c", alpha=0.6, linewidths=0)
        axes.plot(*maze.start, "o", color="#e07b39", label="start")
        axes.plot(*maze.goal, "*", color="#d62728", markersize=12, label="goal")
        spent, nearest = outcome(folder)
        axes.set_title(f"{words}: {spent:,.0f} evaluations, {nearest:.1f} units from the goal", fontsize=9)
        axes.set_aspect("equal")
        axes.invert_yaxis()  # as in the papers
        axes.set_axis_off()
    figure.legend(
        *figure.axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=2, frameon=False, fontsize=8
    )
    return figure


if __name__ == "__main__":
    main()
