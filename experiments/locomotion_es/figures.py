"""Draw the figure and write the table of the runs on Humanoid and Walker2d; reads `results/*.csv` only."""

import argparse
from pathlib import Path

from matplotlib.figure import Figure
from matplotlib.ticker import EngFormatter

from experiments.reports import floats, markdown_table, number, read_rows
from qdrl.report.figures import INK, new_figure, quiet

RESULTS = Path(__file__).parent / "results"
WORDS = {
    "humanoid_pgpe": "PGPE with ClipUp, Humanoid",
    "walker2d_pgpe": "PGPE with ClipUp, Walker2d",
    "humanoid_es": "OpenAI-ES, Humanoid",
    "humanoid_deep_ga": "Deep GA, Humanoid",
    "humanoid_nses": "NS-ES, Humanoid",
}
Row = dict[str, str]


def main() -> None:
    parser = argparse.ArgumentParser(description="Draw the figure and the table from results/*.csv.")
    parser.add_argument("--output", type=Path, default=RESULTS, help="folder of figure and table")
    output = parser.parse_args().output
    output.mkdir(parents=True, exist_ok=True)
    runs = read_rows(RESULTS / "runs.csv")
    (output / "locomotion_es.md").write_text(table(runs), encoding="utf-8")
    curves(runs).savefig(output / "locomotion_es_curves.png", dpi=110)


def table(runs: list[Row]) -> str:
    """Return Markdown: what each run has reached, and the machine."""
    body = []
    for run in runs:
        test = read_rows(RESULTS / f"{run['run']}_test.csv")
        spent, budget = int(run["env_steps"]) / 1e6, int(run["budget"]) / 1e6
        body.append(
            [
                WORDS[run["run"]],
                f"{spent:.1f} of {budget:g}",
                f"{int(run['updates']):,}",
                f"{int(run['seconds']) / 3600:.1f}",
                *(mean_and_spread(test, column) for column in ("without_bonus", "with_bonus", "steps")),
            ]
        )
    header = ["run", "million control steps", "updates", "hours", "return without bonus", "with bonus", "steps"]
    return "\n".join([*introduction(runs), "", *markdown_table(header, body)]) + "\n"


def introduction(runs: list[Row]) -> list[str]:
    """Return the lines above the table."""
    first = runs[0]
    tests = len(read_rows(RESULTS / f"{first['run']}_test.csv"))
    versions = ", ".join(f"{name} {first[name]}" for name in ("python", "mujoco", "numpy", "torch", "evotorch"))
    commits = ", ".join(f"`{commit}`" for commit in sorted({run["commit"] for run in runs}))
    ended = [run for run in runs if int(run["env_steps"]) < int(run["budget"])]
    lines = [
        f"Held-out test of the latest mean over {tests} episodes: mean ± standard deviation. One seed and"
        f" {first['ranks']} rank each, on one shared core of {first['processor']}; {versions}; commit {commits}.",
    ]
    if ended:
        lines.append(f"{len(ended)} of {len(runs)} runs had not spent their budget: beginnings, not results.")
    return lines


def mean_and_spread(rows: list[Row], column: str) -> str:
    values = floats(rows, column)
    return f"{number(values.mean())} ± {number(values.std(ddof=1))}"


def curves(runs: list[Row]) -> Figure:
    """Plot the return of each mean, as the run defines it, over control steps."""
    figure = new_figure(4.2 * len(runs), 2.9)
    for axes, run in zip(figure.subplots(1, len(runs), squeeze=False)[0], runs, strict=True):
        rows = read_rows(RESULTS / f"{run['run']}_curve.csv")
        axes.plot(floats(rows, "env_steps"), floats(rows, "champion_fitness"), color="#e07b39", label="mean")
        axes.plot(floats(rows, "env_steps"), floats(rows, "best"), color="#440154", label="best row so far")
        axes.set_title(WORDS[run["run"]], fontsize=9, color=INK)
        axes.set_xlabel("control steps")
        axes.set_ylabel("return in training")
        axes.xaxis.set_major_formatter(EngFormatter(sep=""))
        axes.legend(frameon=False, fontsize=7.5, labelcolor=INK)
        quiet(axes)
    return figure


if __name__ == "__main__":
    main()
