"""The small experiments that `kills.py` runs: at least one per algorithm, less than a second of work each."""

from typing import Any

_HOPPER = {"task": {"name": "hopper_uni", "episode_length": 30}, "compute": {"worlds": 8}}
_POLICY = {"policy": {"hidden_sizes": [8], "normalize_observations": True}}
_POINT = {"task": {"name": "point_omni", "episode_length": 20}}
_CVT = {"archive": {"cells": 32, "samples": 2000}}
_CRITIC = {
    "batch_size": 12,
    "gradient_rows": 3,
    "actor_rows": 3,
    "replay_capacity": 700,
    "critic": {"steps": 20, "batch_size": 16, "hidden_sizes": [16, 16]},
    "gradient": {"steps": 5, "batch_size": 16},
}
_NOVELTY = {"archive": {"kind": "novelty", "rule": "all"}}
_TABLE = {"noise": {"name": "table", "size": 20_000}}

GENERATIONS = 12
EXPERIMENTS: dict[str, dict[str, Any]] = {
    "map_elites_arm": {
        "task": {"name": "arm"},
        "archive": {"kind": "grid", "shape": [20, 20]},
        "algorithm": {"name": "map_elites", "batch_size": 37},
    },
    "map_elites_point": {**_POINT, **_POLICY, **_CVT, "algorithm": {"name": "map_elites", "batch_size": 25}},
    "map_elites_hopper": {**_HOPPER, **_POLICY, **_CVT, "algorithm": {"name": "map_elites", "batch_size": 25}},
    "pga": {**_HOPPER, **_POLICY, **_CVT, "algorithm": {"name": "pga_map_elites", **_CRITIC, "actor_rows": 1}},
    "dcg": {**_HOPPER, **_POLICY, **_CVT, "algorithm": {"name": "dcg_map_elites", **_CRITIC, "probe_rows": 12}},
    "dcrl": {**_HOPPER, **_POLICY, **_CVT, "algorithm": {"name": "dcrl_map_elites", **_CRITIC}},
    "dcrl_2_learners": {
        **_HOPPER,
        **_POLICY,
        **_CVT,
        "algorithm": {"name": "dcrl_map_elites", **_CRITIC, "learners": 2},
    },
    "deep_ga": {
        **_HOPPER,
        **_POLICY,
        **_CVT,
        "algorithm": {"name": "deep_ga", "batch_size": 25, "parents": 2, "candidates": 3, "candidate_episodes": 4}
        | {"rebase_depth": 2, **_TABLE},
    },
    "openai_es": {**_HOPPER, **_POLICY, **_CVT, "algorithm": {"name": "openai_es", "batch_size": 14, **_TABLE}},
    "novelty_es": {
        **_HOPPER,
        **_POLICY,
        **_NOVELTY,
        "algorithm": {"name": "novelty_es", "batch_size": 10, "means": 2, "mean_rows": 3},
    },
    "evotorch": {
        **_POINT,
        **_POLICY,
        **_CVT,
        "algorithm": {"name": "evotorch", "batch_size": 26, "searcher": {"name": "pgpe"}},
    },
}
LEARNING = ("pga", "dcg", "dcrl", "dcrl_2_learners")
"""Experiments whose replay buffer is lost with a learner: the job then ends and is resumed."""


def settings(name: str) -> dict[str, Any]:
    """Return the settings of an experiment, with a checkpoint after every generation."""
    run = {"generations": GENERATIONS, "checkpoint_seconds": 0}
    return {"name": name, "seed": 7, **EXPERIMENTS[name], "run": run}
