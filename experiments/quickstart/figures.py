"""Draw the archive of the quickstart for README.md and write its scores; reads `results/*.csv` only."""

import argparse
from pathlib import Path

from experiments.reports import empty_archive, filled, markdown_table, number, read_rows
from qdrl.config import load_experiment
from qdrl.report.figures import save_figure
from qdrl.report.heatmap import figure_of_heatmap

HERE = Path(__file__).parent
RESULTS = HERE / "results"
IMAGES = HERE.parents[1] / "docs" / "images"
LABELS = {
    "elites": "elites",
    "qd_score": "QD score",
    "fitness_sum": "sum of elites' fitness, without offset",
    "max_fitness": "best return",
    "end_early": "elites whose episode ends early",
}


def main() -> None:
    parser = argparse.ArgumentParser(description="Draw the figure and the table of the quickstart from results/*.csv.")
    parser.add_argument("--output", type=Path, help="folder of figure and table, in place of docs/images and results")
    output = parser.parse_args().output
    for folder in (output or RESULTS, output or IMAGES):
        folder.mkdir(parents=True, exist_ok=True)
    (values,) = read_rows(RESULTS / "quickstart_values.csv")
    ((output or RESULTS) / "quickstart.md").write_text(table(values), encoding="utf-8")
    empty = empty_archive(load_experiment(HERE / "config.toml"))
    archive = filled(empty, read_rows(RESULTS / "quickstart_elites.csv"))
    save_figure(figure_of_heatmap(archive), (output or IMAGES) / "walker2d_gaits.png")


def table(values: dict[str, str]) -> str:
    """Return a Markdown table of the scores."""
    lines = [f"Seed {values['seed']}, {int(values['evaluations']):,} evaluations, {values['cells']} cells.", ""]
    body = [[label, number(float(values[name]))] for name, label in LABELS.items()]
    return "\n".join([*lines, *markdown_table(["", ""], body)]) + "\n"


if __name__ == "__main__":
    main()
