"""Measure runs of this folder's experiments, finished or not, and write `results/*.csv`; README.md has the commands.

`runs.csv` has one row per run, `NAME_curve.csv` one row per update of its mean, and `NAME_test.csv` one row per
held-out episode of its champion: the return as the run defines it, and the returns with and without the alive bonus.
"""

import argparse
import shutil
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np

from experiments.reports import write_rows
from qdrl.analysis.decode import champion_genome, normalization_of, task_of
from qdrl.archives.hdf5 import open_archive
from qdrl.archives.stored import StoredArchive
from qdrl.genomes.repeated import RepeatedGenome
from qdrl.streams import Streams
from qdrl.tasks.episodes.rollout import Episodes
from qdrl.tasks.episodic import EpisodicTask
from qdrl.tasks.locomotion.settings import DEFAULTS

HERE = Path(__file__).parent
PACKAGES = ("python", "numpy", "torch", "mujoco", "gymnasium", "evotorch", "processor")


def main() -> None:
    parser = argparse.ArgumentParser(description="Write the CSV files of the runs on Humanoid and Walker2d.")
    parser.add_argument("--runs", type=Path, default=Path("runs/locomotion_es"), help="folder of the run folders")
    parser.add_argument("--episodes", type=int, default=16, help="held-out episodes of each champion")
    parser.add_argument("--worlds", type=int, default=16)
    parser.add_argument("--output", type=Path, default=HERE / "results", help="folder of the CSV files")
    arguments = parser.parse_args()
    runs = []
    for name in sorted(path.stem for path in HERE.glob("*.toml")):
        file = arguments.runs / name / "archive.h5"
        if not file.is_file():
            print(f"{file}: missing, left out")
            continue
        with TemporaryDirectory() as folder:  # the run may go on and replace its file
            archive = open_archive(shutil.copy(file, folder))
            runs.append({"run": name} | facts(archive))
            write_rows(arguments.output / f"{name}_curve.csv", curve(archive))
            write_rows(
                arguments.output / f"{name}_test.csv", held_out_test(archive, arguments.episodes, arguments.worlds)
            )
    write_rows(arguments.output / "runs.csv", runs)


def facts(archive: StoredArchive) -> dict[str, object]:
    """Return what the run has spent, and where it ran."""
    history, packages = archive.history, archive.meta["packages"]
    return {
        "seed": archive.attributes["seed"],
        "commit": str(archive.attributes["git_commit"])[:12],
        "ranks": archive.meta["command"]["ranks"],
        "generations": len(history["generation"]),
        "updates": len(updates(archive)) - 1,
        "evaluations": int(history["evaluations"][-1]),
        "env_steps": int(history["env_steps"][-1]),
        "budget": int(archive.meta["config"]["run"]["env_steps"]),
        "seconds": round(float(history["seconds"][-1])),
        **{name: packages.get(name, "") for name in PACKAGES},
    }


def updates(archive: StoredArchive) -> np.ndarray:
    """Return the generations that evaluated a new mean."""
    waiting = archive.history.get("waiting_rows")
    if waiting is None:
        return np.arange(len(archive.history["generation"]))
    return np.flatnonzero(np.concatenate([[True], waiting[:-1] == 0]))


def curve(archive: StoredArchive) -> list[dict[str, object]]:
    """Return what each mean reached, and the best return of any row so far."""
    history, rows = archive.history, []
    best = np.maximum.accumulate(history["best_evaluated"])
    for update, generation in enumerate(updates(archive)):
        numbers = {name: int(history[name][generation]) for name in ("generation", "evaluations", "env_steps")}
        fitness = {"champion_fitness": history["champion_fitness"][generation], "best": best[generation]}
        rows.append({"update": update} | numbers | {name: f"{value:.6g}" for name, value in fitness.items()})
    return rows


def held_out_test(archive: StoredArchive, episodes: int, worlds: int) -> list[dict[str, object]]:
    """Return the champion's held-out episodes, whose seeds no training evaluation used."""
    seeds = Streams(int(archive.attributes["seed"])).held_out_seeds(episodes).tolist()
    genome, generation = champion_genome(archive), int((archive.champion or {})["generation"][0])
    usual, normalization = _bonus(archive), normalization_of(archive, generation)
    returns: dict[str, list[float]] = {}
    steps: list[int] = []
    for name, bonus in {"without_bonus": 0.0, "with_bonus": usual}.items():
        task = task_of(with_bonus(archive, bonus), worlds)
        assert isinstance(task, EpisodicTask)
        run: Episodes = task.rollout().run(RepeatedGenome(genome, episodes), seeds, normalization)
        returns[name], steps = run.fitness.tolist(), run.steps.tolist()
        task.close()
    return [
        {"seed": seed, "steps": steps[row], **{name: f"{values[row]:.6g}" for name, values in returns.items()}}
        for row, seed in enumerate(seeds)
    ]


def _bonus(archive: StoredArchive) -> float:
    return DEFAULTS[archive.meta["task"]["options"]["name"]].robot.healthy_reward


def with_bonus(archive: StoredArchive, bonus: float) -> StoredArchive:
    """Return the archive with another alive bonus in its task."""
    task: dict[str, Any] = archive.meta["task"]
    options = task["options"] | {"healthy_reward": bonus}
    return replace(archive, meta={**archive.meta, "task": {**task, "options": options}})


if __name__ == "__main__":
    main()
