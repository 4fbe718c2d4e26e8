"""Runs of every kind of algorithm: the same archive on any number of ranks, and after a kill on other ranks.

`test_run.py` shows the same for `qdrl evolve` and `qdrl resume` under mpirun.
"""

from pathlib import Path

import pytest

from qdrl.analysis.decode import champion_genome
from qdrl.archives.hdf5 import content_digest, open_archive, validate
from qdrl.run.resume import load
from tests.helpers.once import made_once
from tests.helpers.processes import mpirun, run_python, run_until_killed

HOPPER = """
seed = 3
[task]
name = "hopper_uni"
episode_length = 30
[policy]
hidden_sizes = {hidden_sizes}
normalize_observations = true
[archive]
{archive}
[algorithm]
{algorithm}
[run]
generations = {generations}
checkpoint_seconds = 0
[compute]
worlds = 8
"""
CELLS = "cells = 32\nsamples = 2000"
CRITIC = """batch_size = 12
replay_capacity = 700
critic = { steps = 20, batch_size = 16, hidden_sizes = [16, 16] }
gradient = { steps = 5, batch_size = 16 }"""
GA = """name = "deep_ga"
batch_size = 25
parents = 2
candidates = 3
candidate_episodes = 4
mutation = { sigma = 0.2 }
rebase_depth = 2
noise = { name = "table", size = 20_000 }"""


def experiment(algorithm: str, archive: str = CELLS, hidden_sizes: str = "[]", generations: int = 6) -> str:
    return HOPPER.format(algorithm=algorithm, archive=archive, hidden_sizes=hidden_sizes, generations=generations)


def critic(name: str, options: str) -> str:
    """An experiment of an algorithm with a critic."""
    return experiment(f'name = "{name}"\n{options}\n{CRITIC}', hidden_sizes="[8, 8]")


EXPERIMENTS = {
    "pga_map_elites": critic("pga_map_elites", "gradient_rows = 5\nactor_rows = 1"),
    "dcg_map_elites": critic("dcg_map_elites", "gradient_rows = 6\nprobe_rows = 12"),
    "dcrl_map_elites": critic("dcrl_map_elites", "gradient_rows = 3\nactor_rows = 3"),
    "four_learners": critic("dcrl_map_elites", "gradient_rows = 3\nactor_rows = 3\nlearners = 4"),
    "openai_es": experiment('name = "openai_es"\nbatch_size = 14\ngradient_parts = 16'),
    "fewer_parts_than_ranks": experiment('name = "openai_es"\nbatch_size = 14\ngradient_parts = 2'),
    "novelty_es": experiment(
        'name = "novelty_es"\nbatch_size = 10\nmeans = 2\nmean_rows = 3', 'kind = "novelty"\nrule = "all"'
    ),
    "novelty_archive": experiment(
        "batch_size = 15",
        'kind = "novelty"\nrule = "threshold"\nthreshold = 0.05\nthreshold_k = 1\ncapacity = 8',
        hidden_sizes="[8]",
        generations=5,
    ),
    "deep_ga": experiment(GA, hidden_sizes="[8]", generations=14),
}
CRITICS = ("pga_map_elites", "dcg_map_elites", "dcrl_map_elites", "four_learners")


def _alone(folder: Path) -> None:
    for name, text in EXPERIMENTS.items():
        (folder / name).mkdir()
        (folder / name / "config.toml").write_text(text)
    run_python(["-m", "tests.programs.rank_counts", "alone", folder], check=True)


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a folder for each experiment: its file, and its run in one process without MPI."""
    return made_once(tmp_path_factory, "alone", _alone)


@pytest.fixture(scope="module")
def ranks(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same folders with runs on 1 to 4 ranks, and with runs that were killed and then resumed on three."""

    def make(folder: Path) -> None:
        for index, (name, text) in enumerate(EXPERIMENTS.items()):
            run = folder / name
            run.mkdir()
            (run / "config.toml").write_text(text)
            run_until_killed(
                ["-m", "qdrl", "evolve", run / "config.toml", "--output", run / "killed"], run / "killed", 3 + index % 2
            )
            killed = load(run / "killed")
            assert killed.algorithm.generation < (killed.experiment.run.generations or 0)
        job = mpirun(4, ["-m", "tests.programs.rank_counts", "split", folder], timeout=600)
        assert job.returncode == 0, job.stderr

    return made_once(tmp_path_factory, "ranks", make)


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_a_run_of_one_process_writes_a_valid_archive(alone: Path, name: str) -> None:
    path = alone / name / "alone" / "archive.h5"
    assert validate(path) == []
    archive = open_archive(path)
    if name in CRITICS:
        assert archive.history["critic_steps"].tolist() == [20] * 6
    if name in ("openai_es", "fewer_parts_than_ranks"):
        assert champion_genome(archive).shape == (11 * 3 + 3,)
    if name == "novelty_archive":
        assert archive.cells > len(archive) == 8


@pytest.mark.mpi
@pytest.mark.parametrize("count", [1, 2, 3, 4])
@pytest.mark.parametrize("name", EXPERIMENTS)
def test_the_archive_is_the_same_for_any_number_of_ranks(alone: Path, ranks: Path, name: str, count: int) -> None:
    path = ranks / name / str(count) / "archive.h5"
    assert content_digest(path) == content_digest(alone / name / "alone" / "archive.h5")
    assert open_archive(path).meta["command"]["ranks"] == count


@pytest.mark.mpi
@pytest.mark.parametrize("name", EXPERIMENTS)
def test_a_killed_run_resumes_on_other_ranks_to_the_same_archive(alone: Path, ranks: Path, name: str) -> None:
    path = ranks / name / "killed" / "archive.h5"
    assert content_digest(path) == content_digest(alone / name / "alone" / "archive.h5")
    assert open_archive(path).meta["command"]["ranks"] == 3
