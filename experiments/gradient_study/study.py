"""MAP-Elites compared with PGA-, DCG- and DCRL-MAP-Elites; README.md explains how to run it.

Each task and algorithm is run with several seeds, each in a process with one thread. Interrupted runs are resumed and
finished runs are reused. Then the script writes the table `results/<study>.md` and its figures: medians with quartiles,
and two-sided Mann-Whitney tests of each algorithm against MAP-Elites with Holm's correction over all tests of a study.
"""

import argparse
import os
import subprocess
import sys
import tomllib
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import tomli_w
from matplotlib.figure import Figure
from scipy.stats import mannwhitneyu

from qdrl.analysis.reevaluate import reevaluate_actor, reevaluate_elites
from qdrl.archives.hdf5 import open_archive
from qdrl.archives.stored import StoredArchive
from qdrl.report.heatmap import plot_heatmap
from qdrl.run.resume import load

HERE = Path(__file__).parent
LABELS = {"map_elites": "ME", "pga_map_elites": "PGA", "dcg_map_elites": "DCG", "dcrl_map_elites": "DCRL"}
# Batches have the proportions of the papers and a quarter of their size; critics and steps are sized for small tasks.
TRAINING = {
    "batch_size": 64,
    "replay_capacity": 100_000,
    "critic": {"steps": 300, "hidden_sizes": [64, 64]},
    "gradient": {"steps": 50},
}
SMALL: dict[str, dict[str, Any]] = {
    "map_elites": {"batch_size": 64},
    "pga_map_elites": {**TRAINING, "gradient_rows": 31, "actor_rows": 1},
    "dcg_map_elites": {**TRAINING, "gradient_rows": 32, "probe_rows": 64},
    "dcrl_map_elites": {**TRAINING, "gradient_rows": 16, "actor_rows": 16},
}

# As many critic and gradient steps per evaluation as in the papers; a discount whose horizon this critic can learn.
NEAR = {"critic": {"steps": 750, "hidden_sizes": [64, 64], "discount": 0.9}, "gradient": {"steps": 150}}


@dataclass(frozen=True)
class Study:
    """One task and the algorithms that run on it.

    Attributes:
        base: path of the experiment file, relative to this folder; `{}` stands for the algorithm's name.
        algorithms: the `[algorithm]` table of each algorithm; an empty one keeps the table of the file.
        changes: tables that replace those of the file.
        seeds: default number of seeds.
    """

    base: str
    algorithms: dict[str, dict[str, Any]]
    changes: dict[str, dict[str, Any]]
    seeds: int

    def experiment(self, algorithm: str) -> dict[str, Any]:
        """Return the experiment of an algorithm, as in an experiment file."""
        file = tomllib.loads((HERE / self.base.format(algorithm)).read_text(encoding="utf-8"))
        if table := self.algorithms[algorithm]:
            file["algorithm"] = {"name": algorithm, **table}
        return file | self.changes | {"name": "gradient_study"}


PAPER_RUN = {"evaluations": 25_000, "checkpoint_seconds": 300.0}
PAPER: dict[str, dict[str, Any]] = {"map_elites": {}, "pga_map_elites": {}, "dcrl_map_elites": {}}
STUDIES = {
    "point_omni": Study("point_omni.toml", SMALL, {}, seeds=10),
    "walker2d_uni": Study("walker2d_uni.toml", SMALL, {}, seeds=10),
    "point_omni_near": Study(
        "point_omni.toml",
        {name: table | (NEAR if "critic" in table else {}) for name, table in SMALL.items()},
        {},
        seeds=10,
    ),
    "ant_omni_paper": Study("../ant_omni/{}.toml", PAPER, {"run": PAPER_RUN, "task": {"name": "ant_omni"}}, seeds=2),
    "walker2d_uni_paper": Study(
        "../ant_omni/{}.toml",
        PAPER,
        {"run": PAPER_RUN, "task": {"name": "walker2d_uni", "episode_length": 250}},
        seeds=1,
    ),
}
COLORS = {
    "map_elites": "#8a8a8a",
    "pga_map_elites": "#e07b39",
    "dcg_map_elites": "#3b528b",
    "dcrl_map_elites": "#21918c",
}
FEW = 5  # with fewer seeds, quartiles and tests are not meaningful
METRICS = {
    "qd_score": "QD score",
    "coverage": "coverage",
    "max_fitness": "best fitness",
    "reach": "mean distance of elites' descriptors from (0, 0)",
    "gradient_reach": "the same of gradient children, over their parents'",
    "corrected_qd_score": "QD score, elites run again",
    "descriptor_error": "descriptor error of elites",
    "actor_qd_score": "QD score of the actor asked for the elites' descriptors",
    "actor_descriptor_error": "descriptor error of the actor",
}


def main() -> None:
    parser = argparse.ArgumentParser(description="ME compared with PGA, DCG and DCRL; see README.md.")
    parser.add_argument(
        "--studies", nargs="+", choices=STUDIES, default=["point_omni", "walker2d_uni", "point_omni_near"]
    )
    parser.add_argument("--seeds", type=int, help="number of seeds, in place of each study's default")
    parser.add_argument("--workers", type=int, default=2, help="number of runs in parallel, one thread each")
    parser.add_argument("--runs", type=Path, default=Path("runs/gradient_study"), help="folder of the runs")
    arguments = parser.parse_args()
    for name in arguments.studies:
        seeds = range(arguments.seeds or STUDIES[name].seeds)
        jobs = [(name, algorithm, seed, arguments.runs) for seed in seeds for algorithm in STUDIES[name].algorithms]
        with ThreadPoolExecutor(arguments.workers) as pool:
            list(pool.map(lambda job: run(*job), jobs))
        report(name, len(seeds), arguments.runs)


def folder_of(study: str, algorithm: str, seed: int, runs: Path) -> Path:
    return runs / study / algorithm / f"seed{seed}"


def run(study: str, algorithm: str, seed: int, runs: Path) -> None:
    """Start or resume one run in a process of its own; do nothing if it has finished."""
    folder = folder_of(study, algorithm, seed, runs)
    command = [sys.executable, "-m", "qdrl"]
    if folder.exists():
        if (folder / "log.txt").read_text(encoding="utf-8").rstrip().endswith("finished"):
            return
        command += ["resume", str(folder)]
    else:
        folder.parent.mkdir(parents=True, exist_ok=True)
        config = folder.with_suffix(".toml")
        config.write_text(tomli_w.dumps(STUDIES[study].experiment(algorithm)), encoding="utf-8")
        command += ["evolve", str(config), "--seed", str(seed), "--output", str(folder)]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, env=os.environ | {"OMP_NUM_THREADS": "1"})


def measure(archive: StoredArchive) -> dict[str, float]:
    """Return the results of a finished run."""
    assert archive.path is not None
    statistics, again = archive.statistics(), reevaluate_elites(archive)
    found = {
        "qd_score": statistics.qd_score,
        "coverage": statistics.coverage,
        "max_fitness": statistics.max_fitness,
        "corrected_qd_score": again.qd_score,
        "descriptor_error": again.descriptor_error,
    }
    if archive.axes[0].unit == "m":  # the final position; standing still is the fitness optimum
        found["reach"] = float(np.linalg.norm(archive.elites["descriptor"], axis=1).mean())
        if "gradient" in archive.emitters:
            found["gradient_reach"] = gradient_reach(archive.path.parent)
    if archive.actor is not None and int(archive.actor["dimensions"]):
        actor = reevaluate_actor(archive)
        found |= {"actor_qd_score": actor.qd_score, "actor_descriptor_error": actor.descriptor_error}
    return found


def gradient_reach(run: Path) -> float:
    """Return the mean distance from (0, 0) of the next generation's gradient children over that of their parents."""
    parts = load(run)
    candidates = parts.algorithm.ask()
    children = candidates.emitter == parts.algorithm.emitters.index("gradient")
    reached = parts.task.evaluate(candidates).descriptor[children]
    before = parts.archive.descriptors_of(candidates.parent_cell[children])
    alive = ~reached.isnan().any(1)
    return float(reached[alive].norm(dim=1).mean() / before[alive].norm(dim=1).mean())


def report(study: str, seeds: int, runs: Path) -> None:
    """Write the table and the figures of a study."""
    archives = {
        name: [open_archive(folder_of(study, name, seed, runs) / "archive.h5") for seed in range(seeds)]
        for name in STUDIES[study].algorithms
    }
    values: dict[str, dict[str, list[float]]] = {name: {} for name in archives}
    for name, stored in archives.items():
        for found in map(measure, stored):
            for metric, value in found.items():
                values[name].setdefault(metric, []).append(value)
    results = HERE / "results"
    results.mkdir(exist_ok=True)
    (results / f"{study}.md").write_text(table(study, seeds, values), encoding="utf-8")
    curves(archives).savefig(results / f"{study}_curves.png", dpi=110)
    gallery(archives, values).savefig(results / f"{study}_archives.png", dpi=110)


def table(study: str, seeds: int, values: dict[str, dict[str, list[float]]]) -> str:
    """Return a Markdown table of median [lower quartile, upper quartile] and corrected p against MAP-Elites."""
    few = seeds < FEW
    tests = {} if few else p_values(values)
    says = "each seed" if few else "median [quartiles]; p: two-sided Mann-Whitney tests against ME, Holm-corrected"
    lines = [
        f"{seeds} seed{'s' * (seeds > 1)} of `{study}`: {says}.",
        "",
        "| | " + " | ".join(LABELS[name] for name in values) + " |",
        "|---" * (1 + len(values)) + "|",
    ]
    for metric, label in METRICS.items():
        if not any(metric in found for found in values.values()):
            continue
        cells = []
        for name, found in values.items():
            if metric not in found:
                cells.append("-")
            elif few:
                cells.append(", ".join(map(number, found[metric])))
            else:
                low, middle, high = map(number, np.percentile(found[metric], [25, 50, 75]))
                p = f", p {tests[name, metric]:.2g}" if (name, metric) in tests else ""
                cells.append(f"{middle} [{low}, {high}]{p}")
        lines.append(f"| {label} | " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def number(value: float) -> str:
    """Format with four significant digits, or as an integer if large."""
    return f"{value:,.0f}" if abs(value) >= 10_000 else f"{value:.4g}"


def p_values(values: dict[str, dict[str, list[float]]]) -> dict[tuple[str, str], float]:
    """Return corrected p by algorithm and metric."""
    return holm(
        {
            (name, metric): float(mannwhitneyu(found[metric], values["map_elites"][metric]).pvalue)
            for name, found in values.items()
            for metric in METRICS
            if name != "map_elites" and metric in found and metric in values["map_elites"]
        }
    )


def holm(p_values: dict[Any, float]) -> dict[Any, float]:
    """Apply Holm's step-down correction (Holm 1979)."""
    corrected, largest = {}, 0.0
    for rank, (key, p) in enumerate(sorted(p_values.items(), key=lambda item: item[1])):
        largest = max(largest, min(1.0, p * (len(p_values) - rank)))
        corrected[key] = largest
    return corrected


def curves(archives: dict[str, list[StoredArchive]]) -> Figure:
    """Plot QD score and coverage over environment steps: medians, quartiles shaded."""
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
    """Plot the archive with the median QD score of each algorithm."""
    figure = Figure(figsize=(15, 3.9), layout="constrained")
    middles = {name: np.argsort(found["qd_score"])[len(found["qd_score"]) // 2] for name, found in values.items()}
    shown = {name: stored[int(middles[name])] for name, stored in archives.items()}
    fitness = np.concatenate([archive.elites["fitness"] for archive in shown.values()])
    for axes, (name, archive) in zip(figure.subplots(1, len(shown)), shown.items(), strict=True):
        plot_heatmap(archive, axes=axes, vmin=fitness.min(), vmax=fitness.max(), colorbar=name == list(shown)[-1])
        axes.set_title(LABELS[name], loc="left", pad=20)  # above the title of the heatmap
    return figure


if __name__ == "__main__":
    main()
