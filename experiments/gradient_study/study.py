"""MAP-Elites against PGA-, DCG- and DCRL-MAP-Elites at equal environment steps; README.md says how to run it.

For each task and algorithm some seeds are run, each in a process of one thread; runs that are there already are not run
again. Then the table of `results/<task>.md` and its figures are drawn: medians with quartiles, and two-sided
Mann-Whitney tests of each algorithm against MAP-Elites with Holm's correction over all of a task's tests.
"""

import argparse
import os
import subprocess
import sys
import tomllib
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import tomli_w
from matplotlib.figure import Figure
from scipy.stats import mannwhitneyu

from qdrl.archives.hdf5 import open_archive
from qdrl.archives.stored import StoredArchive
from qdrl.reevaluation import reevaluate_actor, reevaluate_elites
from qdrl.report.heatmap import plot_heatmap

HERE = Path(__file__).parent
TASKS = ("point_omni", "walker2d_uni")
# The papers' shares of a batch, a quarter of their size; critics and steps sized for small tasks.
TRAINING = {
    "batch_size": 64,
    "replay_capacity": 100_000,
    "critic": {"steps": 300, "hidden_sizes": [64, 64]},
    "gradient": {"steps": 50},
}
ALGORITHMS: dict[str, dict[str, Any]] = {
    "map_elites": {"batch_size": 64},
    "pga_map_elites": {**TRAINING, "gradient_rows": 31, "actor_rows": 1},
    "dcg_map_elites": {**TRAINING, "gradient_rows": 32, "probe_rows": 64},
    "dcrl_map_elites": {**TRAINING, "gradient_rows": 16, "actor_rows": 16},
}
LABELS = {"map_elites": "ME", "pga_map_elites": "PGA", "dcg_map_elites": "DCG", "dcrl_map_elites": "DCRL"}
COLORS = {
    "map_elites": "#8a8a8a",
    "pga_map_elites": "#e07b39",
    "dcg_map_elites": "#3b528b",
    "dcrl_map_elites": "#21918c",
}
METRICS = {
    "qd_score": "QD score",
    "coverage": "coverage",
    "max_fitness": "best fitness",
    "reach": "mean distance of elites' descriptors from (0, 0)",
    "corrected_qd_score": "QD score, elites run again",
    "descriptor_error": "descriptor error of elites",
    "actor_qd_score": "QD score of the actor asked for the elites' descriptors",
    "actor_descriptor_error": "descriptor error of the actor",
}


def main() -> None:
    parser = argparse.ArgumentParser(description="ME, PGA, DCG and DCRL at equal environment steps; see README.md.")
    parser.add_argument("--tasks", nargs="+", choices=TASKS, default=TASKS)
    parser.add_argument("--seeds", type=int, default=10)
    parser.add_argument("--workers", type=int, default=2, help="runs at the same time, one thread each")
    parser.add_argument("--runs", type=Path, default=Path("runs/gradient_study"), help="where runs go")
    arguments = parser.parse_args()
    for task in arguments.tasks:
        jobs = [(task, name, seed, arguments.runs) for seed in range(arguments.seeds) for name in ALGORITHMS]
        with ThreadPoolExecutor(arguments.workers) as pool:
            list(pool.map(lambda job: run(*job), jobs))
        report(task, arguments.seeds, arguments.runs)


def folder_of(task: str, algorithm: str, seed: int, runs: Path) -> Path:
    return runs / task / algorithm / f"seed{seed}"


def run(task: str, algorithm: str, seed: int, runs: Path) -> None:
    """One run, in a process of its own, unless it is there."""
    folder = folder_of(task, algorithm, seed, runs)
    if (folder / "archive.h5").exists():
        return
    folder.parent.mkdir(parents=True, exist_ok=True)
    experiment = tomllib.loads((HERE / f"{task}.toml").read_text()) | {
        "algorithm": {"name": algorithm, **ALGORITHMS[algorithm]}
    }
    config = folder.with_suffix(".toml")
    config.write_text(tomli_w.dumps(experiment))
    command = [sys.executable, "-m", "qdrl", "evolve", str(config), "--seed", str(seed), "--output", str(folder)]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, env=os.environ | {"OMP_NUM_THREADS": "1"})


def measure(archive: StoredArchive) -> dict[str, float]:
    """What a finished run is worth."""
    statistics, again = archive.statistics(), reevaluate_elites(archive)
    found = {
        "qd_score": statistics.qd_score,
        "coverage": statistics.coverage,
        "max_fitness": statistics.max_fitness,
        "reach": float(np.linalg.norm(archive.elites["descriptor"], axis=1).mean()),
        "corrected_qd_score": again.qd_score,
        "descriptor_error": again.descriptor_error,
    }
    if archive.actor is not None and int(archive.actor["dimensions"]):
        actor = reevaluate_actor(archive)
        found |= {"actor_qd_score": actor.qd_score, "actor_descriptor_error": actor.descriptor_error}
    return found


def report(task: str, seeds: int, runs: Path) -> None:
    """Write the table and the figures of a task."""
    archives = {
        name: [open_archive(folder_of(task, name, seed, runs) / "archive.h5") for seed in range(seeds)]
        for name in ALGORITHMS
    }
    values: dict[str, dict[str, list[float]]] = {name: {} for name in ALGORITHMS}
    for name, stored in archives.items():
        for found in map(measure, stored):
            for metric, value in found.items():
                values[name].setdefault(metric, []).append(value)
    results = HERE / "results"
    results.mkdir(exist_ok=True)
    (results / f"{task}.md").write_text(table(task, seeds, values))
    curves(archives).savefig(results / f"{task}_curves.png", dpi=110)
    gallery(archives, values).savefig(results / f"{task}_archives.png", dpi=110)


def table(task: str, seeds: int, values: dict[str, dict[str, list[float]]]) -> str:
    """Markdown: median [lower quartile, upper quartile], and corrected p against MAP-Elites."""
    corrected = holm(
        {
            (name, metric): float(mannwhitneyu(found[metric], values["map_elites"][metric]).pvalue)
            for name, found in values.items()
            for metric in METRICS
            if name != "map_elites" and metric in found and metric in values["map_elites"]
        }
    )
    lines = [
        f"{seeds} seeds of `{task}`: median [quartiles]; p: two-sided Mann-Whitney tests against ME, Holm-corrected.",
        "",
        "| | " + " | ".join(LABELS.values()) + " |",
        "|---" * (1 + len(LABELS)) + "|",
    ]
    for metric, label in METRICS.items():
        cells = []
        for name in LABELS:
            if metric not in values[name]:
                cells.append("-")
                continue
            low, middle, high = np.percentile(values[name][metric], [25, 50, 75])
            p = f", p {corrected[name, metric]:.2g}" if (name, metric) in corrected else ""
            cells.append(f"{middle:.5g} [{low:.5g}, {high:.5g}]{p}")
        lines.append(f"| {label} | " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def holm(p_values: dict[Any, float]) -> dict[Any, float]:
    """Holm's step-down correction (Holm 1979)."""
    corrected, largest = {}, 0.0
    for rank, (key, p) in enumerate(sorted(p_values.items(), key=lambda item: item[1])):
        largest = max(largest, min(1.0, p * (len(p_values) - rank)))
        corrected[key] = largest
    return corrected


def curves(archives: dict[str, list[StoredArchive]]) -> Figure:
    """QD score and coverage over environment steps: medians, quartiles shaded."""
    figure = Figure(figsize=(9, 3.2), layout="constrained")
    for axes, metric in zip(figure.subplots(1, 2), ("qd_score", "coverage"), strict=True):
        for name, stored in archives.items():
            ends = min(archive.history["env_steps"][-1] for archive in stored)
            steps = np.linspace(0, ends, 120)
            lines = [np.interp(steps, archive.history["env_steps"], archive.history[metric]) for archive in stored]
            low, middle, high = np.percentile(lines, [25, 50, 75], axis=0)
            axes.plot(steps / 1e3, middle, color=COLORS[name], label=LABELS[name], linewidth=1.6)
            axes.fill_between(steps / 1e3, low, high, color=COLORS[name], alpha=0.18, linewidth=0)
        axes.set_xlabel("thousand environment steps")
        axes.set_ylabel(METRICS[metric])
        axes.spines[["top", "right"]].set_visible(False)
    figure.axes[0].legend(frameon=False)
    return figure


def gallery(archives: dict[str, list[StoredArchive]], values: dict[str, dict[str, list[float]]]) -> Figure:
    """For each algorithm the archive whose QD score is the median."""
    figure = Figure(figsize=(15, 3.9), layout="constrained")
    middles = {name: np.argsort(found["qd_score"])[len(found["qd_score"]) // 2] for name, found in values.items()}
    shown = {name: stored[int(middles[name])] for name, stored in archives.items()}
    fitness = np.concatenate([archive.elites["fitness"] for archive in shown.values()])
    for axes, (name, archive) in zip(figure.subplots(1, len(shown)), shown.items(), strict=True):
        plot_heatmap(archive, axes=axes, vmin=fitness.min(), vmax=fitness.max(), colorbar=name == "dcrl_map_elites")
        axes.set_title(LABELS[name], loc="left", pad=20)  # above what the heatmap says of itself
    return figure


if __name__ == "__main__":
    main()
