"""Kinds of archives: built-in ones, and users' ones by reference."""

from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import pytest
import torch

from qdrl.archives.hdf5 import content_digest, open_archive, validate
from qdrl.archives.registry import ARCHIVES, archive_kind, archive_settings, build_archive
from qdrl.archives.settings import ArchiveRequest, GridSettings
from qdrl.archives.statistics import Offsets
from qdrl.config import parse_experiment
from qdrl.errors import UserError
from qdrl.parallel.ranks import OneProcess
from qdrl.report.heatmap import plot_heatmap
from qdrl.run.build import build
from qdrl.run.resume import resume
from qdrl.run.start import start

OWN = "tests.archives.own_kinds"
REQUEST = ArchiveRequest(("x", "y"), [-1, -1], [1, 2], 3, Offsets(-5.0), torch.float32, torch.device("cpu"), seed=7)


def experiment(**archive: object) -> Any:
    table = {"name": "point_omni", "episode_length": 5}
    run = {"generations": 4}
    return parse_experiment(
        {"name": "x", "task": table, "policy": {"hidden_sizes": [4]}, "archive": archive}
        | {"algorithm": {"batch_size": 6}, "run": run}
    )


@pytest.mark.parametrize(
    ("kind", "options", "most"),
    [("grid", {"shape": (3, 4)}, 12), ("cvt", {"cells": 9, "samples": 50}, 9), ("novelty", {"capacity": 8}, 8)],
)
def test_a_built_in_kind_builds_an_empty_archive_of_that_kind(kind: str, options: dict, most: int) -> None:
    settings = archive_settings(kind)(kind=kind, **options)
    archive = build_archive(settings, REQUEST)
    assert len(archive) == 0
    assert archive.geometry.kind == kind
    assert (archive.parameters, archive.offsets) == (3, Offsets(-5.0))
    assert settings.most_elites == most
    assert settings.limited_by in type(settings).model_fields
    assert archive.geometry.lower.tolist() == [-1, -1]


def test_an_archive_without_the_offsets_of_the_task_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    walker = {"task": {"name": "walker2d_uni", "episode_length": 5}, "policy": {"hidden_sizes": [4]}}
    table = {"name": "x", **walker, "archive": {"kind": "grid", "shape": [2, 2]}, "algorithm": {"batch_size": 4}}
    table |= {"run": {"generations": 1}}
    built = build(parse_experiment(table))
    assert built.archive.offsets == built.task.spec.offsets == Offsets(step_offset=1.413)
    forgetful = GridSettings.build
    monkeypatch.setattr(
        GridSettings, "build", lambda self, request: forgetful(self, replace(request, offsets=Offsets()))
    )
    with pytest.raises(UserError, match=r"archive.kind 'grid': build must pass offsets=request.offsets"):
        build(parse_experiment(table))


@pytest.mark.parametrize(
    ("table", "kind"),
    [
        ({}, "cvt"),
        ({"shape": [3]}, "grid"),
        ({"capacity": 9}, "novelty"),
        ({"cells": 9, "shape": [3]}, "cvt"),
        ({"kind": "package.module:Class", "shape": [3]}, "package.module:Class"),
    ],
)
def test_without_a_stated_kind_the_keys_of_the_table_select_it(table: dict[str, Any], kind: str) -> None:
    assert archive_kind(table) == kind


def test_each_registered_archive_has_its_key_as_kind() -> None:
    for name, settings in ARCHIVES.items():
        assert settings.model_fields["kind"].annotation == Literal[name]


def test_a_grid_with_another_number_of_axes_than_the_task_is_an_error() -> None:
    message = r"archive.shape: needs a number of cells for each of 2 axes \(x, y\), got \[3\]"
    with pytest.raises(UserError, match=message):
        build_archive(GridSettings(kind="grid", shape=(3,)), REQUEST)


def test_a_users_archive_runs_and_its_file_is_valid_and_can_be_plotted(tmp_path: Path) -> None:
    outcome = start(experiment(kind=f"{OWN}:Ring", cells=10), OneProcess(), folder=tmp_path / "run")
    assert validate(outcome.archive) == []
    stored = open_archive(outcome.archive)
    assert (stored.kind, stored.cells) == ("cvt", 10)
    assert len(stored)
    assert stored.meta["config"]["archive"] == {"kind": f"{OWN}:Ring", "cells": 10}
    assert "class Ring" in stored.meta["code"][f"{OWN}:Ring"]["source"]
    plot_heatmap(stored)


@pytest.mark.parametrize("name", ["Ring", "AlternateSettings"])
def test_a_run_with_a_users_archive_is_resumed_exactly(tmp_path: Path, name: str) -> None:
    whole = start(experiment(kind=f"{OWN}:{name}"), OneProcess(), folder=tmp_path / "whole")
    half = experiment(kind=f"{OWN}:{name}")
    start(
        half.model_copy(update={"run": half.run.model_copy(update={"generations": 2})}),
        OneProcess(),
        folder=tmp_path / "half",
    )
    rest = resume(tmp_path / "half", OneProcess(), overrides=["run.generations=4"])
    assert content_digest(rest.archive) == content_digest(whole.archive)


@pytest.mark.parametrize(
    ("kind", "words"),
    [
        ("hexagons", "no archive 'hexagons'"),
        (f"{OWN}:Alternate", "must be a subclass of qdrl.archives.settings.ArchiveSettings"),
        (f"{OWN}:Missing", "has no 'Missing'"),
        ("no_such_module:X", "cannot import module 'no_such_module'"),
    ],
)
def test_an_unknown_kind_of_archive_is_an_error_of_one_line(kind: str, words: str) -> None:
    with pytest.raises(UserError, match=words) as refused:
        experiment(kind=kind)
    assert "\n" not in str(refused.value)


def test_settings_of_a_users_archive_are_checked() -> None:
    with pytest.raises(UserError, match=r"unknown key 'archive.sells'; did you mean 'cells'"):
        experiment(kind=f"{OWN}:Ring", sells=3)
    with pytest.raises(UserError, match=r"unknown key 'archive.shape' in kind '.*:Ring'"):
        experiment(kind=f"{OWN}:Ring", shape=[3, 3])


def test_an_archive_of_a_kind_that_files_cannot_store_is_refused_before_writing(tmp_path: Path) -> None:
    message = "builds an archive of kind 'ring'; files store 'grid', 'cvt', 'novelty'"
    with pytest.raises(UserError, match=message):
        start(experiment(kind=f"{OWN}:Odd"), OneProcess(), folder=tmp_path / "run")
    assert not (tmp_path / "run").exists()
