"""Runs: folders, records, resuming after a stop or a kill, and the same archive on any number of ranks."""

import csv
import fcntl
import random
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from qdrl.archives.hdf5 import content_digest, open_archive, validate
from qdrl.archives.seals import write_seal
from qdrl.config import load_experiment, parse_experiment
from qdrl.errors import UserError
from qdrl.parallel.ranks import OneProcess
from qdrl.run.history import History, Past
from qdrl.run.recorder import Recorder
from qdrl.run.resume import load, resume
from qdrl.run.start import start
from tests.archives.builders import damaged
from tests.helpers.processes import ForkedJob, mpirun, run_qdrl, start_mpirun, wait_for

ARM = {
    "name": "arm",
    "seed": 5,
    "task": {"name": "arm"},
    "archive": {"kind": "grid", "shape": [20, 20]},
    "algorithm": {"name": "map_elites", "batch_size": 37},
    "run": {"generations": 12},
}
HOPPER = """
name = "hopper"
seed = 11
[task]
name = "hopper_uni"
episode_length = 40
[policy]
hidden_sizes = [16]
normalize_observations = true
[archive]
cells = 32
samples = 2000
[algorithm]
batch_size = 25
[run]
generations = 6
checkpoint_seconds = 0
[compute]
worlds = 8
"""


@pytest.fixture(scope="module")
def hopper(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """Return an experiment file and the digest of its archive, made by one process without MPI."""
    folder = tmp_path_factory.mktemp("hopper")
    config = folder / "hopper.toml"
    config.write_text(HOPPER)
    run_qdrl("evolve", config, "--output", folder / "alone", check=True)
    return config, content_digest(folder / "alone" / "archive.h5")


def test_a_run_folder_contains_all_files_of_the_run(tmp_path: Path) -> None:
    outcome = start(parse_experiment(ARM), OneProcess(), folder=tmp_path / "run", progress=False)
    assert outcome.finished
    files = {path.name for path in outcome.folder.iterdir()}
    assert files == {"config.toml", "archive.h5", "checkpoint.h5", "metrics.csv", "log.txt", "figures"}
    assert validate(outcome.archive) == []
    archive = open_archive(outcome.archive)
    assert archive.meta["config"]["algorithm"]["batch_size"] == 37
    assert archive.meta["task"]["options"] == {"name": "arm", "parameters": 8}
    assert archive.history["evaluations"].tolist() == [37 * (g + 1) for g in range(12)]
    assert archive.history["coverage"][-1] == archive.statistics().coverage
    added = archive.history["added_random"].sum() + archive.history["added_variation"].sum()
    assert added == archive.history["elites"][-1] == len(archive)
    with (outcome.folder / "metrics.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [float(row["qd_score"]) for row in rows] == archive.history["qd_score"].tolist()


def test_a_folder_that_exists_is_never_touched(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    folder.mkdir()
    (folder / "archive.h5").write_text("precious")
    with pytest.raises(UserError, match="exists"):
        start(parse_experiment(ARM), OneProcess(), folder=folder, progress=False)
    assert [path.name for path in folder.iterdir()] == ["archive.h5"]
    assert (folder / "archive.h5").read_text() == "precious"


def test_parts_that_do_not_fit_are_an_error_before_anything_is_written(tmp_path: Path) -> None:
    wrong = ARM | {"archive": {"kind": "grid", "shape": [20, 20, 20]}}
    with pytest.raises(UserError, match=r"archive\.shape.*2 axes"):
        start(parse_experiment(wrong), OneProcess(), folder=tmp_path / "run", progress=False)
    assert list(tmp_path.iterdir()) == []


def test_a_larger_budget_resumes_to_the_archive_of_the_longer_run(tmp_path: Path) -> None:
    start(parse_experiment(ARM), OneProcess(), folder=tmp_path / "short", progress=False)
    resume(tmp_path / "short", OneProcess(), overrides=["run.generations=20"], progress=False)
    long = ARM | {"run": {"generations": 20}}
    start(parse_experiment(long), OneProcess(), folder=tmp_path / "long", progress=False)
    assert content_digest(tmp_path / "short" / "archive.h5") == content_digest(tmp_path / "long" / "archive.h5")
    rows = [line.split(",")[0] for line in (tmp_path / "short" / "metrics.csv").read_text().splitlines()]
    assert rows[0] == "generation"
    assert [float(row) for row in rows[1:]] == list(range(20))


def test_a_run_ends_with_the_generation_that_reaches_its_target(tmp_path: Path) -> None:
    easy = ARM | {"run": {"generations": 50, "target_fitness": -0.7}}
    outcome = start(parse_experiment(easy), OneProcess(), folder=tmp_path / "run", progress=False)
    best = open_archive(outcome.archive).history["max_fitness"]
    assert outcome.finished
    assert len(best) < 50
    assert (best[:-1] < -0.7).all()
    assert best[-1] >= -0.7
    digest = content_digest(outcome.archive)
    resume(outcome.folder, OneProcess(), progress=False)
    assert content_digest(outcome.archive) == digest  # it has ended


def test_a_run_can_be_loaded_from_its_last_checkpoint(tmp_path: Path) -> None:
    experiment = parse_experiment(ARM)
    outcome = start(experiment, OneProcess(), folder=tmp_path / "run", progress=False)
    before = {path: path.read_bytes() for path in outcome.folder.iterdir() if path.is_file()}
    parts = load(outcome.folder)
    assert parts.algorithm.generation == experiment.run.generations
    assert len(parts.archive) == len(open_archive(outcome.archive))
    assert len(parts.algorithm.ask().genomes) == parts.algorithm.batch_size
    assert before == {path: path.read_bytes() for path in outcome.folder.iterdir() if path.is_file()}
    with pytest.raises(UserError, match="is not a run folder"):
        load(tmp_path)


def test_resuming_refuses_changes_of_results_and_folders_without_a_run(tmp_path: Path) -> None:
    start(parse_experiment(ARM), OneProcess(), folder=tmp_path / "run", progress=False)
    with pytest.raises(UserError, match="only run"):
        resume(tmp_path / "run", OneProcess(), overrides=["algorithm.batch_size=3"])
    with pytest.raises(UserError, match="not a run folder"):
        resume(tmp_path, OneProcess())
    (tmp_path / "run" / "checkpoint.h5").write_bytes((tmp_path / "run" / "checkpoint.h5").read_bytes()[:1000])
    with pytest.raises(UserError, match="is truncated: 1000 of "):
        resume(tmp_path / "run", OneProcess())


def test_failed_evaluations_are_counted_and_never_enter(tmp_path: Path) -> None:
    experiment = ARM | {
        "task": {
            "name": "gym:Pendulum-v1",
            "descriptor": "tests.run.test_run:describe_or_raise",
            "axes": [{"name": "last angle", "unit": "rad", "lower": -3.2, "upper": 3.2}],
            "episode_length": 5,
            "qd_offset": -100.0,
        },
        "policy": {"hidden_sizes": [4]},
        "archive": {"kind": "grid", "shape": [10]},
        "run": {"generations": 3},
    }
    outcome = start(parse_experiment(experiment), OneProcess(), folder=tmp_path / "run", progress=False)
    archive = open_archive(outcome.archive)
    failed = archive.history["failed"]
    assert 0 < failed[-1] < archive.history["evaluations"][-1]
    assert np.isfinite(archive.elites["fitness"]).all()
    assert "the descriptor function raised" in (outcome.folder / "log.txt").read_text()


def describe_or_raise(trajectory: object) -> list[float]:
    cosine, sine, _ = trajectory.observations[-1]  # pyright: ignore[reportAttributeAccessIssue]
    if sine > 0.5:
        raise RuntimeError("on purpose")
    return [float(np.arctan2(sine, cosine))]


@pytest.mark.mpi
@pytest.mark.parametrize("ranks", [2, *(pytest.param(count, marks=pytest.mark.slow) for count in (1, 3, 4))])
def test_the_archive_is_the_same_for_any_number_of_ranks(hopper: tuple[Path, str], tmp_path: Path, ranks: int) -> None:
    config, digest = hopper
    job = mpirun(ranks, ["-m", "qdrl", "evolve", config, "--output", tmp_path / "run"], timeout=120, fresh=ranks == 2)
    assert job.returncode == 0, job.stderr
    assert content_digest(tmp_path / "run" / "archive.h5") == digest


@pytest.mark.mpi
def test_a_run_killed_at_random_moments_resumes_on_other_ranks_to_the_same_archive(
    hopper: tuple[Path, str], tmp_path: Path
) -> None:
    config, digest = hopper
    folder = tmp_path / "run"
    generator = random.Random(20261123)
    arguments = ["-m", "qdrl", "evolve", config, "--output", folder]
    for _ in range(2):
        with ForkedJob(arguments) as job:
            wait_for(folder / "metrics.csv", job)
            time.sleep(generator.uniform(0.0, 0.4))
            job.send_signal(signal.SIGKILL)
        arguments = ["-m", "qdrl", "resume", folder]
        if (folder / "archive.h5").exists():
            assert validate(folder / "archive.h5") == []
    job = mpirun(3, ["-m", "qdrl", "resume", folder], timeout=120)
    assert job.returncode == 0, job.stderr
    assert content_digest(folder / "archive.h5") == digest
    assert not list(folder.glob(".*tmp"))


@pytest.mark.parametrize("table", ["seed", "archive", "task"])
def test_resuming_refuses_a_config_that_was_edited(tmp_path: Path, table: str) -> None:
    start(parse_experiment(ARM), OneProcess(), folder=tmp_path / "run", progress=False)
    edits = {
        "seed": ("seed = 5", "seed = 6"),
        "archive": ("20,\n    20", "20,\n    10"),
        "task": ("[task]\n", "[task]\nparameters = 9\n"),
    }
    config = tmp_path / "run" / "config.toml"
    edited = config.read_text().replace(*edits[table])
    assert edited != config.read_text()
    config.write_text(edited)
    with pytest.raises(UserError, match=f"differs from the checkpoint in '{table}'"):
        resume(tmp_path / "run", OneProcess(), overrides=["run.generations=20"])


def test_a_budget_changed_when_resuming_stays_changed(tmp_path: Path) -> None:
    start(parse_experiment(ARM), OneProcess(), folder=tmp_path / "run", progress=False)
    resume(tmp_path / "run", OneProcess(), overrides=["run.generations=14"], progress=False)
    assert load_experiment(tmp_path / "run" / "config.toml").run.generations == 14


def test_runs_that_start_in_the_same_second_get_different_folders(tmp_path: Path) -> None:
    experiment = parse_experiment(ARM | {"run": {"generations": 1, "folder": str(tmp_path)}})
    folders = {start(experiment, OneProcess(), progress=False).folder for _ in range(3)}
    assert len(folders) == 3


def test_a_folder_that_another_job_writes_is_refused(tmp_path: Path) -> None:
    start(parse_experiment(ARM), OneProcess(), folder=tmp_path / "run", progress=False)
    with (tmp_path / "run" / ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        with pytest.raises(UserError, match="another job"):
            resume(tmp_path / "run", OneProcess(), overrides=["run.generations=20"])


def test_a_rank_that_replaces_the_lost_writer_locks_the_folder_too(tmp_path: Path) -> None:
    class Second(OneProcess):
        first = False

    start(parse_experiment(ARM), OneProcess(), folder=tmp_path / "run", progress=False)
    ranks, parts = Second(), load(tmp_path / "run")
    past = Past(History(open_archive(tmp_path / "run" / "archive.h5").history))
    recorder = Recorder(parts, ranks, tmp_path / "run", past, progress=False)
    with recorder:
        with (tmp_path / "run" / ".lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)  # not locked
        ranks.first = True
        recorder.warn("the first rank was lost")
        with pytest.raises(UserError, match="another job"):
            resume(tmp_path / "run", OneProcess(), overrides=["run.generations=20"])
        recorder.lock.release()
    resume(tmp_path / "run", OneProcess(), overrides=["run.generations=20"])


@pytest.mark.mpi
def test_sigusr1_to_mpirun_ends_all_ranks_with_a_checkpoint(hopper: tuple[Path, str], tmp_path: Path) -> None:
    config, _ = hopper
    folder = tmp_path / "run"
    endless = ["--set", "run.generations=100000", "--set", "run.checkpoint_seconds=1000"]
    with start_mpirun(2, ["-m", "qdrl", "evolve", config, "--output", folder, *endless]) as job:
        wait_for(folder / "metrics.csv", job)
        job.send_signal(signal.SIGUSR1)
        printed, errors = job.communicate(timeout=60)
    assert job.returncode == 75, errors
    assert f"qdrl resume {folder}" in printed
    assert "SIGUSR1" in printed
    done = open_archive(folder / "archive.h5").history["generation"]
    assert done.tolist() == list(range(len(done)))
    assert validate(folder / "checkpoint.h5") == []


def test_a_signal_that_is_repeated_does_not_cut_the_last_save_short(hopper: tuple[Path, str], tmp_path: Path) -> None:
    config, _ = hopper
    folder = tmp_path / "run"
    endless = ["--set", "run.generations=100000", "--set", "run.checkpoint_seconds=1000"]
    with ForkedJob(["-m", "qdrl", "evolve", config, "--output", folder, *endless]) as job:
        wait_for(folder / "metrics.csv", job)
        while not (folder / "archive.h5").exists() and job.poll() is None:
            job.send_signal(signal.SIGTERM)
            time.sleep(0.002)
        job.communicate(timeout=30)
    assert validate(folder / "checkpoint.h5") == []
    assert validate(folder / "archive.h5") == []


@pytest.mark.mpi
def test_a_job_stopped_by_a_signal_keeps_a_checkpoint_and_prints_how_to_resume(
    hopper: tuple[Path, str], tmp_path: Path
) -> None:
    config, _ = hopper
    folder = tmp_path / "run"
    command = [sys.executable, "-m", "qdrl", "evolve", str(config), "--output", str(folder), "--set"]
    with subprocess.Popen(
        [*command, "run.generations=100000"], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as job:
        wait_for(folder / "metrics.csv", job)
        job.send_signal(signal.SIGTERM)
        printed, errors = job.communicate(timeout=30)
    assert job.returncode == 75, errors
    assert f"qdrl resume {folder}" in printed
    assert "ended by     SIGTERM" in printed
    assert validate(folder / "checkpoint.h5") == []


@pytest.mark.mpi
def test_an_exception_on_rank_one_ends_the_job_within_five_seconds_with_its_traceback(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = tmp_path / "study.toml"
    algorithm = '[algorithm]\nname = "tests.helpers.raising:RaisingOnRankOne"\n'
    config.write_text(f'[task]\nname = "arm"\n{algorithm}[run]\ngenerations = 5\n')
    monkeypatch.setenv("QDRL_TEST_MOMENT", str(tmp_path / "moment"))
    job = mpirun(2, ["-m", "qdrl", "evolve", config, "--output", tmp_path / "run"], timeout=60)
    ended = time.time()
    assert job.returncode != 0
    assert "qdrl: rank 1 failed" in job.stderr
    assert "RuntimeError: rank one breaks on purpose" in job.stderr
    assert ended - float((tmp_path / "moment").read_text()) < 5.0


@pytest.mark.mpi
@pytest.mark.parametrize("dying", [0, pytest.param(2, marks=pytest.mark.slow)])
def test_a_job_survives_a_killed_rank_with_the_same_archive(
    hopper: tuple[Path, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, dying: int
) -> None:
    config, digest = hopper
    monkeypatch.setenv("QDRL_TEST_DYING_RANK", str(dying))
    arguments = ["-m", "qdrl", "evolve", config, "--output", tmp_path / "run"]
    arguments += ["--set", "algorithm.name=tests.helpers.raising:DyingOnOneRank"]
    job = mpirun(3, arguments, timeout=120, options=["--with-ft", "ulfm"])
    assert job.returncode == 0, job.stderr
    assert "1 of 3 ranks died, 2 continue; generation 2 is repeated" in job.stderr
    assert str(tmp_path / "run" / "archive.h5") in job.stdout
    assert content_digest(tmp_path / "run" / "archive.h5") == digest
    with (tmp_path / "run" / "metrics.csv").open() as file:
        assert [float(row["generation"]) for row in csv.DictReader(file)] == list(range(6))


@pytest.mark.parametrize(
    ("place", "values"),
    [
        ("state/algorithm/generation", 2**62),
        ("state/algorithm/generation", "seven"),
        ("state/algorithm", 3),
        ("state/unknown", np.zeros(3)),
    ],
)
def test_a_state_that_no_run_wrote_is_refused_in_one_line(tmp_path: Path, place: str, values: Any) -> None:
    start(parse_experiment(ARM), OneProcess(), folder=tmp_path / "run", progress=False)
    checkpoint = tmp_path / "run" / "checkpoint.h5"
    with damaged(checkpoint) as file:
        if place in file:
            del file[place]
        file[place] = values
    with pytest.raises(UserError, match="changed since it was written"):
        load(tmp_path / "run")
    write_seal(checkpoint)  # as after a deliberate edit
    if place == "state/unknown":
        assert load(tmp_path / "run").algorithm.generation == 12
        return
    with pytest.raises(UserError, match=r"checkpoint\.h5: its state does not fit this experiment") as refusal:
        load(tmp_path / "run")
    assert "\n" not in str(refusal.value)
