"""The archive that every version must open: a golden file made by experiments/reference."""

from pathlib import Path

import numpy as np

from qdrl.archives.hdf5 import content_digest, open_archive, validate
from qdrl.decoding import task_of

REFERENCE = Path(__file__).parents[1] / "archives" / "reference" / "walker2d_uni.h5"
DIGEST = "6299a5a493a89dc0fba3d66f11c370ee196396956f4bb38edc98b90dadf20dd0"


def test_the_reference_archive_is_small_whole_and_what_it_was() -> None:
    assert REFERENCE.stat().st_size < 300_000
    assert validate(REFERENCE) == []
    assert content_digest(REFERENCE) == DIGEST


def test_its_meaning_survives() -> None:
    archive = open_archive(REFERENCE)
    statistics = archive.statistics()
    assert [axis.name for axis in archive.axes] == ["right foot contact", "left foot contact"]
    assert (archive.kind, archive.shape) == ("grid", (16, 16))
    assert statistics.coverage > 0.95
    assert statistics.max_fitness > 400
    assert archive.meta["task"]["gymnasium"]["id"] == "Walker2d-v5"
    assert archive.meta["policy"]["layers"] == [17, 6, 6]
    assert archive.attributes["seed"] == 7


def test_its_genomes_still_fit_its_task_and_its_normaliser_its_elites() -> None:
    archive = open_archive(REFERENCE)
    assert task_of(archive).parameters == archive.parameters == archive.genome(row=0).shape[0]
    assert archive.normalizer is not None
    assert set(archive.elites["generation"]) == set(archive.normalizer["at.generation"])
    assert np.isfinite(archive.normalizer["at.mean"]).all()
