"""MAP-Elites compared with pyribs on the same arm, cells, operator and budget."""

import numpy as np
import pytest
import torch
from ribs.archives import GridArchive
from ribs.emitters import IsoLineEmitter

from qdrl.algorithms.map_elites import MapElites, MapElitesSettings
from qdrl.archives.archive import Archive
from qdrl.archives.grid import Grid
from qdrl.genomes.variation import IsoLine
from qdrl.streams import Streams
from qdrl.tasks.registry import make_task
from tests.tasks.builders import candidates

JOINTS, SHAPE = 8, (50, 50)
BATCH, GENERATIONS, SEEDS = 100, 150, range(5)
ISO, LINE = 0.05, 0.2


def ours(seed: int) -> tuple[float, float]:
    """Return coverage and QD score of our MAP-Elites."""
    task = make_task("arm", parameters=JOINTS)
    archive = Archive(Grid(task.spec.lower, task.spec.upper, SHAPE), JOINTS, offsets=task.spec.offsets)
    settings = MapElitesSettings(batch_size=BATCH, variation=IsoLine(iso_sigma=ISO, line_sigma=LINE))
    algorithm = MapElites(task, archive, Streams(seed), settings)
    for _ in range(GENERATIONS):
        algorithm.tell(task.evaluate(algorithm.ask()))
    statistics = archive.statistics()
    return statistics.coverage, statistics.qd_score


def pyribs(seed: int) -> tuple[float, float]:
    """Return coverage and QD score of pyribs' archive and emitter with the same task."""
    task, draw = make_task("arm", parameters=JOINTS), np.random.default_rng(10_000 + seed)
    archive = GridArchive(
        solution_dim=JOINTS,
        dims=SHAPE,
        ranges=list(zip(task.spec.lower, task.spec.upper, strict=True)),
        qd_score_offset=task.spec.qd_offset,
        seed=20_000 + seed,
    )
    emitter = IsoLineEmitter(
        archive,
        iso_sigma=ISO,
        line_sigma=LINE,
        initial_solutions=draw.uniform(-np.pi, np.pi, (BATCH, JOINTS)),
        batch_size=BATCH,
        seed=30_000 + seed,
    )
    for _ in range(GENERATIONS):
        genomes = emitter.ask()
        evaluation = task.evaluate(candidates(torch.from_numpy(genomes)))
        archive.add(genomes, evaluation.fitness.numpy(), evaluation.descriptor.numpy())
    return float(archive.stats.coverage), float(archive.stats.qd_score)


@pytest.mark.slow
def test_coverage_and_qd_score_on_the_arm_are_within_two_per_cent_of_pyribs() -> None:
    mine, theirs = (np.mean([run(seed) for seed in SEEDS], axis=0) for run in (ours, pyribs))
    np.testing.assert_allclose(mine, theirs, rtol=0.02)
    assert mine[0] > 0.5
