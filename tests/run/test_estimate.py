"""Estimated memory and file sizes compared with real ones, and the error for what does not fit."""

from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from qdrl.algorithms.base import Workload
from qdrl.algorithms.registry import algorithm_class
from qdrl.archives.archive import Archive
from qdrl.archives.hdf5 import open_archive
from qdrl.cli.evolve import command as evolve
from qdrl.config import Experiment, parse_experiment
from qdrl.errors import UserError
from qdrl.parallel.ranks import OneProcess
from qdrl.run.build import Parts, build
from qdrl.run.estimate import Estimate, Need, estimate, refuse_what_cannot_fit, size
from qdrl.run.file_sizes import history_length, history_metrics
from qdrl.run.forecast import Forecast, Pace, duration, forecast
from qdrl.run.start import start
from qdrl.tasks.base import Task

ARM = {"name": "arm", "task": {"name": "arm"}, "archive": {"shape": [8, 8]}, "run": {"generations": 3}}
DCRL = {
    "name": "learned",
    "task": {"name": "point_omni", "episode_length": 10},
    "policy": {"hidden_sizes": [8]},
    "archive": {"shape": [4, 4]},
    "algorithm": {
        "name": "dcrl_map_elites",
        "batch_size": 8,
        "gradient_rows": 2,
        "actor_rows": 2,
        "replay_capacity": 5000,
        "critic": {"steps": 4, "batch_size": 8},
        "gradient": {"steps": 3, "batch_size": 8},
    },
    "run": {"evaluations": 80, "minutes": 5},
}
TABLE = {"name": "openai_es", "batch_size": 4, "noise": {"name": "table", "size": 2**32 - 1}}


def _parts(data: dict[str, Any]) -> Parts:
    return build(parse_experiment(data))


def _needs(parts: Parts, ranks: int = 1) -> dict[str, Need]:
    found = estimate(parts.experiment, parts.task, rows=parts.most_rows, ranks=ranks)
    return {need.purpose: need for need in found.needs}


def test_the_estimated_memory_of_an_archive_is_that_of_its_arrays() -> None:
    parts = _parts(ARM)
    archive = parts.archive
    assert isinstance(archive, Archive)
    tensors = [archive.fitness, archive.descriptor, archive.genomes, *archive.fields.values()]
    assert _needs(parts)["archive"].bytes == sum(tensor.nbytes for tensor in tensors)


def test_the_estimated_memory_of_replay_buffer_and_critics_is_that_of_their_tensors() -> None:
    parts = _parts(DCRL)
    learner = parts.algorithm.learner  # pyright: ignore[reportAttributeAccessIssue]
    needs = _needs(parts)
    assert needs["replay"].bytes == learner.shards[0]._table.nbytes
    networks = sum(learner.td3.state_dict()[name].nbytes for name in ("critic", "actor"))
    assert needs["critics"].bytes == pytest.approx(5 * networks, rel=0.01)  # with target, gradient and two moments
    episode = learner.shards[0]._table[0].nbytes * 10
    assert needs["transitions of a generation"].bytes >= parts.algorithm.batch_size * episode


def test_ranks_share_rows_and_a_node_has_one_noise_table() -> None:
    needs = _needs(_parts(DCRL)), _needs(_parts(DCRL), ranks=4)
    for purpose in ("genomes of a generation", "transitions of a rank's rows"):
        assert needs[1][purpose].bytes < needs[0][purpose].bytes
    small = {**TABLE, "noise": {"name": "table", "size": 1000}}
    assert _needs(_parts(ARM | {"algorithm": small}))["noise table"] == Need(
        "noise table", "algorithm.noise.size", 4000, "node", 1
    )


@pytest.mark.parametrize("data", [ARM, DCRL], ids=["arm", "learned"])
def test_files_are_at_most_as_large_as_estimated_and_not_much_smaller(tmp_path: Path, data: dict[str, Any]) -> None:
    """With a full replay buffer and most cells occupied, both are within a third."""
    full = data | {"run": {"generations": 12}, "archive": {"shape": [3, 3]}}
    if data is DCRL:
        full["algorithm"] = data["algorithm"] | {"replay_capacity": 500}
    parts = _parts(full)
    outcome = start(parts.experiment, OneProcess(), folder=tmp_path / "run")
    said = estimate(parts.experiment, parts.task, rows=parts.algorithm.batch_size, ranks=1)
    for name, most in {"archive.h5": said.archive_bytes, "checkpoint.h5": said.checkpoint_bytes}.items():
        real = (outcome.folder / name).stat().st_size
        assert 0.6 * most <= real <= 1.1 * most, name
    log = (outcome.folder / "log.txt").read_text()
    assert log.count("memory up to") == 1
    assert "archive.h5 up to" in log


APART = {"name": "dcg_map_elites", "actor_rows": 0, "probe_rows": 20, "probe_order": "after_children"}
GA = {"name": "deep_ga", "batch_size": 4, "parents": 2, "candidates": 3, "candidate_episodes": 5}


def test_the_estimated_size_of_an_elite_has_all_columns_of_files() -> None:
    few, many = (_parts(ARM | {"archive": {"shape": [side, 10]}}) for side in (10, 20))
    sizes = [estimate(p.experiment, p.task, rows=1, ranks=1).archive_bytes for p in (few, many)]
    indices, floats = 4 * 4 + 4, 4 * 8  # cell, generation, emitter, parent, n_evaluations; fitness, seed, steps, spread
    vectors = 3 * 2 * 8  # descriptor, its spread and the centroid
    assert sizes[1] - sizes[0] == 100 * (4 * few.task.parameters + indices + floats + vectors + 124)


@pytest.mark.parametrize(
    "algorithm", [{"name": "map_elites", "batch_size": 4}, DCRL["algorithm"], DCRL["algorithm"] | APART, GA]
)
def test_the_estimated_history_has_at_least_the_metrics_and_generations_of_a_run(
    tmp_path: Path, algorithm: dict[str, Any]
) -> None:
    parts = _parts(DCRL | {"algorithm": algorithm, "run": {"evaluations": 30}})
    outcome = start(parts.experiment, OneProcess(), folder=tmp_path / "run", progress=False)
    history = open_archive(outcome.archive).history
    assert len(history) <= history_metrics(parts.experiment, parts.task) <= len(history) + 5
    length = len(history["generation"])
    assert length <= history_length(parts.experiment, parts.most_rows) <= length + 1


def test_probes_apart_are_not_added_to_the_rows_of_a_generation(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[int] = []

    def noted(experiment: Experiment, task: Task, *, rows: int, ranks: int) -> Estimate:
        seen.append(rows)
        return estimate(experiment, task, rows=rows, ranks=ranks)

    for place in ("build", "recorder"):
        monkeypatch.setattr(f"qdrl.run.{place}.estimate", noted)
    experiment = parse_experiment(DCRL | {"algorithm": DCRL["algorithm"] | APART, "run": {"generations": 1}})
    start(experiment, OneProcess(), folder=tmp_path / "run", progress=False)
    assert set(seen) == {20}  # 8 children and 20 probes


def test_actors_of_other_layers_have_networks_in_worlds_of_their_own() -> None:
    def bytes_of(*sizes: int) -> int:
        critic = DCRL["algorithm"]["critic"] | {"actor_hidden_sizes": sizes}
        return _needs(_parts(DCRL | {"algorithm": DCRL["algorithm"] | APART | {"critic": critic}}))[purpose].bytes

    purpose, policy = "genomes of a generation", _parts(DCRL).task.parameters
    inputs, outputs = 5, 2
    actor = (inputs + 1) * 16 + (16 + 1) * outputs
    assert bytes_of(8) == 4 * 20 * (policy + policy)  # 20 genomes, and networks of 20 worlds
    assert bytes_of(16) == 4 * 20 * (actor + policy + actor)


def test_the_work_of_an_algorithm_that_alternates_is_that_of_two_generations() -> None:
    ga, novelty = (algorithm_class(name) for name in ("deep_ga", "novelty_es"))
    assert ga.workload(ga.Settings(**GA)) == Workload(rows=15, further_rows=4, generations=2)
    assert ga.workload(ga.Settings(**GA | {"candidate_episodes": 0})) == Workload(rows=4)
    settings = {"batch_size": 40, "means": 3, "mean_rows": 5, "noise": {"name": "keyed"}}
    assert novelty.workload(novelty.Settings(**settings)) == Workload(rows=40, further_rows=5, generations=2)


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (ARM | {"archive": {"shape": [1000, 1000]}}, r"archive\.shape \(1,000,000\) and task\.parameters"),
        (ARM | {"archive": {"cells": 1_000_000, "samples": 1_000_000}}, r"archive\.cells"),
        (ARM | {"archive": {"capacity": 1_000_000}}, r"archive\.capacity"),
        (ARM | {"algorithm": TABLE}, r"algorithm\.noise\.size: 16\.0 GiB a node for the noise table"),
        (
            DCRL | {"algorithm": DCRL["algorithm"] | {"replay_capacity": 10**9}},
            r"algorithm\.replay_capacity \(1,000,000,000\)",
        ),
        (DCRL | {"algorithm": DCRL["algorithm"] | {"batch_size": 10**6}}, r"algorithm\.batch_size and task\.episode"),
    ],
)
def test_settings_that_exceed_the_memory_are_an_error_before_allocation(
    monkeypatch: pytest.MonkeyPatch, data: dict[str, Any], words: str
) -> None:
    monkeypatch.setattr("qdrl.run.estimate.memory_limit", lambda: 100 * 2**20)  # as set by a control group
    with pytest.raises(UserError, match=words + r".*100 MiB of memory") as caught:
        _parts(data)
    assert "\n" not in str(caught.value)


def test_settings_that_fit_into_memory_are_accepted() -> None:
    refuse_what_cannot_fit([Need("archive", "archive.cells", 10)], limit=10)
    with pytest.raises(UserError, match=r"archive\.cells: 11 B a rank for the archive, but only 10 B"):
        refuse_what_cannot_fit([Need("archive", "archive.cells", 11)], limit=10)


def test_memory_of_learners_counts_once_per_learner(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("qdrl.run.estimate.local_size", lambda: 64)
    monkeypatch.setattr("qdrl.run.estimate._resident", lambda: 1)
    needs = (Need("archive", "", 10), Need("replay", "", 1000, "learner", 2), Need("noise table", "", 500, "node", 1))
    needed = Estimate(rows=64, ranks=64, needs=needs, archive_bytes=0, checkpoint_bytes=0, threads=1)
    assert needed.rank_bytes == 1 + 10 + 1000 + 500
    assert needed.node_bytes == 64 * (1 + 10) + 2 * 1000 + 500


def test_idle_ranks_and_threads_that_exceed_the_cores_are_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("qdrl.run.estimate.allowed_cores", lambda: frozenset({0}))
    monkeypatch.setattr("qdrl.run.estimate.core_quota", lambda: 2.0)
    monkeypatch.setattr("qdrl.run.estimate.local_size", lambda: 6)
    monkeypatch.setattr("qdrl.run.estimate.memory_limit", lambda: 2**20)
    needed = Estimate(rows=4, ranks=6, needs=(), archive_bytes=0, checkpoint_bytes=0, threads=2)
    assert needed.warnings() == [
        "4 rows for 6 ranks: 2 idle",
        "2 threads a rank on 1 cores; mpirun --bind-to none allows more cores",
        "12 threads on 2 cores",
    ]
    assert "for the 6 ranks of this node, of 1.0 MiB; MORE THAN AVAILABLE" in needed.in_a_line()
    assert "files grow with the archive" in needed.in_a_line()


@pytest.mark.parametrize("data", [ARM, DCRL], ids=["arm", "learned"])
def test_a_dry_run_prints_memory_time_and_sizes_and_writes_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, data: dict[str, Any]
) -> None:
    import tomli_w

    monkeypatch.chdir(tmp_path)
    (tmp_path / "a.toml").write_text(tomli_w.dumps(data))
    printed = CliRunner().invoke(evolve, ["a.toml", "--dry-run", "--output", "run"], catch_exceptions=False)
    assert printed.exit_code == 0
    lines = dict(line.split(maxsplit=1) for line in printed.stdout.splitlines())
    assert {"run", "memory", "files", "generation", "whole"} <= set(lines)
    assert ("critics" in lines["generation"]) == (data is DCRL)
    assert "for 3 generations" in lines["whole"] or "for 10 generations" in lines["whole"]
    assert [file.name for file in tmp_path.iterdir()] == ["a.toml"]


def test_the_whole_run_ends_with_its_first_budget_on_the_slowest_rank() -> None:
    parts = _parts(DCRL | {"run": {"evaluations": 80, "env_steps": 400, "generations": 9}})
    slow = Pace(0.2, 0.4, 5.0, learning_seconds=1.0, gradient_row_seconds=0.5, measured_rows=4)
    quick = Pace(0.1, 0.1, 10.0, learning_seconds=0.0, gradient_row_seconds=0.0, measured_rows=4)
    expected = forecast([slow, quick], parts, ranks=2)  # 4 of 8 rows each, and one of two gradient rows
    assert expected.generation_seconds == pytest.approx((0.8 + 1.5, 1.6 + 1.5))
    assert expected.generations == (5, 5)  # 400 steps of 8 rows of 10: before 10 generations of evaluations, and 9
    assert expected.total_seconds == pytest.approx((11.5, 15.5))
    endless = _parts(ARM | {"run": {"minutes": 1}})
    assert forecast([slow], endless, ranks=1).total_seconds == (float("inf"), float("inf"))
    assert Forecast((2.0, 3.0), (0.0, 0.0), (10, 4)).total_seconds == (12.0, 20.0)


@pytest.mark.parametrize(("counted", "generations"), [(False, 20), (True, 14)])
def test_probes_in_a_generation_of_their_own_are_half_of_the_generations(counted: bool, generations: int) -> None:
    probes = {"name": "dcg_map_elites", "actor_rows": 0, "probe_rows": 4, "probe_order": "after_children"}
    algorithm = DCRL["algorithm"] | probes | {"count_probes": counted}
    parts = _parts(DCRL | {"algorithm": algorithm, "run": {"evaluations": 80}})
    pace = Pace(0.2, 0.4, 5.0, learning_seconds=1.0, gradient_row_seconds=0.5, measured_rows=4)
    expected = forecast([pace], parts, ranks=2)  # 6 of 12 rows each in two generations, and one of two gradient rows
    assert expected.generation_seconds == pytest.approx(((1.2 + 1.5) / 2, (2.4 + 1.5) / 2))
    assert expected.learning_seconds == pytest.approx((0.5, 0.25))
    assert expected.generations == (generations, generations)  # of 8 evaluations in two of them, or of 12


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0.123, "0.12 s"),
        (42.4, "42 s"),
        (60, "1 min"),
        (250, "4 min 10 s"),
        (3600, "1 h"),
        (11100, "3 h 5 min"),
        (90000, "1 d 1 h"),
        (float("inf"), "no end"),
    ],
)
def test_durations_are_formatted_for_people(seconds: float, text: str) -> None:
    assert duration(seconds) == text


def test_bytes_are_formatted_in_the_unit_that_fits() -> None:
    assert [size(count) for count in (12, 2048, 3 * 2**20, 300 * 2**30)] == ["12 B", "2.0 KiB", "3.0 MiB", "300 GiB"]
