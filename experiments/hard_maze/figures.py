"""Draw the figure and write the table of the hard maze; reads `results/*.csv` only."""

import argparse
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure
from scipy.stats import fisher_exact

from experiments.reports import floats, markdown_table, read_rows
from qdrl.tasks.maze import SUCCESS
from qdrl.tasks.mazes import MAZES, walls

RESULTS = Path(__file__).parent / "results"
SELECTIONS = {"novelty": "novelty search", "objective": "distance to the goal"}
LARGEST_BUDGET = 200_000  # evaluations, as in the experiment files
Rows = list[dict[str, str]]


def main() -> None:
    parser = argparse.ArgumentParser(description="Draw the figure and the table from results/*.csv.")
    parser.add_argument("--output", type=Path, default=RESULTS, help="folder of figure and table")
    output = parser.parse_args().output
    output.mkdir(parents=True, exist_ok=True)
    values, ends = (read_rows(RESULTS / f"hard_maze_{name}.csv") for name in ("values", "ends"))
    (output / "hard_maze.md").write_text(table(values), encoding="utf-8")
    ends_figure(values, ends).savefig(output / "hard_maze_ends.png", dpi=110)


def table(values: Rows) -> str:
    """Return a Markdown table of both ways to select."""
    solved = {name: floats(rows_of(values, name), "distance") < SUCCESS for name in SELECTIONS}
    _, p = fisher_exact([[found.sum(), (~found).sum()] for found in solved.values()])
    lines = [
        f"Evaluations until an agent ended within {SUCCESS:g} units of the goal, at most {LARGEST_BUDGET:,}; a run "
        f"that did not solve the maze counts with all of them. Solved or not: Fisher's exact test, p {p:.2g}.",
        "",
    ]
    body = []
    for name, words in SELECTIONS.items():
        spent, nearest = (floats(rows_of(values, name), column) for column in ("evaluations", "distance"))
        evaluations = f"{np.median(spent):,.0f} [{min(spent):,.0f}, {max(spent):,.0f}]"
        distances = f"{np.median(nearest):.2f} [{min(nearest):.2f}, {max(nearest):.2f}]"
        body.append([words, f"{solved[name].sum()} of {len(spent)}", evaluations, distances])
    header = ["parents are chosen by", "solved", "evaluations: median [range]", "from the goal: median [range]"]
    return "\n".join([*lines, *markdown_table(header, body)]) + "\n"


def rows_of(rows: Rows, selection: str) -> Rows:
    return [row for row in rows if row["selection"] == selection]


def ends_figure(values: Rows, ends: Rows) -> Figure:
    """Plot the final positions of the children of one run's last parents, for each way to select."""
    figure = Figure(figsize=(9, 4.4), layout="constrained")
    maze = MAZES["hard_maze"]
    for axes, (name, words) in zip(figure.subplots(1, 2), SELECTIONS.items(), strict=True):
        shown = rows_of(ends, name)
        seed = shown[0]["seed"]
        (run,) = (row for row in rows_of(values, name) if row["seed"] == seed)
        for x1, y1, x2, y2 in walls("hard_maze"):
            axes.plot([x1, x2], [y1, y2], color="#333333", linewidth=1.4)
        axes.scatter(floats(shown, "x"), floats(shown, "y"), s=7, color="#21918c", alpha=0.6, linewidths=0)
        axes.plot(*maze.start, "o", color="#e07b39", label="start")
        axes.plot(*maze.goal, "*", color="#d62728", markersize=12, label="goal")
        spent, nearest = int(run["evaluations"]), float(run["distance"])
        axes.set_title(f"{words}, seed {seed}\n{spent:,} evaluations, {nearest:.1f} units from the goal", fontsize=9)
        axes.set_aspect("equal")
        axes.invert_yaxis()  # as in the papers
        axes.set_axis_off()
    labels = figure.axes[0].get_legend_handles_labels()
    figure.legend(*labels, loc="outside lower center", ncols=2, frameon=False, fontsize=8)
    return figure


if __name__ == "__main__":
    main()
