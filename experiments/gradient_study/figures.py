"""Draw the figures and write the tables of all studies that have results; reads `results/*.csv` only."""

import argparse
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

from experiments.gradient_study.studies import BASELINE, LABELS, RESULTS, STUDIES
from experiments.reports import (
    FEW,
    empty_archive,
    filled,
    floats,
    holm,
    mann_whitney_p,
    markdown_table,
    read_rows,
    spread,
)
from qdrl.config import parse_experiment
from qdrl.report.heatmap import plot_heatmap

COLORS = {
    "map_elites": "#8a8a8a",
    "pga_map_elites": "#e07b39",
    "dcg_map_elites": "#3b528b",
    "dcrl_map_elites": "#21918c",
}
METRICS = {
    "evaluations": "evaluations",
    "qd_score": "QD score",
    "fitness_sum": "sum of elites' fitness, without offset",
    "coverage": "coverage",
    "max_fitness": "best fitness",
    "corrected_qd_score": "QD score, elites run again",
    "corrected_fitness_sum": "sum of fitness, elites run again",
    "descriptor_error": "descriptor error of elites",
    "actor_qd_score": "QD score of the actor with the elites' descriptors as targets",
    "actor_fitness_sum": "sum of fitness of the actor with the same targets",
    "actor_descriptor_error": "descriptor error of the actor",
    "reach": "mean distance of elites' descriptors from (0, 0)",
    "gradient_reach": "distance of gradient children, over their parents'",
    "unchanged_reach": "control: distance of unchanged elites run again, over the stored one",
    "relative_reach": "gradient children over the control",
}
UNTESTED = ("evaluations",)
Rows = list[dict[str, str]]


def main() -> None:
    parser = argparse.ArgumentParser(description="Draw figures and tables from results/*.csv.")
    parser.add_argument("--studies", nargs="+", choices=STUDIES, help="those with results when left out")
    parser.add_argument("--output", type=Path, default=RESULTS, help="folder of figures and tables")
    arguments = parser.parse_args()
    for name in arguments.studies or [name for name in STUDIES if (RESULTS / f"{name}_values.csv").exists()]:
        report(name, arguments.output)


def report(study: str, output: Path) -> None:
    """Write the table and the figures of a study."""
    output.mkdir(parents=True, exist_ok=True)
    values = read_rows(RESULTS / f"{study}_values.csv")
    (output / f"{study}.md").write_text(table(study, values), encoding="utf-8")
    curves(read_rows(RESULTS / f"{study}_curves.csv")).savefig(output / f"{study}_curves.png", dpi=110)
    gallery(study, read_rows(RESULTS / f"{study}_elites.csv")).savefig(output / f"{study}_archives.png", dpi=110)


# Table


def table(study: str, rows: Rows) -> str:
    """Return a Markdown table of medians with quartiles, and tests against MAP-Elites."""
    values = values_of(rows)
    tests = p_values(values)
    lines = [f"`{study}`: {heading(len(tests))}", ""]
    if without_offset(rows):
        lines.insert(1, "The task has no reward offset, so QD scores are sums of fitness.")
    body = [["seeds", *(str(len(found["evaluations"])) for found in values.values())]]
    for metric, label in METRICS.items():
        cells = [
            spread(found[metric]) + (f", p {tests[name, metric]:.2g}" if (name, metric) in tests else "")
            if len(found[metric])
            else "-"
            for name, found in values.items()
        ]
        if set(cells) != {"-"}:
            body.append([label, *cells])
    return "\n".join([*lines, *markdown_table(["", *map(LABELS.__getitem__, values)], body)]) + "\n"


def heading(tests: int) -> str:
    """Return a sentence about how to read the cells."""
    if not tests:
        return "the value of each seed."
    return (
        "median [quartiles] of the seeds. p: two-sided exact Mann-Whitney test against ME over all splits of the "
        f"ranks, Holm-corrected over the {tests} tests of this table."
    )


def values_of(rows: Rows) -> dict[str, dict[str, np.ndarray]]:
    """Return the values of the seeds by algorithm and metric; empty for what an algorithm does not have."""
    values = {}
    for name, own in by_algorithm(rows):
        values[name] = {metric: floats(own, metric) for metric in METRICS}
        values[name]["relative_reach"] = values[name]["gradient_reach"] / values[name]["unchanged_reach"]
        if without_offset(rows):  # the same numbers again
            values[name] |= {metric: np.array([]) for metric in METRICS if metric.endswith("fitness_sum")}
    return values


def without_offset(rows: Rows) -> bool:
    """Return whether QD scores are sums of fitness."""
    return np.allclose(floats(rows, "qd_score"), floats(rows, "fitness_sum"), rtol=1e-6)


def by_algorithm(rows: Rows) -> Iterator[tuple[str, Rows]]:
    """Yield each algorithm of a table with its rows."""
    for name in LABELS:
        if own := [row for row in rows if row["algorithm"] == name]:
            yield name, own


def p_values(values: dict[str, dict[str, np.ndarray]]) -> dict[tuple[str, str], float]:
    """Return corrected p by algorithm and metric; none if an algorithm has few seeds."""
    if any(len(found["evaluations"]) < FEW for found in values.values()) or BASELINE not in values:
        return {}
    return holm(
        {
            (name, metric): mann_whitney_p(found[metric], values[BASELINE][metric])
            for name, found in values.items()
            for metric in METRICS
            if name != BASELINE and metric not in UNTESTED and len(found[metric]) and len(values[BASELINE][metric])
        }
    )


# Figures


def curves(rows: Rows) -> Figure:
    """Plot scores over environment steps: medians, quartiles shaded."""
    shown = ("qd_score", "coverage") if without_offset(rows) else ("qd_score", "fitness_sum", "coverage")
    figure = Figure(figsize=(4.2 * len(shown), 3.2), layout="constrained")
    for axes, metric in zip(figure.subplots(1, len(shown)), shown, strict=True):
        for name, own in by_algorithm(rows):
            seeds = [[row for row in own if row["seed"] == seed] for seed in dict.fromkeys(row["seed"] for row in own)]
            first, last = (np.array([floats(run, "env_steps")[end] for run in seeds]) for end in (0, -1))
            steps = np.linspace(first.max(), last.min(), 120)
            lines = [np.interp(steps, floats(run, "env_steps"), floats(run, metric)) for run in seeds]
            low, middle, high = np.percentile(lines, [25, 50, 75], axis=0)
            axes.plot(steps / 1e3, middle, color=COLORS[name], label=LABELS[name], linewidth=1.6)
            axes.fill_between(steps / 1e3, low, high, color=COLORS[name], alpha=0.18, linewidth=0)
        axes.set_xlabel("thousand environment steps")
        axes.set_ylabel(METRICS[metric].partition(",")[0])
        axes.spines[["top", "right"]].set_visible(False)
    figure.axes[0].legend(frameon=False)
    return figure


def gallery(study: str, rows: Rows) -> Figure:
    """Plot the archives of the elites' table, one of each algorithm."""
    figure = Figure(figsize=(16, 3.7), layout="constrained")
    fitness = floats(rows, "fitness")
    shown = dict(by_algorithm(rows))
    empty = empty_archive(parse_experiment(STUDIES[study].experiment(BASELINE)))  # all algorithms have its cells
    for axes, (name, own) in zip(figure.subplots(1, len(shown)), shown.items(), strict=True):
        last = name == list(shown)[-1]
        plot_heatmap(filled(empty, own), axes=axes, vmin=fitness.min(), vmax=fitness.max(), colorbar=last)
        axes.set_title(f"{LABELS[name]}, seed {own[0]['seed']}", loc="left", pad=20)  # above the heatmap's title
    return figure


if __name__ == "__main__":
    main()
