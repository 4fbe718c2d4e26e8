"""The number of messages of a generation."""

import json
from pathlib import Path

import pytest

from tests.helpers.experiments import DCRL_HOPPER
from tests.helpers.processes import mpirun


@pytest.mark.mpi
def test_a_generation_with_critics_takes_six_collectives(tmp_path: Path):
    (tmp_path / "config.toml").write_text(DCRL_HOPPER)
    job = mpirun(2, ["-m", "tests.programs.collectives", tmp_path], timeout=120)
    assert job.returncode == 0, job.stderr
    assert json.loads((tmp_path / "counts.json").read_text()) == {
        "Allreduce": 1,  # budgets, signals and whether to save
        "Allgatherv": 2,  # columns of the evaluation; genomes of new elites
        "allgather": 1,  # numbers of transitions
        "Alltoallv": 1,  # transitions
        "bcast": 1,  # the trained networks
    }
