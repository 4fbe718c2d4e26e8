"""MAP-Elites without the engine, files and ranks."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from qdrl.algorithms.map_elites import MapElites, MapElitesSettings
from qdrl.algorithms.registry import algorithm_class, algorithm_names
from qdrl.archives.admission import Threshold
from qdrl.archives.archive import Archive
from qdrl.archives.cvt import CentroidalVoronoi, place_centroids
from qdrl.archives.grid import Grid
from qdrl.archives.novelty_archive import NoveltyArchive
from qdrl.errors import UserError
from qdrl.evaluation import Candidates, Evaluation
from qdrl.genomes.variation import Gaussian, IsoLine
from qdrl.streams import Purpose, Streams
from qdrl.tasks.registry import make_task

BATCH = 12


def started(
    *, seed: int = 1, batch: int = BATCH, initial: int = 1, variation: IsoLine | Gaussian | None = None
) -> MapElites:
    """Return MAP-Elites on an arm with three joints."""
    task = make_task("arm", parameters=3)
    archive = Archive(Grid(task.spec.lower, task.spec.upper, (6, 6)), task.parameters, offsets=task.spec.offsets)
    settings = MapElitesSettings(
        batch_size=batch, initial_generations=initial, variation=variation or IsoLine(iso_sigma=0.1)
    )
    return MapElites(task, archive, Streams(seed), settings)


def advance(algorithm: MapElites, generations: int = 1) -> Evaluation:
    """Run some generations; return the last evaluation."""
    for _ in range(generations):
        evaluation = make_task("arm", parameters=3).evaluate(algorithm.ask())
        algorithm.tell(evaluation)
    return evaluation  # pyright: ignore[reportPossiblyUnboundVariable]


def assert_same_candidates(ours: Candidates, theirs: Candidates) -> None:
    for name in ("genomes", "seeds", "emitter", "parent_cell"):
        assert torch.equal(getattr(ours, name), getattr(theirs, name)), name


def elites(algorithm: MapElites) -> list[bytes]:
    return [column.tobytes() for _, column in sorted(algorithm.archive.state_dict().items())]


@pytest.mark.parametrize("generations", [0, 3])
@pytest.mark.parametrize("cut", [0, 1, 5, BATCH])
def test_asking_for_rows_in_parts_gives_the_same_rows(generations: int, cut: int) -> None:
    algorithm = started()
    if generations:
        advance(algorithm, generations)
    whole = algorithm.ask()
    later, earlier = algorithm.ask(range(cut, BATCH)), algorithm.ask(range(cut))
    both = {
        name: torch.cat([getattr(earlier, name), getattr(later, name)])
        for name in ("genomes", "seeds", "emitter", "parent_cell")
    }
    assert_same_candidates(replace(whole, **both), whole)
    assert (earlier.rows, later.rows, whole.rows) == (range(cut), range(cut, BATCH), range(BATCH))


def test_initial_generations_are_random_genomes_with_the_random_emitter() -> None:
    algorithm = started(initial=2)
    for generation in range(3):
        candidates = algorithm.ask()
        names = {algorithm.emitters[index] for index in candidates.emitter}
        assert names == ({"random"} if generation < 2 else {"variation"})
        assert (candidates.parent_cell == -1).all() == (generation < 2)
        if generation < 2:
            expected = make_task("arm", parameters=3).initial(Streams(1).generator(Purpose.INITIAL, generation, 4))
            np.testing.assert_array_equal(candidates.genomes[:][4].numpy(), expected)
        advance(algorithm)


def test_every_row_has_its_own_seed() -> None:
    algorithm = started()
    seeds = algorithm.ask().seeds.tolist()
    advance(algorithm)
    assert len({*seeds, *algorithm.ask().seeds.tolist()}) == 2 * BATCH


def test_a_child_varies_the_elite_of_its_parent_cell() -> None:
    algorithm = started(variation=Gaussian(sigma=1e-3))
    advance(algorithm)
    candidates = algorithm.ask()
    parents = algorithm.archive.genomes_of(candidates.parent_cell)
    assert ((candidates.genomes[:] - parents).abs() < 1e-2).all()
    assert (candidates.genomes[:] != parents).all()


def test_parents_are_drawn_uniformly_over_the_occupied_cells() -> None:
    algorithm = started(batch=4000)
    genomes, fitness = torch.zeros(5, 3), torch.tensor([-1.0, -2.0, -0.5, -3.0, -0.1])
    descriptor = torch.tensor([[-0.9, -0.9], [0.0, 0.0], [0.5, 0.5], [0.9, -0.9], [0.9, 0.9]])
    algorithm.archive.add(genomes, fitness, descriptor)
    algorithm.load_state_dict({"generation": 1})
    cells, counts = algorithm.ask().parent_cell.unique(return_counts=True)
    assert torch.equal(cells, algorithm.archive.occupied_cells)
    assert (counts - 800).abs().max() < 5 * np.sqrt(4000 * 0.2 * 0.8)


def test_told_rows_compete_for_cells_and_are_counted_by_emitter() -> None:
    algorithm = started()
    evaluation = make_task("arm", parameters=3).evaluate(algorithm.ask())
    counts = algorithm.tell(evaluation)
    assert counts["added_random"] == len(algorithm.archive) > 0
    assert counts["improved_random"] == counts["added_variation"] == counts["improved_variation"] == 0
    assert algorithm.generation == 1
    state = algorithm.archive.state_dict()
    best = evaluation.fitness.argmax()
    assert evaluation.fitness[best] == state["fitness"].max()
    assert set(state["evaluation_seed"]) <= set(evaluation.seeds.tolist())
    before = len(algorithm.archive)
    counts = algorithm.tell(make_task("arm", parameters=3).evaluate(algorithm.ask()))
    assert counts["added_variation"] == len(algorithm.archive) - before
    improved = (algorithm.archive.state_dict()["generation"] == 1).sum() - counts["added_variation"]
    assert counts["improved_variation"] == improved


@pytest.mark.parametrize("mistake", ["twice", "other generation", "part"])
def test_tell_rejects_another_generation_or_missing_rows(mistake: str) -> None:
    algorithm = started()
    task = make_task("arm", parameters=3)
    evaluation = task.evaluate(algorithm.ask(range(5) if mistake == "part" else None))
    if mistake == "twice":
        algorithm.tell(evaluation)
    if mistake == "other generation":
        evaluation = replace(evaluation, generation=3)
    before = elites(algorithm)
    with pytest.raises(RuntimeError, match="5 of 12 rows" if mistake == "part" else "generation .* expected"):
        algorithm.tell(evaluation)
    assert elites(algorithm) == before


def failing(algorithm: MapElites) -> Evaluation:
    evaluation = make_task("arm", parameters=3).evaluate(algorithm.ask())
    nothing = torch.full_like(evaluation.fitness, torch.nan)
    return replace(
        evaluation,
        fitness=nothing,
        descriptor=nothing[:, None].expand(-1, 2),
        failed=torch.ones(BATCH, dtype=torch.bool),
    )


def test_a_generation_of_failed_rows_leaves_the_archive_unchanged() -> None:
    algorithm = started()
    assert set(algorithm.tell(failing(algorithm)).values()) == {0.0}
    assert len(algorithm.archive) == 0
    assert algorithm.ask().emitter.unique().tolist() == [algorithm.emitters.index("random")]
    assert not torch.equal(algorithm.ask().genomes[:], started().ask().genomes[:])
    advance(algorithm)
    before = elites(algorithm)
    algorithm.tell(failing(algorithm))
    assert elites(algorithm) == before
    assert algorithm.ask().emitter.unique().tolist() == [algorithm.emitters.index("variation")]


def test_a_failed_row_never_enters_even_with_finite_numbers() -> None:
    algorithm = started()
    evaluation = make_task("arm", parameters=3).evaluate(algorithm.ask())
    failed = torch.arange(BATCH) % 2 == 0
    algorithm.tell(replace(evaluation, failed=failed))
    assert not set(algorithm.archive.state_dict()["evaluation_seed"]) & set(evaluation.seeds[failed].tolist())


def test_a_restored_algorithm_continues_like_the_uninterrupted_one() -> None:
    algorithm, restored = started(), started()
    advance(algorithm, 3)
    restored.archive.load_state_dict(algorithm.archive.state_dict())
    restored.load_state_dict(algorithm.state_dict())
    assert_same_candidates(restored.ask(), algorithm.ask())
    for each in (algorithm, restored):
        advance(each, 3)
    assert elites(restored) == elites(algorithm)
    assert restored.state_dict() == algorithm.state_dict() == {"generation": 6}


def test_runs_of_one_seed_are_the_same_and_of_another_differ() -> None:
    one, same, other = started(), started(), started(seed=2)
    for algorithm in (one, same, other):
        advance(algorithm, 4)
    assert elites(one) == elites(same)
    assert elites(one) != elites(other)


def test_it_fills_the_cells_of_a_cvt_archive() -> None:
    task = make_task("arm", parameters=3)
    centroids = place_centroids(
        Streams(0).generator(Purpose.CENTROIDS), 30, task.spec.lower, task.spec.upper, samples=2000
    )
    geometry = CentroidalVoronoi(centroids, task.spec.lower, task.spec.upper)
    algorithm = MapElites(task, Archive(geometry, 3), Streams(0), MapElitesSettings(batch_size=50))
    advance(algorithm, 5)
    assert len(algorithm.archive) > 10


def test_it_varies_the_entries_of_a_novelty_archive() -> None:
    task = make_task("arm", parameters=3)
    archive = NoveltyArchive(task.spec.lower, task.spec.upper, 3, rule=Threshold(0.02, neighbours=1), capacity=10)
    algorithm = MapElites(task, archive, Streams(0), MapElitesSettings(batch_size=50, variation=Gaussian(sigma=0.01)))
    entered = 0.0
    for _ in range(5):
        entered += sum(algorithm.tell(task.evaluate(algorithm.ask())).values())
        candidates = algorithm.ask()
        assert set(candidates.parent_cell.tolist()) <= set(archive.occupied_cells.tolist())
        assert (candidates.genomes[:] - archive.genomes_of(candidates.parent_cell)).abs().max() < 0.1
    assert entered == archive.geometry.cells > len(archive) == 10


def test_it_is_registered_by_name() -> None:
    assert "map_elites" in algorithm_names()
    assert algorithm_class("map_elites") is MapElites
    assert algorithm_class("qdrl.algorithms.map_elites:MapElites") is MapElites
    with pytest.raises(UserError, match="did you mean 'map_elites'"):
        algorithm_class("map_elite")
    with pytest.raises(UserError, match="Settings"):
        algorithm_class("qdrl.streams:Streams")
