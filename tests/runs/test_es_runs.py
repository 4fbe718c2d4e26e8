"""Runs of evolution strategies under real MPI: the same archive on any number of ranks, and after kills."""

from pathlib import Path

import pytest

from qdrl.archives.hdf5 import content_digest, open_archive, validate
from qdrl.analysis.decode import champion_of
from tests.helpers.processes import mpirun, run_qdrl, run_until_killed

CONFIG = """
name = "es"
seed = 3
[task]
name = "hopper_uni"
episode_length = 30
[policy]
hidden_sizes = []
normalize_observations = true
[archive]
cells = 32
samples = 2000
[algorithm]
name = "openai_es"
batch_size = 14
gradient_parts = {parts}
[run]
generations = 6
checkpoint_seconds = 0
[compute]
worlds = 8
"""


NOVELTY = """
[archive]
kind = "novelty"
rule = "all"
[algorithm]
name = "novelty_es"
batch_size = 10
means = 2
mean_rows = 3
"""


@pytest.mark.mpi
def test_means_that_search_for_novelty_are_the_same_on_two_ranks(tmp_path: Path) -> None:
    head, tail = CONFIG.split("[archive]")[0], "[run]" + CONFIG.split("[run]")[1]
    config = tmp_path / "config.toml"
    config.write_text(head + NOVELTY + tail)
    run_qdrl("evolve", config, "--output", tmp_path / "alone", check=True)
    assert validate(tmp_path / "alone" / "archive.h5") == []
    _same_on(2, (config, content_digest(tmp_path / "alone" / "archive.h5")), tmp_path)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """An experiment file and the digest of its archive, made by one process without MPI."""
    return _alone(tmp_path_factory.mktemp("es"), parts=16)


def _alone(folder: Path, parts: int) -> tuple[Path, str]:
    config = folder / "config.toml"
    config.write_text(CONFIG.format(parts=parts))
    run_qdrl("evolve", config, "--output", folder / "alone", check=True)
    archive = folder / "alone" / "archive.h5"
    assert validate(archive) == []
    assert champion_of(open_archive(archive)).shape == (11 * 3 + 3,)
    return config, content_digest(archive)


@pytest.mark.mpi
@pytest.mark.parametrize("ranks", [1, 2, 4])
def test_the_archive_is_the_same_for_any_number_of_ranks(run: tuple[Path, str], tmp_path: Path, ranks: int) -> None:
    _same_on(ranks, run, tmp_path)


@pytest.mark.mpi
def test_ranks_that_have_no_part_of_the_gradient_get_its_sum(tmp_path: Path) -> None:
    _same_on(3, _alone(tmp_path, parts=2), tmp_path)


def _same_on(ranks: int, run: tuple[Path, str], tmp_path: Path) -> None:
    job = mpirun(ranks, ["-m", "qdrl", "evolve", run[0], "--output", tmp_path / "run"], timeout=120)
    assert job.returncode == 0, job.stderr
    assert content_digest(tmp_path / "run" / "archive.h5") == run[1]


@pytest.mark.mpi
def test_a_killed_run_resumes_on_other_ranks_to_the_same_archive(run: tuple[Path, str], tmp_path: Path) -> None:
    folder = tmp_path / "run"
    run_until_killed(["-m", "qdrl", "evolve", run[0], "--output", folder], folder, 3)
    job = mpirun(3, ["-m", "qdrl", "resume", folder], timeout=120)
    assert job.returncode == 0, job.stderr
    assert content_digest(folder / "archive.h5") == run[1]
