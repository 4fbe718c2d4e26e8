"""The studies: tasks, the settings of each algorithm, seeds, and what is measured."""

import tomllib
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
RESULTS = HERE / "results"
LABELS = {"map_elites": "ME", "pga_map_elites": "PGA", "dcg_map_elites": "DCG", "dcrl_map_elites": "DCRL"}
BASELINE = "map_elites"
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
        base: path of the experiment file, relative to this folder; `{}` stands for the file's stem.
        algorithms: the `[algorithm]` table of each algorithm; an empty one keeps the table of the file.
        changes: tables that replace those of the file.
        seeds: default number of seeds.
        stems: stem of the experiment file by algorithm; the algorithm's name where left out.
    """

    base: str
    algorithms: dict[str, dict[str, Any]]
    changes: dict[str, dict[str, Any]]
    seeds: int
    stems: dict[str, str] = field(default_factory=dict)

    def experiment(self, algorithm: str) -> dict[str, Any]:
        """Return the experiment of an algorithm, as in an experiment file."""
        stem = self.stems.get(algorithm, algorithm)
        file = tomllib.loads((HERE / self.base.format(stem)).read_text(encoding="utf-8"))
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
    "ant_omni_fixed_start": Study(
        "../ant_omni/{}.toml",
        {name: {} for name in LABELS},
        {},
        seeds=1,
        stems={name: f"fixed_start_{name}" for name in LABELS} | {"dcg_map_elites": "dcg_gecco"},
    ),
    "ant_omni_paper": Study("../ant_omni/{}.toml", PAPER, {"run": PAPER_RUN, "task": {"name": "ant_omni"}}, seeds=2),
    "walker2d_uni_paper": Study(
        "../ant_omni/{}.toml",
        PAPER,
        {"run": PAPER_RUN, "task": {"name": "walker2d_uni", "episode_length": 250}},
        seeds=1,
    ),
}
DEFAULT = ("point_omni", "walker2d_uni", "point_omni_near")


def folder_of(runs: Path, study: str, algorithm: str, seed: int) -> Path:
    """Return the folder of a run."""
    return runs / study / algorithm / f"seed{seed}"
