"""Held-out tests of champions: at a run's end, and by `qdrl archive reevaluate`.

`tests/runs/test_rank_counts.py` shows that a test at a run's end gives the same numbers on 1 to 4 ranks.
"""

import json
import shutil
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from click.testing import CliRunner, Result

from qdrl.algorithms.map_elites import MapElites
from qdrl.analysis.decode import champion_genome
from qdrl.analysis.reevaluate import reevaluate_champion
from qdrl.archives.hdf5 import content_digest, open_archive, validate, write_archive
from qdrl.archives.statistics import episode_statistics
from qdrl.cli import qdrl
from qdrl.config import parse_experiment
from qdrl.errors import UserError
from qdrl.evaluation import Candidates
from qdrl.parallel.ranks import OneProcess
from qdrl.run.job import Outcome
from qdrl.run.resume import load, resume
from qdrl.run.start import start
from qdrl.streams import Purpose, Streams
from tests.archives.builders import damaged

SEED, EPISODES = 4, 6
GA = {
    "name": "deep_ga",
    "batch_size": 12,
    "parents": 2,
    "candidates": 3,
    "candidate_episodes": 3,
    "mutation": {"sigma": 0.2},
}
ES = {"name": "openai_es", "batch_size": 6, "mean_rows": 2}
EXPERIMENT = {
    "name": "tested",
    "seed": SEED,
    "task": {"name": "point_omni", "episode_length": 15},
    "policy": {"hidden_sizes": [3], "normalize_observations": True},
    "archive": {"kind": "grid", "shape": [4, 4]},
    "algorithm": GA,
    "run": {"generations": 5, "test_episodes": EPISODES},
    "compute": {"worlds": 4},
}


def begin(folder: Path, **changes: Any) -> Outcome:
    return start(parse_experiment(EXPERIMENT | changes), OneProcess(), folder=folder, progress=False)


def call(*arguments: object) -> Result:
    return CliRunner().invoke(qdrl, [str(argument) for argument in arguments], catch_exceptions=False)


def json_of(*arguments: object) -> dict[str, Any]:
    return json.loads(call(*arguments, "--json").stdout)


def fitness_in_test(run: Path) -> np.ndarray:
    champion = open_archive(run).champion
    assert champion is not None
    return champion["test_fitness"]


def by_hand(run: Path, seeds: np.ndarray) -> np.ndarray:
    """The champion's fitness, one episode after the other, by the task of the run itself."""
    stored, task = open_archive(run), load(run).task
    assert stored.champion is not None
    genome, one = torch.from_numpy(champion_genome(stored))[None], torch.zeros(1, dtype=torch.int64)
    candidates = Candidates(int(stored.champion["generation"][0]), range(1), genome, one, one, one)
    return np.array([task.evaluate(replace(candidates, seeds=torch.tensor([s]))).fitness.item() for s in seeds])


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run of Deep GA with a test."""
    return begin(tmp_path_factory.mktemp("tested") / "run").folder


def test_the_seeds_are_those_of_no_training_evaluation_and_a_longer_test_continues_a_shorter_one() -> None:
    streams = Streams(SEED)
    held_out = streams.held_out_seeds(50)
    np.testing.assert_array_equal(held_out, streams.seeds(Purpose.TEST, 0, range(50)))
    np.testing.assert_array_equal(held_out[:7], streams.held_out_seeds(7))
    for purpose in (Purpose.EVALUATION, Purpose.REEVALUATION):
        assert not {*held_out.tolist()} & {*np.ravel([streams.seeds(purpose, g, range(50)) for g in range(9)]).tolist()}


@pytest.mark.parametrize("algorithm", [GA, ES], ids=["deep_ga", "openai_es"])
def test_a_run_stores_the_fitness_of_its_champion_in_held_out_episodes(tmp_path: Path, algorithm: Any) -> None:
    outcome = begin(tmp_path / "run", algorithm=algorithm)
    assert outcome.tested
    assert validate(outcome.archive) == []
    found = fitness_in_test(outcome.folder)
    assert len(set(found.tolist())) > 1  # episodes differ
    np.testing.assert_array_equal(found, by_hand(outcome.folder, Streams(SEED).seeds(Purpose.TEST, 0, range(EPISODES))))


def test_a_test_changes_nothing_else_in_the_archive(run: Path, tmp_path: Path) -> None:
    plain = begin(tmp_path / "plain", run={"generations": 5})
    assert not plain.tested
    copy = tmp_path / "copy.h5"
    copy.write_bytes((run / "archive.h5").read_bytes())
    with damaged(copy) as file:
        del file["champion/test_fitness"]
    assert content_digest(copy) == content_digest(plain.archive)


def test_resuming_after_the_end_does_not_repeat_the_test(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = (run / "archive.h5").read_bytes()
    monkeypatch.delattr("qdrl.run.recorder.champion_test")
    outcome = resume(run, OneProcess(), progress=False)
    assert (outcome.finished, outcome.tested) == (True, False)
    assert (run / "archive.h5").read_bytes() == before


def test_a_job_that_ends_during_the_test_has_saved_and_resuming_makes_the_test(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patched:
        patched.setattr("qdrl.run.recorder.champion_test", lambda *_: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            begin(tmp_path / "run")
    outcome = resume(tmp_path / "run", OneProcess(), progress=False)
    assert (outcome.generations, outcome.tested) == (0, True)
    assert content_digest(outcome.archive) == content_digest(run / "archive.h5")


def test_a_test_that_only_the_checkpoint_holds_is_written_into_the_archive(run: Path, tmp_path: Path) -> None:
    copy = tmp_path / "run"
    shutil.copytree(run, copy)
    plain = begin(tmp_path / "plain", run={"generations": 5})
    stored = open_archive(plain.archive)
    created = open_archive(run).attributes["created_utc"]
    write_archive(copy / "archive.h5", replace(stored, attributes=stored.attributes | {"created_utc": created}))
    resume(copy, OneProcess(), progress=False)
    assert content_digest(copy / "archive.h5") == content_digest(run / "archive.h5")


def test_a_stopped_run_has_no_test_and_a_continued_one_tests_its_last_champion(run: Path, tmp_path: Path) -> None:
    short = begin(tmp_path / "run", run=EXPERIMENT["run"] | {"generations": 3})
    assert len(fitness_in_test(short.folder)) == EPISODES
    stopped = resume(
        short.folder, OneProcess(), overrides=["run.generations=5", "run.job_minutes=1e-9"], progress=False
    )
    assert (stopped.finished, stopped.generations) == (False, 0)
    assert len(fitness_in_test(short.folder)) == EPISODES  # still of the champion in the file
    load(short.folder)
    resume(short.folder, OneProcess(), overrides=["run.job_minutes=100"], progress=False)
    assert content_digest(short.archive) == content_digest(run / "archive.h5")
    stopped = begin(tmp_path / "stopped", run={"generations": 9, "job_minutes": 1e-9, "test_episodes": 2})
    assert not stopped.tested


def test_a_finished_run_is_tested_later_or_over_more_episodes(run: Path, tmp_path: Path) -> None:
    late = begin(tmp_path / "late", run={"generations": 5}).folder
    done = call("resume", late, "--set", f"run.test_episodes={EPISODES}")
    assert "nothing to do" not in done.stderr
    statistics = episode_statistics(fitness_in_test(run))
    of = f"{statistics.mean_fitness:.6g} (mean of {EPISODES} held-out episodes, standard deviation"
    assert f"test         {of}" in done.stdout
    assert f"testing the champion over {EPISODES} held-out episodes" in (late / "log.txt").read_text()
    assert content_digest(late / "archive.h5") == content_digest(run / "archive.h5")
    assert not resume(late, OneProcess(), overrides=["run.test_episodes=0"], progress=False).tested
    assert len(fitness_in_test(late)) == EPISODES  # it is still true
    assert resume(late, OneProcess(), overrides=["run.test_episodes=8"], progress=False).tested
    np.testing.assert_array_equal(fitness_in_test(late)[:EPISODES], fitness_in_test(run))


def test_without_a_champion_there_is_a_warning_instead(tmp_path: Path) -> None:
    outcome = begin(tmp_path / "run", algorithm={"name": "map_elites", "batch_size": 5})
    assert not outcome.tested
    message = "run.test_episodes = 6: there is no test, because algorithm 'map_elites' has no champion"
    assert message in (outcome.folder / "log.txt").read_text()


def test_an_algorithm_whose_champion_has_no_weights_must_define_them(run: Path) -> None:
    algorithm = load(run).algorithm
    assert algorithm.champion is not None
    np.testing.assert_array_equal(algorithm.champion_genome(), champion_genome(open_archive(run)))
    with pytest.raises(UserError, match="'deep_ga' must define champion_genome: its champion has no genome"):
        MapElites.champion_genome(algorithm)  # pyright: ignore[reportArgumentType] - the default of the base class


def test_info_shows_the_test_beside_the_episodes_that_chose_the_champion(run: Path) -> None:
    facts, stored = json_of("archive", "info", run)["champion"], open_archive(run).champion
    assert stored is not None
    assert facts["mean_fitness"] == stored["fitness"].mean()
    assert facts["episodes"] == 3
    assert facts["test"] == asdict(episode_statistics(stored["test_fitness"]))
    text = call("archive", "info", run).stdout
    assert "Champion in held-out episodes" in text
    assert f"{stored['test_fitness'].mean():.6g}" in text


def test_reevaluating_the_champion_with_the_runs_seed_repeats_its_test(run: Path) -> None:
    found = reevaluate_champion(open_archive(run), episodes=EPISODES, seed=SEED)
    np.testing.assert_array_equal(found.fitness, fitness_in_test(run))
    assert found.env_steps == EPISODES * 15


def test_the_verb_prints_the_champion_beside_what_is_stored(run: Path) -> None:
    seeds = Streams(9).seeds(Purpose.TEST, 0, range(5))
    fitness = by_hand(run, seeds)
    options = ("archive", "reevaluate", run, "--champion-episodes", 5, "--seed", 9)
    facts = json_of(*options)
    assert facts["champion, held out"] == {
        "mean_fitness": fitness.mean(),
        "fitness_std": fitness.std(),
        "median_fitness": np.sort(fitness)[2],
        "min_fitness": fitness.min(),
        "max_fitness": fitness.max(),
        "episodes": 5,
        "failed": 0,
        "env_steps": 75,
    }
    champion = open_archive(run).champion
    assert champion is not None
    assert facts["champion, as stored"]["mean_fitness"] == champion["fitness"].mean()
    assert facts["champion, tested by the run"]["median_fitness"] == np.median(champion["test_fitness"])
    text = call(*options).stdout
    for words in ("elites, run again", "champion, held out", "champion, as stored", "median fitness"):
        assert words in text
    assert not [who for who in json_of(*options[:3], "--champion-episodes", 0) if "champion" in who]


def test_a_failed_episode_counts_as_such_and_in_no_other_statistic() -> None:
    found = episode_statistics(np.array([4.0, np.nan, 1.0, 7.0, 0.0]))
    assert asdict(found) == {
        "mean_fitness": 3.0,
        "fitness_std": np.sqrt(7.5),
        "median_fitness": 2.5,
        "min_fitness": 0.0,
        "max_fitness": 7.0,
        "episodes": 5,
        "failed": 1,
    }
    none = episode_statistics(np.array([np.nan, np.nan]))
    assert (none.episodes, none.failed) == (2, 2)
    assert np.isnan([none.mean_fitness, none.fitness_std, none.min_fitness]).all()


def test_a_file_may_hold_failed_test_episodes_but_no_infinite_ones(run: Path, tmp_path: Path) -> None:
    stored, copy = open_archive(run), tmp_path / "copy.h5"
    assert stored.champion is not None
    write_archive(copy, replace(stored, champion=stored.champion | {"test_fitness": np.array([1.0, np.nan])}))
    assert validate(copy) == []
    assert json_of("archive", "info", copy)["champion"]["test"]["failed"] == 1
    for values, message in (
        ([1.0, np.inf], "/champion/test_fitness: not finite"),
        ([], r"/champion/test_fitness: shape \(0,\)"),
    ):
        with pytest.raises(ValueError, match=message):
            write_archive(copy, replace(stored, champion=stored.champion | {"test_fitness": np.array(values)}))
