"""Reruns of elites of small real runs, by qdrl and in plain Gymnasium."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import gymnasium
import mujoco
import numpy as np
import pytest

from qdrl.analysis.decode import task_of
from qdrl.analysis.differences import rerun_notes, training_notes
from qdrl.analysis.rerun import Rerun, replay
from qdrl.archives.hdf5 import open_archive
from qdrl.archives.stored import StoredArchive
from qdrl.config import parse_experiment
from qdrl.errors import UserError
from qdrl.parallel.ranks import OneProcess
from qdrl.provenance.software import packages
from qdrl.run.resume import resume
from qdrl.run.start import start


def furthest(trajectory: Any) -> list[float]:
    return [float(trajectory.observations[:, 0].max())]


TASKS: dict[str, dict[str, Any]] = {
    "hopper_uni": {"episode_length": 60},
    "walker2d_uni": {"episode_length": 40},
    "halfcheetah_uni": {"episode_length": 20},
    "ant_uni": {"episode_length": 30},
    "humanoid_uni": {"episode_length": 20},
    "anttrap_omni": {"episode_length": 20, "reach": 1.0},
    "point_omni": {"episode_length": 30},
    "hard_maze": {"episode_length": 60},
    "arm": {},
    "gym:CartPole-v1": {
        "descriptor": "tests.analysis.test_rerun:furthest",
        "axes": [{"name": "furthest x", "unit": "m", "lower": -1.0, "upper": 1.0}],
    },
}


def evolved(folder: Path, name: str, *, normalize: bool = False, worlds: int = 5) -> StoredArchive:
    """Return the archive of a few generations of MAP-Elites, read from its file."""
    experiment = {
        "name": "small",
        "seed": 3,
        "task": {"name": name, **TASKS[name]},
        "policy": {"hidden_sizes": (8,), "normalize_observations": normalize},
        "archive": {"kind": "cvt", "cells": 40, "samples": 500},
        "algorithm": {"batch_size": 14, "variation": {"name": "iso_line", "iso_sigma": 0.2}},
        "run": {"generations": 4},
        "compute": {"worlds": worlds},
    }
    outcome = start(parse_experiment(experiment), OneProcess(), folder=folder / "run", progress=False)
    return open_archive(outcome.archive)


def replays(archive: StoredArchive) -> list[Rerun]:
    return [replay(archive, int(cell), allow_code=True) for cell in archive.elites["cell"]]


@pytest.mark.parametrize(
    ("name", "normalize"),
    [(name, False) for name in TASKS]
    + [("hopper_uni", True), ("ant_uni", True), ("point_omni", True), ("hard_maze", True)],
)
def test_every_elite_replays_bit_for_bit(name: str, normalize: bool, tmp_path: Path) -> None:
    archive = evolved(tmp_path, name, normalize=normalize)
    assert len(archive) >= 3
    assert len(np.unique(archive.elites["generation"])) >= 2
    for row, again in enumerate(replays(archive)):
        assert again.same
        assert again.fitness == archive.elites["fitness"][row]
        np.testing.assert_array_equal(again.descriptor, archive.elites["descriptor"][row])


@pytest.mark.parametrize("name", [name for name in TASKS if name.endswith("_uni")])
def test_every_elites_controls_do_the_same_in_plain_gymnasium(name: str, tmp_path: Path) -> None:
    archive = evolved(tmp_path, name)
    known = archive.meta["task"]["gymnasium"]
    with gymnasium.make(known["id"], **known["kwargs"], disable_env_checker=True) as made:
        plain: Any = made.unwrapped
        for again in replays(archive):
            track = again.track
            assert track is not None
            assert len(track.qpos) - 1 == len(track.qvel) - 1 == len(track.control) == again.steps
            mujoco.mj_resetData(plain.model, plain.data)
            plain.set_state(track.qpos[0], track.qvel[0])
            total, terminated = 0.0, False
            for control, qpos, qvel in zip(track.control, track.qpos[1:], track.qvel[1:], strict=True):
                assert not terminated
                _, reward, terminated, _, _ = plain.step(control)
                total += reward
                assert np.array_equal(plain.data.qpos, qpos)
                assert np.array_equal(plain.data.qvel, qvel)
            assert abs(total - again.fitness) <= 1e-9
            assert terminated or again.steps == TASKS[name]["episode_length"]
            assert track.step_seconds == pytest.approx(plain.dt)


@pytest.mark.parametrize("normalize", [False, True])
def test_archives_are_the_same_for_any_number_of_worlds(normalize: bool, tmp_path: Path) -> None:
    one, many = (
        evolved(tmp_path / str(worlds), "hopper_uni", normalize=normalize, worlds=worlds) for worlds in (1, 64)
    )
    for name, column in one.elites.items():
        np.testing.assert_array_equal(column, many.elites[name], err_msg=name)
    np.testing.assert_array_equal(one.all_genomes(), many.all_genomes())


def test_tasks_without_mujoco_leave_no_track(tmp_path: Path) -> None:
    archive = evolved(tmp_path, "point_omni")
    assert all(again.track is None for again in replays(archive))


@pytest.mark.parametrize("column", ["genome", "fitness", "descriptor", "seed", "statistics"])
def test_a_rerun_that_differs_is_reported(column: str, tmp_path: Path) -> None:
    archive = evolved(tmp_path, "hopper_uni", normalize=True)
    elites, genomes = {name: values.copy() for name, values in archive.elites.items()}, archive.all_genomes()
    assert archive.normalizer is not None
    normalizer = dict(archive.normalizer)
    if column == "genome":
        genomes[0, 0] += 0.5
    elif column == "fitness":
        elites["fitness"][0] = np.nextafter(elites["fitness"][0], 0)
    elif column == "descriptor":
        elites["descriptor"][0, 0] += 1e-12
    elif column == "seed":
        elites["evaluation_seed"][0] += 1
    else:
        normalizer["at.mean"] = normalizer["at.mean"] + 0.1
    changed = replace(archive, elites=elites, genomes=genomes, normalizer=normalizer)
    assert not replay(changed, int(elites["cell"][0])).same


def test_an_elite_that_cannot_be_rerun_is_an_error_of_one_line(tmp_path: Path) -> None:
    archive = evolved(tmp_path, "point_omni", normalize=True)
    cell, meta = int(archive.elites["cell"][0]), archive.meta
    empty = next(c for c in range(archive.cells) if c not in archive.elites["cell"])
    task, policy = meta["task"], meta["policy"]
    assert archive.normalizer is not None
    cases: list[tuple[StoredArchive, int, str]] = [
        (archive, empty, "is empty"),
        (archive, 4000, "does not exist"),
        (replace(archive, meta=meta | {"task": None}), cell, "is incomplete"),
        (replace(archive, meta=meta | {"task": {"name": "point_omni"}}), cell, "is incomplete"),
        (replace(archive, meta=meta | {"policy": {"layers": [3, 2]}}), cell, "is incomplete"),
        (replace(archive, meta=meta | {"policy": policy | {"activation": "relish"}}), cell, "activation"),
        (
            replace(archive, meta=meta | {"policy": policy | {"arithmetic": "portable-9"}}),
            cell,
            "unknown arithmetic 'portable-9'",
        ),
        (replace(archive, meta=meta | {"policy": policy | {"layers": [5, 9, 2]}}), cell, "parameters"),
        (replace(archive, meta=meta | {"task": {"options": {"name": "future"}}}), cell, "no task 'future'"),
        (replace(archive, meta=meta | {"task": task | {"options": task["options"] | {"wind": 3}}}), cell, "wind"),
        (replace(archive, normalizer=archive.normalizer | {"at.generation": np.array([77])}), cell, "no observation"),
    ]
    for broken, asked, message in cases:
        with pytest.raises(UserError, match=message) as caught:
            replay(broken, asked)
        assert "\n" not in str(caught.value)


def test_the_task_of_an_archive_is_rebuilt_from_its_file(tmp_path: Path) -> None:
    archive = evolved(tmp_path, "anttrap_omni")
    task = task_of(archive)
    assert task.spec.describe() == {**archive.meta["task"], "axes": task.spec.describe()["axes"]}
    assert task.describe_policy() == archive.meta["policy"]
    assert task.mjcf == archive.meta["mjcf"]


def test_a_rerun_notes_differences_from_the_machine_of_the_file(tmp_path: Path) -> None:
    archive = evolved(tmp_path, "hopper_uni")
    cell, meta = int(archive.elites["cell"][0]), archive.meta
    assert replay(archive, cell).notes == ()
    assert meta["policy"]["arithmetic"] == meta["task"]["arithmetic"] == "portable-1"

    def notes(**packages: str) -> list[str]:
        return rerun_notes(replace(archive, meta=meta | {"packages": meta["packages"] | packages}))

    (note,) = notes(mujoco="3.9.9")
    assert note == (
        f"the file was made with mujoco 3.9.9, this is mujoco {meta['packages']['mujoco']}: episodes may differ;"
        " to reproduce them: pip install mujoco==3.9.9"
    )
    (note,) = notes(libm="0", libc="glibc 2.17")
    assert "glibc 2.17" in note
    assert notes(processor="another", h5py="1.0", torch="1.0") == []  # portable arithmetic does not depend on these
    old = {name: {k: v for k, v in meta[name].items() if k != "arithmetic"} for name in ("policy", "task")}
    versions = {name: meta["packages"][name] for name in ("mujoco", "gymnasium")}
    (note,) = rerun_notes(replace(archive, meta=meta | old | {"packages": versions}))
    assert note.startswith("arithmetic 'blas' depends on the processor")
    assert "\n" not in note
    assert rerun_notes(replace(archive, meta=meta | old)) == []  # the same processor


def test_resuming_training_on_another_machine_is_noted_if_bits_change(tmp_path: Path) -> None:
    archive = evolved(tmp_path, "arm")
    packages, config = archive.meta["packages"], archive.meta["config"]

    def notes(algorithm: str, **changed: str) -> list[str]:
        meta = {"packages": packages | changed, "config": config | {"algorithm": {"name": algorithm}}}
        return training_notes(replace(archive, meta=archive.meta | meta))

    assert notes("map_elites", processor="another") == notes("deep_ga", libm="0") == []
    assert notes("pga_map_elites") == []
    assert "not to the same bits" in notes("pga_map_elites", processor="another")[0]
    assert "not to the same bits" in notes("openai_es", libm="0")[0]


def test_resume_logs_the_differences_before_it_continues(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    evolved(tmp_path, "arm")
    monkeypatch.setattr("qdrl.analysis.differences._PORTABLE_TRAINING", ())
    monkeypatch.setattr("qdrl.analysis.differences.packages", lambda: {**packages(), "processor": "another"})
    resume(tmp_path / "run", OneProcess(), overrides=["run.generations=5"], progress=False)
    assert "this is another with" in caplog.text
    assert "not to the same bits" in caplog.text
