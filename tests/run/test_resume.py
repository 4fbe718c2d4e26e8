"""Resuming a run whose files are missing, damaged, older or of another experiment."""

import json
import shutil
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

from qdrl.archives.hdf5 import content_digest, open_archive, validate
from qdrl.archives.seals import write_seal
from qdrl.archives.statistics import Offsets
from qdrl.config import parse_experiment
from qdrl.errors import UserError
from qdrl.parallel.ranks import OneProcess
from qdrl.run.resume import load, resume
from qdrl.run.start import start

ARM = {
    "name": "arm",
    "seed": 5,
    "task": {"name": "arm"},
    "archive": {"kind": "grid", "shape": [8, 8]},
    "algorithm": {"name": "map_elites", "batch_size": 16},
    "run": {"generations": 6},
}
MORE = ["run.generations=9"]


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("finished") / "run"
    start(parse_experiment(ARM), OneProcess(), folder=folder, progress=False)
    return folder


@pytest.fixture
def run(finished: Path, tmp_path: Path) -> Path:
    """Return a copy of a finished run."""
    return Path(shutil.copytree(finished, tmp_path / "run"))


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()}


def test_without_a_checkpoint_a_run_with_an_archive_is_refused_and_nothing_is_written(run: Path) -> None:
    (run / "checkpoint.h5").unlink()
    before = contents(run)
    with pytest.raises(UserError, match=r"no checkpoint\.h5.*--from-archive.*qdrl evolve") as caught:
        resume(run, OneProcess(), overrides=MORE, progress=False)
    assert "\n" not in str(caught.value)
    assert contents(run) == before


@pytest.mark.parametrize(
    ("damage", "words"), [(b"", "is empty"), (b"not HDF5", "is not an HDF5 file"), (None, "is truncated: 1000 of ")]
)
def test_the_error_for_a_damaged_checkpoint_names_the_alternatives(run: Path, damage: bytes | None, words: str) -> None:
    checkpoint = run / "checkpoint.h5"
    checkpoint.write_bytes(checkpoint.read_bytes()[:1000] if damage is None else damage)
    before = contents(run)
    with pytest.raises(UserError, match=f"{words}.*--from-archive"):
        resume(run, OneProcess(), overrides=MORE, progress=False)
    assert contents(run) == before


@pytest.mark.parametrize("damaged", [False, True])
def test_from_archive_continues_from_the_elites_and_logs_that_it_is_inexact(run: Path, damaged: bool) -> None:
    before = open_archive(run / "archive.h5")
    old, rows = (run / "archive.h5").read_bytes(), (run / "metrics.csv").read_bytes()
    (run / "checkpoint.h5").unlink()
    if damaged:
        (run / "checkpoint.h5").write_bytes(b"damaged")
    outcome = resume(run, OneProcess(), overrides=MORE, from_archive=True, progress=False)
    after = open_archive(outcome.archive)
    assert validate(outcome.archive) == []
    assert after.meta["command"]["inexact_from"] == [6]
    assert after.attributes["created_utc"] == before.attributes["created_utc"]
    assert after.history["generation"].tolist() == list(range(9))
    assert after.history["seconds"][:6].tolist() == before.history["seconds"].tolist()
    assert set(before.elites["cell"]) <= set(after.elites["cell"])
    assert after.history["qd_score"][6] >= before.history["qd_score"][-1]
    assert "not exact" in (run / "log.txt").read_text()
    assert (run / "archive-before-6.h5").read_bytes() == old
    assert (run / "metrics-before-6.csv").read_bytes() == rows
    assert (run / "checkpoint-before-6.h5").exists() is damaged
    again = resume(run, OneProcess(), overrides=["run.generations=10"], progress=False)
    assert open_archive(again.archive).meta["command"]["inexact_from"] == [6]
    (run / "checkpoint.h5").unlink()
    twice = resume(run, OneProcess(), overrides=["run.generations=11"], from_archive=True, progress=False)
    assert open_archive(twice.archive).meta["command"]["inexact_from"] == [6, 10]


def test_from_archive_is_an_error_with_a_good_checkpoint_or_without_an_archive(run: Path) -> None:
    with pytest.raises(UserError, match="without --from-archive"):
        resume(run, OneProcess(), from_archive=True)
    (run / "checkpoint.h5").unlink()
    (run / "config.toml").write_text((run / "config.toml").read_text().replace("seed = 5", "seed = 6"))
    with pytest.raises(UserError, match="differs from the archive in 'seed'"):
        resume(run, OneProcess(), from_archive=True)
    (run / "archive.h5").unlink()
    with pytest.raises(UserError, match="no such file"):
        resume(run, OneProcess(), from_archive=True)


@pytest.mark.parametrize(
    ("algorithm", "archive", "words"),
    [
        ({"name": "openai_es", "batch_size": 8}, {}, "cannot continue from an archive"),
        ({"name": "deep_ga", "batch_size": 8, "parents": 2, "candidate_episodes": 0}, {"kind": "novelty"}, "lineages"),
        ({"name": "map_elites", "batch_size": 8}, {"kind": "novelty", "rule": "all"}, "novelty archive"),
    ],
)
def test_from_archive_refuses_algorithms_with_more_state_than_elites(
    tmp_path: Path, algorithm: dict, archive: dict, words: str
) -> None:
    experiment = ARM | {"algorithm": algorithm, "run": {"generations": 2}, "archive": archive or ARM["archive"]}
    folder = start(parse_experiment(experiment), OneProcess(), folder=tmp_path / "run", progress=False).folder
    (folder / "checkpoint.h5").unlink()
    before = contents(folder)
    with pytest.raises(UserError, match=words):
        resume(folder, OneProcess(), from_archive=True)
    assert contents(folder) == before


def test_from_archive_restarts_critics_and_keeps_observation_statistics(tmp_path: Path) -> None:
    experiment = {
        "name": "point",
        "task": {"name": "point_omni", "episode_length": 12},
        "policy": {"hidden_sizes": [8], "normalize_observations": True},
        "archive": {"kind": "grid", "shape": [4, 4]},
        "algorithm": {
            "name": "dcrl_map_elites",
            "batch_size": 16,
            "gradient_rows": 4,
            "actor_rows": 4,
            "replay_capacity": 4096,
            "critic": {"steps": 4, "batch_size": 16, "hidden_sizes": [8]},
            "gradient": {"steps": 2, "batch_size": 16},
        },
        "run": {"generations": 3},
    }
    folder = start(parse_experiment(experiment), OneProcess(), folder=tmp_path / "run", progress=False).folder
    before = open_archive(folder / "archive.h5").normalizer
    (folder / "checkpoint.h5").unlink()
    outcome = resume(folder, OneProcess(), overrides=["run.generations=6"], from_archive=True, progress=False)
    after = open_archive(outcome.archive)
    assert before is not None
    assert after.normalizer is not None
    assert after.normalizer["count"] > before["count"]
    assert after.actor is not None
    assert after.history["critic_steps"].tolist()[3:] != [0.0] * 3
    np.testing.assert_array_equal(after.normalizer["at.mean"][0], before["at.mean"][0])


def test_a_run_that_ended_before_its_first_save_starts_again_with_a_warning(run: Path) -> None:
    digest = content_digest(run / "archive.h5")
    rows = (run / "metrics.csv").read_bytes()
    (run / "checkpoint.h5").unlink()
    (run / "archive.h5").unlink()
    outcome = resume(run, OneProcess(), progress=False)
    assert content_digest(outcome.archive) == digest
    assert (run / "metrics-before.csv").read_bytes() == rows
    assert "starts again from generation 0" in (run / "log.txt").read_text()


def test_an_archive_that_is_newer_than_the_checkpoint_is_kept_under_another_name(run: Path, tmp_path: Path) -> None:
    old = (run / "checkpoint.h5").read_bytes()
    resume(run, OneProcess(), overrides=MORE, progress=False)
    newer = (run / "archive.h5").read_bytes()
    (run / "checkpoint.h5").write_bytes(old)
    resume(run, OneProcess(), overrides=["run.generations=7"], progress=False)
    assert (run / "archive-before.h5").read_bytes() == newer
    assert "is not older than checkpoint.h5" in (run / "log.txt").read_text()
    assert len(open_archive(run / "archive.h5").history["generation"]) == 7


def test_a_lost_config_is_written_again_from_the_checkpoint(run: Path) -> None:
    config = (run / "config.toml").read_text()
    (run / "config.toml").unlink()
    assert load(run).experiment.seed == 5
    outcome = resume(run, OneProcess(), overrides=MORE, progress=False)
    assert outcome.generations == 3
    assert (run / "config.toml").read_text() == config.replace("generations = 6", "generations = 9")


def test_a_missing_folder_or_one_without_a_run_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="there is no such run folder"):
        resume(tmp_path / "none", OneProcess())
    with pytest.raises(UserError, match="is not a run folder"):
        resume(tmp_path, OneProcess())
    assert list(tmp_path.iterdir()) == []


def edit_meta(path: Path, name: str, change: dict[str, object]) -> None:
    """Change a JSON object of /meta and seal the file again, as if written like this."""
    file: Any = h5py.File(path, "r+")
    with file:
        text = json.dumps(json.loads(file[f"meta/{name}"].asstr()[()]) | change)
        del file[f"meta/{name}"]
        file[f"meta/{name}"] = text
    write_seal(path)


def without_arithmetic(path: Path) -> None:
    file: Any = h5py.File(path, "r+")
    with file:
        task = json.loads(file["meta/task"].asstr()[()])
        del task["arithmetic"], file["meta/task"]
        file["meta/task"] = json.dumps(task)
    write_seal(path)


def test_an_old_run_is_continued_in_the_arithmetic_of_its_files(run: Path) -> None:
    assert open_archive(run).meta["task"]["arithmetic"] == "portable-1"
    for name in ("checkpoint.h5", "archive.h5"):  # as in format 1.1
        without_arithmetic(run / name)
    assert load(run).task.spec.arithmetic == "blas"
    resume(run, OneProcess(), overrides=MORE, progress=False)
    assert open_archive(run).meta["task"]["arithmetic"] == "blas"


def as_before_format_1_2(path: Path) -> None:
    """Remove what format 1.2 added for the QD score, and a setting that a later version could have added."""
    file: Any = h5py.File(path, "r+")
    with file:
        del file["elites/steps"], file["history/fitness_sum"]
        attributes = file["archive"].attrs
        del attributes["step_offset"], attributes["included_offset"]
        attributes["qd_offset"] = -1.413 * 20
        config = json.loads(file["meta/config"].asstr()[()])
        del config["task"]["offset_in_fitness"], config["algorithm"]["initial_generations"], file["meta/config"]
        file["meta/config"] = json.dumps(config)
    write_seal(path)


def test_a_run_of_an_older_format_is_continued_with_its_definition_of_the_qd_score(tmp_path: Path) -> None:
    walker = {
        "task": {"name": "walker2d_uni", "episode_length": 20},
        "policy": {"hidden_sizes": [4]},
        "archive": {"kind": "grid", "shape": [4, 4]},
        "algorithm": {"name": "map_elites", "batch_size": 4},
        "run": {"generations": 2},
    }
    run = tmp_path / "run"
    start(parse_experiment({**ARM, **walker}), OneProcess(), folder=run, progress=False)
    assert open_archive(run).offsets == Offsets(step_offset=1.413)
    as_before_format_1_2(run / "checkpoint.h5")
    resume(run, OneProcess(), overrides=["run.generations=3"], progress=False)
    stored = open_archive(run)
    assert validate(run / "archive.h5") == []
    assert stored.offsets == Offsets(qd_offset=-1.413 * 20)
    assert stored.statistics().qd_score == np.sum(stored.elites["fitness"] + 1.413 * 20)
    assert np.isnan(stored.history["fitness_sum"][:2]).all()
    assert stored.history["fitness_sum"][2] == np.sum(stored.elites["fitness"])
    edit_meta(run / "checkpoint.h5", "config", {"algorithm": {"name": "map_elites", "batch_size": 8}})
    with pytest.raises(UserError, match=r"config\.toml differs from the checkpoint in 'algorithm'"):
        resume(run, OneProcess(), overrides=["run.generations=4"], progress=False)


def test_a_resumed_run_keeps_versions_and_commits_of_its_earlier_jobs(run: Path) -> None:
    packages = open_archive(run).meta["packages"]
    before = packages | {"mujoco": "2.0.0"}
    for name in ("checkpoint.h5", "archive.h5"):
        edit_meta(run / name, "packages", {"mujoco": "2.0.0"})
    resume(run, OneProcess(), progress=False)  # its budget is spent: nothing is written
    assert open_archive(run).meta["packages"] == before
    resume(run, OneProcess(), overrides=MORE, progress=False)
    stored = open_archive(run)
    assert stored.meta["packages"] == packages
    (job,) = stored.meta["command"]["earlier"]
    assert (job["before_generation"], job["packages"]) == (6, before)


@pytest.mark.parametrize(
    ("name", "kind", "wrong"),
    [("inexact_from", "integers", ["six"]), ("code_changed_from", "integers", [[6]]), ("earlier", "objects", [3])],
)
def test_the_record_of_earlier_jobs_has_the_right_types_or_is_null(
    run: Path, name: str, kind: str, wrong: list[Any]
) -> None:
    edit_meta(run / "checkpoint.h5", "command", {name: wrong})
    with pytest.raises(UserError, match=f"/meta/command: {name} must be a list of {kind}, is list"):
        resume(run, OneProcess(), overrides=MORE, progress=False)
    edit_meta(run / "checkpoint.h5", "command", {name: None})
    assert resume(run, OneProcess(), overrides=MORE, progress=False).finished


def test_an_archive_older_than_its_checkpoint_is_rewritten_even_if_the_budget_is_spent(
    run: Path, tmp_path: Path
) -> None:
    older = tmp_path / "older"
    start(parse_experiment(ARM | {"run": {"generations": 3}}), OneProcess(), folder=older, progress=False)
    digest = content_digest(run / "archive.h5")
    shutil.copy(older / "archive.h5", run / "archive.h5")
    resume(run, OneProcess(), progress=False)
    assert content_digest(run / "archive.h5") == digest


def test_from_archive_refuses_an_archive_that_was_edited_and_not_sealed(run: Path) -> None:
    (run / "checkpoint.h5").unlink()
    file: Any = h5py.File(run / "archive.h5", "r+")
    with file:
        file["elites/fitness"][0] = 7.0
    before = contents(run)
    with pytest.raises(UserError, match=r"changed since it was written.*validate --seal"):
        resume(run, OneProcess(), overrides=MORE, from_archive=True, progress=False)
    assert contents(run) == before
    assert validate(run / "archive.h5", seal=True) == []
    resume(run, OneProcess(), overrides=MORE, from_archive=True, progress=False)


def test_a_folder_with_only_an_experiment_is_not_a_run(tmp_path: Path) -> None:
    (tmp_path / "config.toml").write_text('[task]\nname = "arm"\n[archive]\nshape = [4, 4]\n[run]\ngenerations = 1\n')
    with pytest.raises(UserError, match="is not a run folder; `qdrl evolve"):
        resume(tmp_path, OneProcess(), progress=False)
    assert [path.name for path in tmp_path.iterdir()] == ["config.toml"]


def test_the_error_for_a_file_of_a_run_names_its_folder(run: Path) -> None:
    with pytest.raises(UserError, match=r"archive\.h5 is a file; to continue its run: qdrl resume "):
        resume(run / "archive.h5", OneProcess(), progress=False)
