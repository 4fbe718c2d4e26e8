"""Whole runs, stopped and resumed, in which calls that mix tensors of the host and a device raise."""

from pathlib import Path

import numpy as np
import pytest

from qdrl.archives.hdf5 import open_archive
from tests.helpers.processes import mpirun, run_python

CONFIG = """
name = "pretended"
seed = 3
[task]
name = "walker2d_uni"
episode_length = 2
[policy]
hidden_sizes = [8]
normalize_observations = true
[archive]
cells = 16
samples = 500
[algorithm]
{algorithm}
[run]
generations = 2
checkpoint_seconds = 0
[compute]
device = "cuda"
worlds = 8
"""
LEARNING = """
batch_size = 8
gradient_rows = 3
replay_capacity = 300
critic = { steps = 4, hidden_sizes = [8], batch_size = 8 }
gradient = { steps = 3, batch_size = 8 }
"""
ALGORITHMS = {
    "map_elites": 'name = "map_elites"\nbatch_size = 8',
    "dcrl": f'name = "dcrl_map_elites"\nactor_rows = 3\nlearners = 2\nartificial_negatives = true{LEARNING}',
    "dcg": f'name = "dcg_map_elites"\nactor_rows = 0\nprobe_rows = 4{LEARNING}',
    "probes_apart": 'name = "dcg_map_elites"\nactor_rows = 0\nprobe_rows = 4\nprobe_order = "after_children"'
    + LEARNING.replace("critic = {", "critic = { actor_hidden_sizes = [6],"),
}


def written(folder: Path, algorithm: str) -> Path:
    config = folder / "config.toml"
    config.write_text(CONFIG.format(algorithm=ALGORITHMS[algorithm]))
    return config


@pytest.mark.slow
@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_no_tensor_of_the_host_meets_one_of_the_device(tmp_path: Path, algorithm: str) -> None:
    job = run_python(["-m", "tests.helpers.pretended_gpu", written(tmp_path, algorithm), tmp_path / "run"])
    assert job.returncode == 0, job.stderr[-2000:]
    archive = open_archive(tmp_path / "run" / "archive.h5")
    assert archive.history["generation"].tolist() == list(range(4))
    assert np.isfinite(archive.elites["fitness"]).all()


@pytest.mark.slow
@pytest.mark.mpi
def test_no_message_between_ranks_mixes_host_and_device(tmp_path: Path) -> None:
    job = mpirun(2, ["-m", "tests.helpers.pretended_gpu", written(tmp_path, "dcrl"), tmp_path / "run"], timeout=180)
    assert job.returncode == 0, job.stderr[-2000:]
    assert open_archive(tmp_path / "run" / "archive.h5").history["generation"].tolist() == list(range(4))
