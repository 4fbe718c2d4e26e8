"""Measure finished runs of a study and write its results as CSV; README.md has commands and costs.

`results/<study>_values.csv` has one row per run, `_curves.csv` about sixty generations of each run, and `_elites.csv`
the archive with the median QD score of each algorithm. Runs that are missing are left out and named,
and so are those that are not finished unless `--unfinished` is given.
"""

import argparse
from collections.abc import Callable
from pathlib import Path

import numpy as np

from experiments.gradient_study.studies import DEFAULT, RESULTS, STUDIES, folder_of
from experiments.reports import elite_rows, is_finished, write_rows
from qdrl.analysis.reevaluate import reevaluate_actor, reevaluate_elites
from qdrl.archives.hdf5 import open_archive
from qdrl.archives.stored import StoredArchive
from qdrl.run.resume import load

CURVE_POINTS = 61  # generations of a run that its curve shows


def main() -> None:
    parser = argparse.ArgumentParser(description="Write the CSV files of studies from their runs; see README.md.")
    parser.add_argument("--studies", nargs="+", choices=STUDIES, default=DEFAULT)
    parser.add_argument("--seeds", type=int, help="number of seeds, in place of each study's default")
    parser.add_argument("--runs", type=Path, default=Path("runs/gradient_study"), help="folder of the runs")
    parser.add_argument("--output", type=Path, default=RESULTS, help="folder of the CSV files")
    parser.add_argument("--unfinished", action="store_true", help="measure runs that have not spent their budget, too")
    arguments = parser.parse_args()
    ready = has_archive if arguments.unfinished else is_finished
    for name in arguments.studies:
        measure(name, arguments.seeds or STUDIES[name].seeds, arguments.runs, arguments.output, ready)


def has_archive(folder: Path) -> bool:
    return (folder / "archive.h5").is_file()


def measure(study: str, seeds: int, runs: Path, output: Path, ready: Callable[[Path], bool]) -> None:
    """Write the three CSV files of a study, from the runs that are ready."""
    values, curves, elites = [], [], []
    for algorithm in STUDIES[study].algorithms:
        folders = {seed: folder_of(runs, study, algorithm, seed) for seed in range(seeds)}
        for seed in [seed for seed, folder in folders.items() if not ready(folder)]:
            print(f"{folders.pop(seed)}: missing or not finished, left out")
        archives = {seed: open_archive(folder / "archive.h5") for seed, folder in folders.items()}
        for seed, archive in archives.items():
            key = {"algorithm": algorithm, "seed": seed}
            values.append(key | values_of(archive))
            curves += [key | row for row in curve_of(archive)]
        ranked = sorted(archives, key=lambda seed: archives[seed].statistics().qd_score)
        for seed in ranked[len(ranked) // 2 :][:1]:
            elites += [{"algorithm": algorithm, "seed": seed} | row for row in elite_rows(archives[seed])]
    for name, rows in (("values", values), ("curves", curves), ("elites", elites)):
        write_rows(output / f"{study}_{name}.csv", rows)


def values_of(archive: StoredArchive) -> dict[str, float]:
    """Return the results of a run: scores with and without the reward offset, for elites, run again, and the actor."""
    assert archive.path is not None
    statistics, again = archive.statistics(), reevaluate_elites(archive)
    found = {
        "evaluations": int(archive.history["evaluations"][-1]),
        "env_steps": int(archive.history["env_steps"][-1]),
        "qd_score": statistics.qd_score,
        "fitness_sum": statistics.fitness_sum,
        "coverage": statistics.coverage,
        "max_fitness": statistics.max_fitness,
        "corrected_qd_score": again.qd_score,
        "corrected_fitness_sum": again.fitness_sum,
        "descriptor_error": again.descriptor_error,
    }
    if archive.axes[0].unit == "m":  # the final position; standing still is the fitness optimum
        stored = np.linalg.norm(archive.elites["descriptor"], axis=1).mean()
        found["reach"] = float(stored)
        if "gradient" in archive.emitters:
            found["gradient_reach"] = gradient_reach(archive.path.parent)
            found["unchanged_reach"] = float(np.nanmean(np.linalg.norm(again.descriptor, axis=-1)) / stored)
    if archive.actor is not None and int(archive.actor["dimensions"]):
        actor = reevaluate_actor(archive)
        found["actor_qd_score"], found["actor_fitness_sum"] = actor.qd_score, actor.fitness_sum
        found["actor_descriptor_error"] = actor.descriptor_error
    return {name: value for name, value in found.items() if np.isfinite(value)}


def gradient_reach(run: Path) -> float:
    """Return the mean distance from (0, 0) of the next generation's gradient children over that of their parents.

    NaN if that generation has no gradient children, as every second one of `probe_order = "after_children"`.
    """
    parts = load(run)
    candidates = parts.algorithm.ask()
    children = candidates.emitter == parts.algorithm.emitters.index("gradient")
    reached = parts.task.evaluate(candidates).descriptor[children]
    before = parts.archive.descriptors_of(candidates.parent_cell[children])
    alive = ~reached.isnan().any(1)
    return float(reached[alive].norm(dim=1).mean() / before[alive].norm(dim=1).mean())


def curve_of(archive: StoredArchive) -> list[dict[str, object]]:
    """Return the scores of evenly spaced generations, the first and the last included."""
    history = archive.history
    if "fitness_sum" not in history:  # before format 1.2, when fitness contained no offset
        history = history | {"fitness_sum": history["mean_fitness"] * history["elites"]}
    last = len(history["env_steps"]) - 1
    shown = np.unique(np.linspace(0, last, CURVE_POINTS).round().astype(int))
    scores = ("qd_score", "fitness_sum", "coverage")
    return [
        {"env_steps": int(history["env_steps"][row]), **{name: f"{history[name][row]:.7g}" for name in scores}}
        for row in shown
    ]


if __name__ == "__main__":
    main()
