"""A short version of the experiment on the hard maze: novelty search solves it, selection by fitness does not."""

from pathlib import Path

import pytest

from qdrl.archives.hdf5 import content_digest, open_archive
from qdrl.config import load_experiment
from qdrl.parallel.ranks import OneProcess
from qdrl.run.start import start
from qdrl.tasks.maze import SUCCESS
from tests.helpers.processes import mpirun, run_qdrl

HERE = Path(__file__).parents[2] / "experiments" / "hard_maze"


@pytest.mark.slow
def test_novelty_search_solves_the_maze(tmp_path: Path) -> None:
    experiment = load_experiment(HERE / "novelty.toml", ["run.evaluations=50000"], seed=1)
    outcome = start(experiment, OneProcess(), folder=tmp_path / "run", progress=False)
    history = open_archive(outcome.archive).history
    assert history["champion_fitness"][-1] > -SUCCESS
    assert history["evaluations"][-1] < 50_000


@pytest.mark.slow
def test_selection_by_fitness_ends_in_the_dead_end(tmp_path: Path) -> None:
    experiment = load_experiment(HERE / "objective.toml", ["run.evaluations=15000"], seed=0)
    outcome = start(experiment, OneProcess(), folder=tmp_path / "run", progress=False)
    nearest = -open_archive(outcome.archive).history["champion_fitness"]
    assert 38 < nearest[-1] < 60  # in the dead end behind a wall
    assert nearest[-1] - nearest[-5:].min() < 1e-9


@pytest.mark.slow
@pytest.mark.mpi
def test_novelty_search_is_the_same_on_two_ranks(tmp_path: Path) -> None:
    arguments = ["evolve", str(HERE / "novelty.toml"), "--set", "run.evaluations=1500", "--set", "compute.worlds=64"]
    run_qdrl(*arguments, "--output", tmp_path / "alone", check=True)
    job = mpirun(2, ["-m", "qdrl", *arguments, "--output", tmp_path / "two"], timeout=120)
    assert job.returncode == 0, job.stderr
    assert content_digest(tmp_path / "two" / "archive.h5") == content_digest(tmp_path / "alone" / "archive.h5")
