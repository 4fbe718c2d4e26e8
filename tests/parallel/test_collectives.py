"""The number of messages of a generation."""

import json
from pathlib import Path

import pytest

from tests.helpers.processes import mpirun

CONFIG = """
seed = 4
[task]
name = "hopper_uni"
episode_length = 30
[policy]
hidden_sizes = [8, 8]
normalize_observations = true
[archive]
cells = 32
samples = 2000
[algorithm]
name = "dcrl_map_elites"
batch_size = 12
gradient_rows = 3
actor_rows = 3
replay_capacity = 700
critic = { steps = 5, batch_size = 16, hidden_sizes = [16, 16] }
gradient = { steps = 5, batch_size = 16 }
[run]
minutes = 60
job_minutes = 60
checkpoint_seconds = 60
[compute]
worlds = 8
"""


@pytest.mark.mpi
def test_a_generation_with_critics_takes_six_collectives(tmp_path: Path):
    (tmp_path / "config.toml").write_text(CONFIG)
    job = mpirun(2, ["-m", "tests.programs.collectives", tmp_path], timeout=120)
    assert job.returncode == 0, job.stderr
    assert json.loads((tmp_path / "counts.json").read_text()) == {
        "Allreduce": 1,  # budgets, signals and whether to save
        "Allgatherv": 2,  # columns of the evaluation; genomes of new elites
        "allgather": 1,  # numbers of transitions
        "Alltoallv": 1,  # transitions
        "bcast": 1,  # the trained networks
    }
