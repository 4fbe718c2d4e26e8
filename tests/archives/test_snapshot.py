"""Archives in memory saved to files: the content equals a run's file, and what files cannot store is an error."""

from pathlib import Path

import numpy as np
import pytest
import torch

import qdrl
from qdrl.archives.hdf5 import open_archive, validate
from qdrl.archives.snapshot import snapshot
from qdrl.archives.statistics import Offsets
from qdrl.cli.archive.info import describe
from qdrl.config import parse_experiment
from qdrl.errors import UserError
from qdrl.parallel.ranks import OneProcess
from qdrl.run.resume import load
from qdrl.run.start import start

SETTINGS = {
    "name": "x",
    "seed": 3,
    "task": {"name": "point_omni", "episode_length": 5},
    "policy": {"hidden_sizes": [4], "normalize_observations": True},
    "algorithm": {"batch_size": 8},
    "run": {"generations": 3},
}


@pytest.mark.parametrize("table", [{"kind": "grid", "shape": [4, 4]}, {"kind": "novelty", "capacity": 15}])
def test_a_saved_archive_equals_the_file_of_the_run(tmp_path: Path, table: dict) -> None:
    outcome = start(parse_experiment(SETTINGS | {"archive": table}), OneProcess(), folder=tmp_path / "run")
    expected, parts = open_archive(outcome.archive), load(tmp_path / "run")
    saved = parts.archive.save(tmp_path / "saved.h5", parts.task, seed=3, emitters=parts.algorithm.emitters)
    assert validate(saved) == []
    stored = open_archive(saved)
    for name, column in expected.elites.items():
        np.testing.assert_array_equal(stored.elites[name], column, err_msg=name)
    np.testing.assert_array_equal(stored.all_genomes(), expected.all_genomes())
    assert stored.normalizer is not None
    assert expected.normalizer is not None
    for name, values in expected.normalizer.items():
        np.testing.assert_array_equal(stored.normalizer[name], values, err_msg=name)
    for name in ("axes", "kind", "shape", "fitness_name", "offsets", "emitters", "neighbours"):
        assert getattr(stored, name) == getattr(expected, name), name
    for name in ("task", "policy", "packages"):
        assert stored.meta[name] == expected.meta[name]
    assert stored.meta["config"] is None
    assert stored.attributes["seed"] == 3
    assert "license" not in stored.attributes
    assert all(qdrl.replay(stored, int(cell)).same for cell in stored.elites["cell"])
    assert describe(stored)["elites_by_emitter"] == describe(expected)["elites_by_emitter"]


def arm(parameters: int = 8) -> qdrl.Archive:
    return qdrl.Archive(qdrl.Grid([-1, -1], [1, 1], (4, 4)), parameters)


def test_an_archive_that_files_cannot_store_is_an_error(tmp_path: Path) -> None:
    task = qdrl.make_task("arm", parameters=8)
    path, row = tmp_path / "a.h5", {"fitness": [1.0], "descriptor": [[0.6, 0.6]]}
    with pytest.raises(ValueError, match="the archive has 7 parameters, task 'arm' has 8"):
        arm(7).save(path, task)
    line = qdrl.Archive(qdrl.Grid([-1], [1], (4,)), 8)
    with pytest.raises(ValueError, match="the archive has 1 descriptor axes, task 'arm' has 2"):
        line.save(path, task)
    lineages = qdrl.Archive(qdrl.Grid([-1, -1], [1, 1], (4, 4)), 8, dtype=torch.int64)
    with pytest.raises(ValueError, match="indices of lineages, which only a run can save"):
        lineages.save(path, task)
    broken, fine = arm(), qdrl.Archive(qdrl.Grid([-1, -1], [1, 1], (4, 4)), 8, dtype=torch.float64)
    broken.add(np.full((1, 8), np.nan), **row)
    fine.add(np.full((1, 8), 0.1), **row)
    for archive in (broken, fine):
        with pytest.raises(ValueError, match="the genome of cell 15 must be finite in float32"):
            archive.save(path, task)
    one = arm()
    one.add(np.zeros((1, 8)), emitter=2, **row)
    with pytest.raises(ValueError, match="/elites/emitter: must lie within"):
        one.save(path, task, emitters=("a", "b"))
    assert not path.exists()
    with pytest.raises(UserError, match=r"cannot write .*nowhere/a.h5: No such file or directory"):
        one.save(tmp_path / "nowhere" / "a.h5", task)
    assert open_archive(one.save(path, task)).emitters == ("emitter 0", "emitter 1", "emitter 2")


def test_an_archive_of_an_unnamed_task_has_generic_names_and_its_own_bounds() -> None:
    archive = qdrl.Archive(qdrl.Grid([-1, 0], [1, 5], (4, 4)), 8, offsets=Offsets(-2))
    stored = snapshot(archive)
    assert [axis.label for axis in stored.axes] == ["descriptor 0", "descriptor 1"]
    assert [(axis.lower, axis.upper) for axis in stored.axes] == [(-1, 1), (0, 5)]
    assert (stored.fitness_name, stored.offsets, len(stored)) == ("fitness", Offsets(-2), 0)
    named = snapshot(archive, qdrl.make_task("arm", parameters=8))
    assert [(axis.name, axis.lower, axis.upper) for axis in named.axes] == [("gripper x", -1, 1), ("gripper y", 0, 5)]
