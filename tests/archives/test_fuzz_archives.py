"""Damaged and hostile files are read or rejected in one line; `tests/programs/fuzz_archives.py` is the campaign."""

import shutil
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

from qdrl.archives import inspection
from qdrl.archives.hdf5 import open_archive, validate, write_archive
from qdrl.archives.inspection import check
from qdrl.archives.seals import write_seal
from qdrl.errors import UserError
from tests.archives.builders import damaged, replace_dataset, small_archive
from tests.helpers.forked import run_forked
from tests.helpers.mutants import STRUCTURAL, change_bytes, change_structure
from tests.programs.fuzz_archives import Source, bad, make_sources, run_campaign, summary


@pytest.fixture(scope="module")
def sources(tmp_path_factory: pytest.TempPathFactory) -> list[Source]:
    """Return archives and checkpoints of small real runs, with and without seals."""
    return make_sources(tmp_path_factory.mktemp("sources"))


def refusal_of(path: Path) -> str | None:
    """Return why an archive cannot be opened; None if it can."""
    try:
        open_archive(path)
    except UserError as error:
        return str(error)
    return None


def test_files_with_changed_bytes_are_reported_and_never_crash_the_program(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(inspection, "run_child", run_forked)
    good, path = tmp_path / "good.h5", tmp_path / "changed.h5"
    write_archive(good, small_archive())
    for index in range(25):
        shutil.copyfile(good, path)
        change_bytes(path, np.random.default_rng(index))
        if path.read_bytes() == good.read_bytes():
            continue
        problems = validate(path)
        assert problems, index
        assert "\n" not in problems[0]
        assert "\n" not in str(refusal_of(path))


def test_every_structural_mutant_is_refused_in_one_line_or_opened(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(inspection, "run_child", run_forked)
    good, path = tmp_path / "good.h5", tmp_path / "changed.h5"
    write_archive(good, small_archive())
    refused, opened = [], []
    for number, name in enumerate(STRUCTURAL):
        shutil.copyfile(good, path)
        if change_structure(path, np.random.default_rng(number), name) == "none":
            continue
        write_seal(path)  # the structure is the only fault
        refusal = refusal_of(path)
        assert "\n" not in str(refusal)
        (opened if refusal is None else refused).append(name)
    assert len(refused) > 80, refused
    assert set(opened) >= {"compressed genomes", "strings in an attribute", "escape sequences", "huge fitness"}
    assert not {"soft link", "sparse fitness", "compression bomb", "cycle of groups", "NaN fitness"} & set(opened)


@pytest.mark.slow
def test_verbs_read_or_refuse_hostile_files(sources: list[Source], tmp_path: Path) -> None:
    results = run_campaign(tmp_path, list(range(8)), sources)
    assert bad(results) == []
    counts = summary(results)
    assert counts["served"] > 0
    assert counts["refused"] > 0


@pytest.mark.slow
@pytest.mark.parametrize("wrong", [pytest.param("text", id="text"), pytest.param(np.float64(0.5), id="scalar")])
def test_a_dataset_replaced_by_a_scalar_or_text_is_reported(
    sources: list[Source], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, wrong: Any
) -> None:
    monkeypatch.setattr(inspection, "run_child", run_forked)
    path = tmp_path / "changed.h5"
    for source in sources:
        if source.path.name != "archive.h5":  # archives of runs, with champions, lineages and actors
            continue
        names: list[str] = []
        with h5py.File(source.path) as file:
            file.visititems(lambda name, item, names=names: names.append(name) if hasattr(item, "dtype") else None)
        for name in set(names) - {"normalizer/count"}:  # a scalar in valid files too
            shutil.copyfile(source.path, path)
            with damaged(path) as file:
                replace_dataset(file, name, wrong)
            places = [problem.partition(":")[0] for problem in check(path)]
            assert f"/{name}" in places or f"/{name.split('/')[0]}" in places, (source.path, name, places)


@pytest.mark.slow  # a sample of the campaign
def test_verbs_read_or_refuse_two_hundred_hostile_files(sources: list[Source], tmp_path: Path) -> None:
    assert bad(run_campaign(tmp_path, list(range(8, 224)), sources)) == []


@pytest.mark.slow
@pytest.mark.campaign
def test_verbs_read_or_refuse_ten_thousand_hostile_files(sources: list[Source], tmp_path: Path) -> None:
    assert bad(run_campaign(tmp_path, list(range(10_000)), sources)) == []
