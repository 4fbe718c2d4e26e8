"""EvoTorch's searchers without the engine, compared with EvoTorch's own loop; failures and state."""

import subprocess
import sys
import warnings
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from qdrl.algorithms.evotorch import EvoTorch, EvoTorchSettings
from qdrl.algorithms.registry import algorithm_class
from qdrl.archives.archive import Archive
from qdrl.archives.grid import Grid
from qdrl.archives.hdf5 import read_checkpoint, write_checkpoint
from qdrl.config import parse_experiment
from qdrl.errors import RankLost, UserError
from qdrl.evaluation import Evaluation
from qdrl.parallel.exchange import LocalExchange
from qdrl.run.build import build
from qdrl.streams import Purpose, Streams
from qdrl.tasks.registry import make_task
from tests.archives.builders import small_archive
from tests.tasks.builders import candidates

BATCH, LENGTH = 40, 10
SEARCHERS: dict[str, dict[str, Any]] = {
    "pgpe": {"name": "pgpe", "optimizer": {"name": "clipup", "max_speed": 0.6}},
    "pgpe, normalized": {"name": "pgpe", "optimizer": {"name": "clipup", "max_speed": 0.6}, "ranking": "normalized"},
    "pgpe, adam": {"name": "pgpe", "optimizer": {"name": "adam", "learning_rate": 0.2}, "initial_stdev": 1.0},
    "pgpe, one-sided": {"name": "pgpe", "initial_radius": 6.0, "symmetric": False, "ranking": "nes"},
    "snes": {"name": "snes", "initial_stdev": 2.0},
    "xnes": {"name": "xnes", "initial_stdev": 2.0},
    "cem": {"name": "cem", "initial_stdev": 2.0, "parenthood_ratio": 0.25},
    "cmaes": {"name": "cmaes", "initial_stdev": 2.0},
    "cmaes, separable": {"name": "cmaes", "initial_stdev": 2.0, "separable": True, "active": False},
}
every_searcher = pytest.mark.parametrize("searcher", SEARCHERS)


def started(searcher: str = "snes", *, task: str = "sphere", seed: int = 3, **settings: Any) -> EvoTorch:
    made = make_task(task, parameters=LENGTH)
    archive = Archive(Grid(made.spec.lower, made.spec.upper, (8, 8)), LENGTH)
    settings = {"batch_size": BATCH, "mean_rows": 0, "searcher": SEARCHERS[searcher]} | settings
    return EvoTorch(made, archive, Streams(seed), EvoTorchSettings(**settings))


def evaluated(algorithm: EvoTorch, task: str = "sphere") -> Evaluation:
    return make_task(task, parameters=LENGTH).evaluate(algorithm.ask())


def advance(algorithm: EvoTorch, generations: int, task: str = "sphere") -> float:
    """Run some generations; return how many did not update the searcher."""
    return sum(algorithm.tell(evaluated(algorithm, task))["skipped_updates"] for _ in range(generations))


def fitness_of_mean(algorithm: EvoTorch, task: str = "sphere") -> float:
    row = torch.from_numpy(algorithm.mean)[None]
    return make_task(task, parameters=LENGTH).evaluate(candidates(row)).fitness.item()


def told(algorithm: EvoTorch, fitness: Tensor | list[float], failed: Tensor | None = None) -> dict[str, float]:
    """Tell a generation with this fitness."""
    evaluation = evaluated(algorithm)
    failed = evaluation.failed if failed is None else failed
    fitness = torch.as_tensor(fitness, dtype=torch.float64).masked_fill(failed, torch.nan)
    return algorithm.tell(replace(evaluation, fitness=fitness, failed=failed))


def assert_same_state(one: Any, other: Any) -> None:
    assert one.keys() == other.keys()
    for name, value in one.items():
        if isinstance(value, dict):
            assert_same_state(value, other[name])
        else:
            np.testing.assert_array_equal(value, other[name], err_msg=name)


@every_searcher
def test_fitness_increases_on_sphere_and_rastrigin(searcher: str) -> None:
    algorithm = started(searcher)
    before = fitness_of_mean(algorithm)
    assert advance(algorithm, 60) == 0
    assert before < 70
    assert fitness_of_mean(algorithm) > 95
    algorithm = started(searcher, task="rastrigin")
    before = fitness_of_mean(algorithm, "rastrigin")
    advance(algorithm, 60, "rastrigin")
    assert fitness_of_mean(algorithm, "rastrigin") > before + 20
    assert algorithm.archive.statistics().max_fitness > 85


@every_searcher
@pytest.mark.parametrize("generations", [0, 2])
def test_asking_for_rows_in_parts_or_again_gives_the_same_rows(searcher: str, generations: int) -> None:
    algorithm = started(searcher)
    advance(algorithm, generations)
    other = started(searcher)
    advance(other, generations)
    tail, head, nothing = other.ask(range(13, BATCH)), other.ask(range(13)), other.ask(range(5, 5))
    whole = algorithm.ask()
    for name in ("genomes", "seeds", "emitter", "parent_cell"):
        parts = torch.cat([getattr(head, name)[:], getattr(tail, name)[:]])
        assert torch.equal(parts, getattr(whole, name)[:]), name
    assert len(nothing.genomes) == 0
    assert torch.equal(algorithm.ask().genomes[:], whole.genomes[:])
    assert whole.genomes[:].dtype == torch.float32
    assert whole.genomes[:].shape == (BATCH, LENGTH)
    assert len(set(whole.seeds.tolist())) == BATCH
    assert not torch.equal(started(searcher, seed=2).ask().genomes[:], started(searcher).ask().genomes[:])


@pytest.mark.parametrize("initial", ["random", "zeros"])
def test_the_search_starts_from_the_initial_mean_of_the_settings(initial: str) -> None:
    expected = make_task("sphere", parameters=LENGTH).initial(Streams(3).generator(Purpose.INITIAL))
    algorithm = started(initial=initial)
    np.testing.assert_array_equal(algorithm.mean, expected if initial == "random" else np.zeros(LENGTH))
    assert np.abs(algorithm.ask().genomes[:].numpy().mean(0) - algorithm.mean).max() < 5 * 2.0 / np.sqrt(BATCH)


def test_every_valid_row_competes_for_its_cell_and_no_failed_one_enters() -> None:
    algorithm = started()
    evaluation = evaluated(algorithm)
    failed = torch.arange(BATCH) % 3 == 0
    counts = algorithm.tell(replace(evaluation, failed=failed))
    kept = algorithm.archive.state_dict()
    assert set(kept["evaluation_seed"]) <= set(evaluation.seeds[~failed].tolist())
    assert kept["fitness"].max() == evaluation.fitness[~failed].max()
    assert counts["added_sample"] == len(algorithm.archive) > 1
    assert counts["improved_sample"] == 0
    assert counts["stdev"] == pytest.approx(float(algorithm._searcher.stdev.mean()))


@every_searcher
def test_the_mean_is_evaluated_in_additional_rows_and_is_the_champion(searcher: str, tmp_path: Path) -> None:
    algorithm, without, restored = started(searcher, mean_rows=3), started(searcher), started(searcher, mean_rows=3)
    assert algorithm.champion is None
    for _ in range(3):
        candidates, mean = algorithm.ask(), algorithm.mean
        assert (candidates.genomes[BATCH:] == torch.from_numpy(mean)).all()
        assert torch.equal(candidates.genomes[:BATCH], without.ask().genomes[:])
        assert candidates.emitter.tolist() == [0] * BATCH + [1] * 3
        evaluation = evaluated(algorithm)
        counts = algorithm.tell(replace(evaluation, failed=torch.arange(BATCH + 3) == BATCH + 1))
        champion = algorithm.champion
        assert champion is not None
        np.testing.assert_array_equal(champion["genome"], mean)
        np.testing.assert_array_equal(champion["fitness"], evaluation.fitness[[BATCH, BATCH + 2]].numpy())
        assert counts["champion_fitness"] == champion["fitness"].mean()
        advance(without, 1)
    assert_same_state(algorithm.state_dict()["searcher"], without.state_dict()["searcher"])
    write_checkpoint(tmp_path / "checkpoint.h5", small_archive(), {"algorithm": algorithm.state_dict()})
    restored.load_state_dict(read_checkpoint(tmp_path / "checkpoint.h5")[1]["algorithm"])
    assert_same_state(restored.champion, algorithm.champion)


# EvoTorch's own loop


@pytest.fixture
def evotorch() -> Iterator[Any]:
    """Return the package without the warnings of its own use of numpy and torch."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import evotorch

        yield evotorch


def native(evotorch: Any, searcher: str, first: EvoTorch, generations: int) -> list[np.ndarray]:
    """Return the means of EvoTorch's own searcher in its own loop with the same seeds, from the first generation on."""
    exact = torch.float64 if searcher in ("xnes", "cmaes") else torch.float32
    task = make_task("sphere", parameters=LENGTH)
    problem = evotorch.Problem(
        "max",
        lambda rows: task.evaluate(candidates(rows.as_subclass(Tensor).float())).fitness,
        solution_length=LENGTH,
        initial_bounds=(-1, 1),
        dtype=exact,
        vectorized=True,
        seed=0,
    )
    options = {"popsize": BATCH, "center_init": first.mean, "stdev_init": 2.0}
    if searcher == "pgpe":
        options |= {"stdev_init": None, "radius_init": 9.0, "center_learning_rate": 0.3, "stdev_learning_rate": 0.1}
    if searcher == "cem":
        options["parenthood_ratio"] = 0.25
    search = getattr(evotorch.algorithms, searcher.upper())(problem, **options)
    means = []
    for generation in range(generations):
        problem.manual_seed(int(Streams(3).seeds(Purpose.SEARCHER, generation, [0])[0]))
        search.step()
        means.append(np.array(search.status["center"]))
    # CMA-ES updates at the end of a step, the others at the beginning of the next one
    return [first.mean, *means[:-1]] if searcher == "cmaes" else means


def fill_in_pairs(distribution: Any, out: Tensor, *, generator: Any) -> None:
    """Draw the same population for PGPE; EvoTorch's own order of pairs takes four times as long."""
    noise = distribution.sigma * torch.empty(BATCH // 2, LENGTH).normal_(generator=generator.generator)
    out[0::2], out[1::2] = distribution.mu + noise, distribution.mu - noise


@pytest.mark.parametrize("searcher", ["pgpe", "snes", "xnes", "cem", "cmaes"])
def test_the_means_equal_those_of_evotorchs_own_loop(
    evotorch: Any, searcher: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    algorithm = started(searcher)
    monkeypatch.setattr(evotorch.distributions.SymmetricSeparableGaussian, "_fill", fill_in_pairs)
    expected = native(evotorch, searcher, algorithm, 25)
    assert not np.allclose(expected[0], expected[-1])
    for mean in expected:
        np.testing.assert_allclose(algorithm.mean, mean, rtol=1e-5, atol=1e-6)
        advance(algorithm, 1)


# Input that would break a searcher


@every_searcher
def test_failed_rows_count_as_the_worst_row_that_did_not_fail(searcher: str) -> None:
    one, other = started(searcher), started(searcher)
    fitness, failed = torch.linspace(-3, 5, BATCH).double(), torch.arange(BATCH) % 4 == 1
    assert told(one, fitness, failed)["skipped_updates"] == 0
    told(other, fitness.masked_fill(failed, float(fitness[~failed].min())))
    assert_same_state(one.state_dict(), other.state_dict())


@every_searcher
@pytest.mark.parametrize("what", ["all failed", "all but one failed", "all equal"])
def test_a_generation_of_equal_fitness_leaves_the_searcher_unchanged(searcher: str, what: str) -> None:
    algorithm = started(searcher)
    advance(algorithm, 2)
    before, rows = algorithm.state_dict()["searcher"], algorithm.ask().genomes[:]
    failed = torch.arange(BATCH) >= {"all failed": 0, "all but one failed": 1, "all equal": BATCH}[what]
    assert told(algorithm, torch.full((BATCH,), 7.0), failed)["skipped_updates"] == 1
    assert_same_state(algorithm.state_dict()["searcher"], before)
    assert algorithm.generation == 3
    assert not torch.equal(algorithm.ask().genomes[:], rows)
    assert advance(algorithm, 1) == 0


def test_clipup_makes_no_step_along_a_zero_gradient(evotorch: Any) -> None:
    from evotorch.algorithms.functional import clipup, clipup_tell

    state = clipup_tell(clipup(center_init=torch.ones(3), max_speed=0.1), follow_grad=torch.zeros(3))
    assert state.center.isnan().all()  # the result in EvoTorch
    algorithm = started("pgpe, normalized", batch_size=4)
    before = algorithm.state_dict()["searcher"]
    assert told(algorithm, [1.0, 1.0, 2.0, 2.0])["skipped_updates"] == 1  # both members of each pair are equal
    assert_same_state(algorithm.state_dict()["searcher"], before)
    assert told(algorithm, [1.0, 1.5, 2.0, 3.0])["skipped_updates"] == 0
    assert np.isfinite(algorithm.mean).all()


@pytest.mark.parametrize("searcher", ["cmaes", "snes"])
def test_a_failed_update_is_undone_and_counted(searcher: str) -> None:
    algorithm = started(searcher)
    advance(algorithm, 2)
    state = algorithm.state_dict()
    if searcher == "cmaes":
        state["searcher"]["C"] = -state["searcher"]["C"]  # has no Cholesky factor
    else:
        state["searcher"]["sigma"] = np.full(LENGTH, 3e38, np.float32)
    algorithm.load_state_dict(state)
    assert told(algorithm, torch.linspace(0, 1, BATCH))["skipped_updates"] == 1
    assert_same_state(algorithm.state_dict()["searcher"], state["searcher"])
    assert algorithm.generation == 3


@every_searcher
def test_scaling_and_shifting_fitness_does_not_change_the_update(searcher: str) -> None:
    one, other = started(searcher), started(searcher)
    fitness = torch.rand(BATCH, dtype=torch.float64, generator=torch.Generator().manual_seed(3))
    told(one, fitness)
    told(other, 1e6 + 2.0**-20 * fitness)  # all equal in float32
    np.testing.assert_allclose(other.mean, one.mean, rtol=1e-4)


# Updates from the rows of several generations


def growing(**settings: Any) -> EvoTorch:
    return started("pgpe", mean_rows=2, **settings)


def episodes_of(algorithm: EvoTorch, steps: int) -> Evaluation:
    """Return an evaluation whose episodes lasted this number of steps."""
    return replace(evaluated(algorithm), steps=torch.full((algorithm.batch_size,), steps))


@pytest.mark.parametrize(
    ("steps", "settings", "rows"),
    [
        (10, {"steps_per_update": 400}, BATCH),  # reached exactly; the steps of the mean do not count
        (10, {"steps_per_update": 401}, 2 * BATCH),
        (3, {"steps_per_update": 600}, 5 * BATCH),
        (3, {"steps_per_update": 600, "max_rows": 3 * BATCH}, 3 * BATCH),
        (3, {"steps_per_update": 600, "max_rows": 3 * BATCH + 1}, 4 * BATCH),
        (1000, {"steps_per_update": 600, "max_rows": 3 * BATCH}, BATCH),
        (0, {}, BATCH),
    ],
)
def test_an_update_waits_for_its_steps_or_for_the_most_rows(steps: int, settings: dict[str, int], rows: int) -> None:
    algorithm = growing(**settings)
    mean = algorithm.mean
    for generation in range(rows // BATCH):
        assert algorithm.batch_size == BATCH + (2 if generation == 0 else 0)
        np.testing.assert_array_equal(algorithm.mean, mean)
        counts = algorithm.tell(episodes_of(algorithm, steps))
        assert counts["skipped_updates"] == 0
        assert algorithm.champion is not None
        assert counts["champion_fitness"] == algorithm.champion["fitness"].mean()
        assert algorithm.champion["generation"] == 0
    assert not np.array_equal(algorithm.mean, mean)
    assert algorithm.batch_size == BATCH + 2


def test_one_update_uses_the_rows_of_all_its_generations() -> None:
    from qdrl.algorithms.searchers import make_searcher

    algorithm, rows, fitness = growing(steps_per_update=3 * BATCH), [], []
    by_hand = make_searcher(algorithm.settings.searcher, torch.from_numpy(algorithm.mean), BATCH)
    for generation in range(3):
        rows.append(by_hand.ask(int(Streams(3).seeds(Purpose.SEARCHER, generation, [0])[0])))
        assert torch.equal(algorithm.ask().genomes[:BATCH], rows[-1])
        evaluation = evaluated(algorithm)
        failed = torch.arange(algorithm.batch_size) == 7 if generation == 1 else evaluation.failed
        fitness.append(evaluation.fitness[:BATCH].masked_fill(failed[:BATCH], -1e3))
        algorithm.tell(replace(evaluation, failed=failed))
    joined = torch.cat(fitness)
    joined[BATCH + 7] = joined[joined > -1e3].min()  # a failed row counts as the worst of the update
    span = joined.max() - joined.min()
    by_hand.tell(torch.cat(rows), (joined - joined.min()) / span)
    np.testing.assert_array_equal(algorithm.mean, by_hand.mean)
    np.testing.assert_array_equal(algorithm.state_dict()["searcher"]["stdev"], by_hand.stdev)
    assert not torch.equal(rows[0], rows[1])


@pytest.mark.parametrize("limits", [{"steps_per_update": 100}, {"steps_per_update": 1000, "max_rows": 2 * BATCH}])
def test_updates_of_growing_populations_equal_those_of_evotorch(
    evotorch: Any, limits: dict[str, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    algorithm, task = growing(**limits), make_task("sphere", parameters=LENGTH)
    rows_of_update = 3 * BATCH if len(limits) == 1 else 2 * BATCH  # a row takes one step
    seeds = iter(range(100))

    def fill(distribution: Any, out: Tensor, *, generator: Any) -> None:
        (seed,) = Streams(3).seeds(Purpose.SEARCHER, next(seeds), [0])
        generator.generator.manual_seed(int(seed))
        fill_in_pairs(distribution, out, generator=generator)

    monkeypatch.setattr(evotorch.distributions.SymmetricSeparableGaussian, "_fill", fill)
    problem = evotorch.Problem(
        "max",
        lambda rows: task.evaluate(candidates(rows.as_subclass(Tensor))).fitness,
        solution_length=LENGTH,
        initial_bounds=(-1, 1),
        vectorized=True,
        seed=0,
    )
    done: list[int] = []
    problem.after_eval_hook.append(lambda batch: done.append(len(batch)) or {"total_interaction_count": sum(done)})
    search = evotorch.algorithms.PGPE(
        problem,
        popsize=BATCH,
        num_interactions=limits["steps_per_update"],
        popsize_max=limits.get("max_rows"),
        center_init=algorithm.mean,
        radius_init=9.0,
        center_learning_rate=0.3,
        stdev_learning_rate=0.1,
        optimizer_config={"max_speed": 0.6},
    )
    for update in range(5):
        search.step()  # the first step draws only
        assert len(search.population) == rows_of_update
        np.testing.assert_allclose(algorithm.mean, search.status["center"], rtol=1e-5, atol=1e-6, err_msg=str(update))
        advance(algorithm, rows_of_update // BATCH)
    assert algorithm.generation == 5 * rows_of_update // BATCH


def test_a_search_restored_within_an_update_continues_with_the_same_bits(tmp_path: Path) -> None:
    algorithm, restored = (growing(steps_per_update=4 * BATCH) for _ in range(2))
    advance(algorithm, 6)
    write_checkpoint(tmp_path / "checkpoint.h5", small_archive(), {"algorithm": algorithm.state_dict()})
    state = read_checkpoint(tmp_path / "checkpoint.h5")[1]["algorithm"]
    restored.load_state_dict(state)
    for each in (algorithm, restored):
        assert advance(each, 3) == 0
    assert_same_state(restored.state_dict(), algorithm.state_dict())
    with pytest.raises(ValueError, match=r"multiple of 40 rows, got fitness \(79,\)"):
        growing(steps_per_update=9).load_state_dict(state | {"waiting": state["waiting"] | {"fitness": np.zeros(79)}})


# State


@every_searcher
def test_a_restored_search_continues_with_the_same_bits(searcher: str, tmp_path: Path) -> None:
    algorithm, restored = started(searcher), started(searcher)
    advance(algorithm, 5)
    restored.ask()  # earlier draws are discarded
    write_checkpoint(tmp_path / "checkpoint.h5", small_archive(), {"algorithm": algorithm.state_dict()})
    restored.load_state_dict(read_checkpoint(tmp_path / "checkpoint.h5")[1]["algorithm"])
    assert_same_state(restored.state_dict(), algorithm.state_dict())
    for each in (algorithm, restored):
        assert advance(each, 20) == 0
    assert_same_state(restored.state_dict(), algorithm.state_dict())
    assert torch.equal(restored.ask().genomes[:], algorithm.ask().genomes[:])


def test_a_rank_lost_before_the_exchange_of_genomes_leaves_the_generation_repeatable() -> None:
    algorithm, other = started(), started()
    evaluation = evaluated(algorithm)

    class Broken(LocalExchange):
        def genomes(self, evaluation: Evaluation, rows: Tensor) -> Tensor:
            raise RankLost("1 of 2 ranks died")

    with pytest.raises(RankLost):
        algorithm.tell(evaluation, Broken())
    assert len(algorithm.archive) == 0
    for each in (algorithm, other):
        advance(each, 3)
    assert_same_state(algorithm.state_dict(), other.state_dict())
    assert_same_state(algorithm.archive.state_dict(), other.archive.state_dict())


def test_tell_rejects_another_generation_or_missing_rows() -> None:
    algorithm = started()
    evaluation = evaluated(algorithm)
    algorithm.tell(evaluation)
    before = algorithm.state_dict()
    with pytest.raises(RuntimeError, match="generation 0, expected 1"):
        algorithm.tell(evaluation)
    assert_same_state(algorithm.state_dict(), before)


# Settings


def experiment(**algorithm: Any) -> dict[str, Any]:
    return {
        "name": "es",
        "task": {"name": "sphere", "parameters": 100_000},
        "archive": {"kind": "grid", "shape": [4, 4]},
        "algorithm": {"name": "evotorch", **algorithm},
        "run": {"generations": 1},
    }


@pytest.mark.parametrize(
    ("algorithm", "words"),
    [
        ({"bounds": [-1, 1]}, "unknown key 'algorithm.bounds'"),
        (
            {"searcher": {"name": "snes", "initial_stdev": 1.0, "bounds": 2}},
            "unknown key 'algorithm.searcher.bounds'",
        ),
        ({"searcher": {"name": "snes"}}, "initial_stdev is missing"),
        ({"searcher": {"name": "ga"}}, "algorithm.searcher"),
        ({"max_rows": 5}, "max_rows needs steps_per_update"),
        ({"searcher": {"name": "cmaes", "initial_stdev": 1.0}, "steps_per_update": 9}, "steps_per_update must be 0"),
        ({"batch_size": 5}, r"batch_size \(5\) must be even"),
        ({"batch_size": 1}, "algorithm.batch_size"),
        ({"searcher": {"name": "cem", "initial_stdev": 1.0}, "batch_size": 19}, "must leave 2 parents"),
        ({"searcher": {"name": "pgpe", "initial_stdev": 1.0, "initial_radius": 1.0}}, "set one of them"),
        ({"searcher": {"name": "pgpe", "optimizer": {"name": "adam"}}}, "with adam, set"),
        (
            {"searcher": {"name": "pgpe", "optimizer": {"name": "clipup", "max_sped": 1.0}}},
            "max_sped'; did you mean 'max_speed'",
        ),
    ],
)
def test_unusable_settings_are_errors_of_one_line(algorithm: dict[str, Any], words: str) -> None:
    with pytest.raises(UserError, match=words) as error:
        parse_experiment(experiment(**algorithm))
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("searcher", ["xnes", "cmaes"])
def test_a_covariance_matrix_larger_than_memory_is_an_error(searcher: str) -> None:
    settings = experiment(searcher=SEARCHERS[searcher], batch_size=100)
    with pytest.raises(UserError, match=r"100000 parameters and 100 rows needs .* GiB a rank"):
        build(parse_experiment(settings))
    build(parse_experiment(experiment(searcher=SEARCHERS["cmaes, separable"], batch_size=100)))


def test_the_published_settings_of_pgpe_with_clipup_are_the_defaults() -> None:
    algorithm = EvoTorch(make_task("sphere"), Archive(Grid([0, 0], [1, 1], (2, 2)), 20), Streams(0), EvoTorchSettings())
    state: Any = algorithm._searcher._state  # pyright: ignore[reportAttributeAccessIssue]
    assert float(state.optimizer_state.max_speed) == pytest.approx(0.15)
    assert float(state.optimizer_state.center_learning_rate) == pytest.approx(0.15 / 2)
    assert float(state.optimizer_state.momentum) == pytest.approx(0.9)
    assert float(state.stdev.norm()) == pytest.approx(15 * 0.15)
    assert float(state.stdev_learning_rate) == pytest.approx(0.1)
    assert float(state.stdev_max_change[0]) == pytest.approx(0.2)
    assert (state.ranking_method, state.symmetric, state.maximize) == ("centered", True, True)


# Importing


@pytest.mark.slow
def test_evotorch_is_imported_only_for_its_own_algorithm_and_changes_nothing_else() -> None:
    code = """
import os, sys
from qdrl.algorithms.registry import algorithm_class, algorithm_names
from qdrl.config import parse_experiment
from qdrl.run.build import build

arm = {"name": "a", "task": {"name": "arm"}, "archive": {"kind": "grid", "shape": [4, 4]}, "run": {"generations": 1}}
experiments = {name: parse_experiment(arm | {"algorithm": {"name": name}}) for name in algorithm_names()}
build(experiments["map_elites"])
before = sys.excepthook, sys.path.copy(), os.environ.get("EVOTORCH_VERBOSE_LEVEL")
print(sorted({"evotorch", "ray", "cma", "pandas"} & set(sys.modules)))
parts = build(experiments["evotorch"])
parts.algorithm.tell(parts.task.evaluate(parts.algorithm.ask()))
print("evotorch" in sys.modules, before == (sys.excepthook, sys.path, os.environ.get("EVOTORCH_VERBOSE_LEVEL")))
"""
    command = [sys.executable, "-W", "error::DeprecationWarning", "-W", "error::UserWarning", "-c", code]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout == "[]\nTrue True\n"  # nor does EvoTorch print
    assert done.stderr == ""


def test_without_evotorch_the_error_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "evotorch", None)
    for name in ("cmaes_searcher", "searchers"):
        monkeypatch.delitem(sys.modules, f"qdrl.algorithms.{name}", raising=False)
    assert algorithm_class("evotorch") is EvoTorch  # without importing evotorch
    with pytest.raises(UserError, match=r"algorithm\.name: evotorch needs EvoTorch: .*; pip install evotorch") as error:
        started()
    assert "\n" not in str(error.value)
