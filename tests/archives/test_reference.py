"""Archives that every version must open: reference files made by experiments/reference."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from qdrl.analysis.decode import arithmetic_of, task_of
from qdrl.analysis.rerun import replay
from qdrl.archives.hdf5 import content_digest, open_archive, validate
from qdrl.archives.statistics import Offsets
from qdrl.policies.populations import LibraryPopulation

REFERENCE = Path(__file__).parents[2] / "archives" / "reference" / "walker2d_uni.h5"
DIGEST = "6299a5a493a89dc0fba3d66f11c370ee196396956f4bb38edc98b90dadf20dd0"
PORTABLE_DIGESTS = {
    "walker2d_uni_portable": "df41dd38014994c18444f32c944d2ffefd67df91d87333beb786e191f78c48e5",
    "ant_uni_portable": "6688c128102795fe6a46814eecc30e2486814fbe127b4b1ce4e5db54c592e398",
}


def test_the_reference_archive_is_small_valid_and_has_the_recorded_digest() -> None:
    assert REFERENCE.stat().st_size < 300_000
    assert validate(REFERENCE) == []
    assert content_digest(REFERENCE) == DIGEST


def test_the_content_of_the_reference_archive_is_read_correctly() -> None:
    archive = open_archive(REFERENCE)
    statistics = archive.statistics()
    assert [axis.name for axis in archive.axes] == ["right foot contact", "left foot contact"]
    assert (archive.kind, archive.shape) == ("grid", (16, 16))
    assert statistics.coverage > 0.95
    assert statistics.max_fitness > 400
    assert archive.meta["task"]["gymnasium"]["id"] == "Walker2d-v5"
    assert archive.meta["policy"]["layers"] == [17, 6, 6]
    assert archive.attributes["seed"] == 7


def test_an_archive_of_format_1_0_keeps_its_score_and_gets_the_one_without_offset() -> None:
    archive = open_archive(REFERENCE)
    fitness, found = archive.elites["fitness"], archive.statistics()
    assert archive.offsets == Offsets(qd_offset=-1.413 * 250)
    assert found.qd_score == np.sum(fitness + 1.413 * 250) == archive.history["qd_score"][-1]
    assert found.fitness_sum == np.sum(fitness)
    assert np.isnan(archive.elites["steps"]).all()


def test_its_genomes_fit_its_task_and_every_generation_has_statistics() -> None:
    archive = open_archive(REFERENCE)
    assert task_of(archive).parameters == archive.parameters == archive.genome(row=0).shape[0]
    assert archive.normalizer is not None
    assert set(archive.elites["generation"]) == set(archive.normalizer["at.generation"])
    assert np.isfinite(archive.normalizer["at.mean"]).all()


def test_an_archive_of_format_1_0_is_rerun_with_blas_and_the_rerun_notes_it() -> None:
    archive = open_archive(REFERENCE)
    assert arithmetic_of(archive) == "blas"
    task: Any = task_of(archive)
    assert isinstance(task.policy.population(1), LibraryPopulation)
    (note,) = replay(archive, 57).notes
    assert "on a processor that it does not name" in note


@pytest.mark.parametrize("name", list(PORTABLE_DIGESTS))
def test_portable_archives_are_small_valid_and_have_the_recorded_digests(name: str) -> None:
    path = REFERENCE.parent / f"{name}.h5"
    assert path.stat().st_size < 320_000
    assert validate(path) == []
    assert content_digest(path) == PORTABLE_DIGESTS[name]
    archive = open_archive(path)
    assert arithmetic_of(archive) == archive.meta["policy"]["arithmetic"] == "portable-1"
    assert len(archive) >= 50
