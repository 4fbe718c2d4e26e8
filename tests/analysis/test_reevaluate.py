"""Re-evaluation of elites and conditioned actors of a run with real physics."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import CliRunner

from qdrl.analysis.conditioned import ConditionedPolicy
from qdrl.analysis.reevaluate import Reevaluation, reevaluate_actor, reevaluate_elites
from qdrl.archives.hdf5 import open_archive, validate, write_archive
from qdrl.archives.statistics import Offsets
from qdrl.archives.stored import StoredArchive
from qdrl.cli import qdrl
from qdrl.config import parse_experiment
from qdrl.errors import UserError
from qdrl.parallel.ranks import OneProcess
from qdrl.policies.normalizer import deviation_of, normalize_
from qdrl.run.start import start

EXPERIMENT = {
    "name": "actor",
    "seed": 2,
    "task": {"name": "hopper_uni", "episode_length": 30},
    "policy": {
        "hidden_sizes": [8, 8],
        "normalize_observations": True,
        "observation_clip": 1.5,
        "deviation_floor": 0.4,
    },
    "archive": {"cells": 16, "samples": 1000},
    "algorithm": {
        "name": "dcrl_map_elites",
        "batch_size": 12,
        "gradient_rows": 3,
        "actor_rows": 3,
        "critic": {"steps": 20, "batch_size": 16, "hidden_sizes": [16, 16]},
        "gradient": {"steps": 5, "batch_size": 16},
    },
    "run": {"generations": 4},
}


@pytest.fixture(scope="module")
def archive(tmp_path_factory: pytest.TempPathFactory) -> StoredArchive:
    folder = tmp_path_factory.mktemp("actor") / "run"
    return open_archive(start(parse_experiment(EXPERIMENT), OneProcess(), folder=folder, progress=False).archive)


def test_the_archive_file_contains_the_actor(archive: StoredArchive, tmp_path: Path) -> None:
    assert archive.actor is not None
    write_archive(tmp_path / "copy.h5", replace(archive, genomes=archive.all_genomes()))
    copy = open_archive(tmp_path / "copy.h5")
    assert copy.actor is not None
    assert np.array_equal(copy.actor["genome"], archive.actor["genome"])
    assert copy.actor["dimensions"] == 1
    assert validate(tmp_path / "copy.h5") == []


def test_a_damaged_actor_is_named(archive: StoredArchive, tmp_path: Path) -> None:
    assert archive.actor is not None
    genomes = archive.all_genomes()
    for actor, message in (
        ({**archive.actor, "dimensions": np.array(3)}, "/actor/dimensions: 3, expected 0 or 1"),
        ({**archive.actor, "genome": archive.actor["genome"] * np.nan}, "/actor/genome: must be one row of finite"),
        (
            {**archive.actor, "genome": archive.actor["genome"][:-1]},
            r"/actor/genome: shape \(\d+,\), expected \(\d+,\)",
        ),
    ):
        with pytest.raises(ValueError, match=message):
            write_archive(tmp_path / "bad.h5", replace(archive, genomes=genomes, actor=actor))


@pytest.fixture(scope="module")
def of_other_layers(tmp_path_factory: pytest.TempPathFactory) -> StoredArchive:
    """Return an archive whose actor has other layers than the policies."""
    critic = {**EXPERIMENT["algorithm"]["critic"], "actor_hidden_sizes": [10, 6]}
    options = {"name": "dcg_map_elites", "probe_rows": 6, "probe_order": "after_children", "actor_rows": 0}
    experiment = EXPERIMENT | {"algorithm": {**EXPERIMENT["algorithm"], **options, "critic": critic}}
    folder = tmp_path_factory.mktemp("layers") / "run"
    return open_archive(start(parse_experiment(experiment), OneProcess(), folder=folder, progress=False).archive)


def test_an_actor_of_other_layers_is_stored_and_evaluated_with_them(of_other_layers: StoredArchive) -> None:
    actor, policy = of_other_layers.actor, ConditionedPolicy(of_other_layers)
    assert actor is not None
    assert actor["layers"].tolist() == [11, 10, 6, 3]
    assert policy.policy.sizes == (11, 10, 6, 3)
    genome, plain = policy.aimed_at(np.array([[0.35]])), policy.policy.population(1)
    plain.load([0], genome)
    assert of_other_layers.normalizer is not None
    seen = torch.zeros(1, 11)
    mean, var = of_other_layers.normalizer["mean"], of_other_layers.normalizer["var"]
    normalize_(seen, torch.from_numpy(mean).float(), deviation_of(var, 0.4), 1.5)
    np.testing.assert_allclose(policy.act(np.zeros(11), [0.35]), plain.act(seen)[0], atol=1e-6)
    found = reevaluate_actor(of_other_layers, repeats=2)
    assert found.fitness.shape == (len(of_other_layers), 2)
    assert np.isfinite(found.fitness).all()


@pytest.mark.parametrize(
    ("layers", "message"),
    [
        ([11, 10, 3], r"/actor/genome: shape \(\d+,\), expected \(163,\)"),
        ([12, 10, 6, 3], r"/actor/layers: \[12, 10, 6, 3\], expected sizes from the policy's first .*\[11, 3\]"),
        ([11, 0, 6, 3], "/actor/layers: .*expected sizes"),
        ([[11, 3]], "/actor/layers: shape"),
        ([11.0, 10.0, 6.0, 3.0], "/actor/layers: dtype"),
    ],
)
def test_damaged_layers_of_an_actor_are_named(
    of_other_layers: StoredArchive, layers: list, message: str, tmp_path: Path
) -> None:
    actor = {**(of_other_layers.actor or {}), "layers": np.array(layers)}
    with pytest.raises(ValueError, match=message):
        write_archive(tmp_path / "bad.h5", replace(of_other_layers, genomes=of_other_layers.all_genomes(), actor=actor))


def test_an_action_equals_that_of_the_genome_injected_for_the_descriptor(archive: StoredArchive) -> None:
    policy = ConditionedPolicy(archive)
    assert archive.normalizer is not None
    mean, var = archive.normalizer["mean"], archive.normalizer["var"]
    for descriptor in (0.0, 0.35, 1.0):
        genome, plain = policy.aimed_at(np.array([[descriptor]])), policy.policy.population(1)
        plain.load([0], genome)
        for observation in np.random.default_rng(3).normal(size=(4, 11)):
            seen = torch.from_numpy(observation).float()[None]
            normalize_(seen, torch.from_numpy(mean).float(), deviation_of(var, 0.4), 1.5)
            np.testing.assert_allclose(policy.act(observation, [descriptor]), plain.act(seen)[0].numpy(), atol=1e-6)
    assert not np.allclose(policy.act(np.zeros(11), [0.0]), policy.act(np.zeros(11), [1.0]), atol=1e-6)


def test_wrong_shapes_and_archives_without_an_actor_are_refused(archive: StoredArchive) -> None:
    policy = ConditionedPolicy(archive)
    with pytest.raises(ValueError, match=r"expected observation \(11,\), got \(10,\)"):
        policy.act(np.zeros(10), [0.5])
    with pytest.raises(ValueError, match=r"expected descriptor \(1,\), got \(\)"):
        policy.act(np.zeros(11), 0.5)
    with pytest.raises(ValueError, match=r"expected descriptors \(2, 1\), got \(2, 3\)"):
        policy.aimed_at(np.zeros((2, 3)))
    with pytest.raises(UserError, match=r"nowhere.h5: no such file"):
        ConditionedPolicy("nowhere.h5")
    for actor in (None, {"genome": np.zeros(5), "dimensions": np.array(0)}):
        with pytest.raises(UserError, match="has no descriptor-conditioned actor"):
            reevaluate_actor(replace(archive, actor=actor))


def test_a_number_that_is_not_finite_is_an_error_that_names_its_place(archive: StoredArchive) -> None:
    policy, observation = ConditionedPolicy(archive), np.zeros(11)
    for wrong in (np.nan, np.inf, -np.inf):
        observation[4] = wrong
        with pytest.raises(ValueError, match=rf"observation\[4\] is {wrong}; all numbers must be finite"):
            policy.act(observation, [0.5])
        with pytest.raises(ValueError, match=rf"descriptor\[0\] is {wrong}; all numbers must be finite"):
            policy.act(np.zeros(11), [wrong])
        with pytest.raises(ValueError, match=rf"descriptors\[1, 0\] is {wrong}; all numbers must be finite"):
            policy.aimed_at([[0.5], [wrong]])


def test_a_descriptor_outside_the_bounds_is_reported_once_and_the_nearest_inside_is_used(
    archive: StoredArchive,
) -> None:
    policy, observation = ConditionedPolicy(archive), np.ones(11)
    inside = policy.act(observation, [1.0])
    message = r"descriptor \[1.5\] lies outside the bounds \[0, 1\]; .* inside, \[1.0\]"
    with pytest.warns(UserWarning, match=message) as seen:
        actions = [policy.act(observation, [1.5]) for _ in range(3)]
    assert len(seen) == 1
    assert seen[0].filename == __file__
    np.testing.assert_array_equal(actions, [inside] * 3)
    with pytest.warns(UserWarning, match=r"descriptor \[-1.0\] lies outside"):
        policy.act(observation, [-1.0])


def test_a_conditioned_policy_is_made_from_a_file(archive: StoredArchive) -> None:
    assert archive.path is not None
    action = ConditionedPolicy(str(archive.path)).act(np.zeros(11), [0.5])
    np.testing.assert_array_equal(action, ConditionedPolicy(archive).act(np.zeros(11), [0.5]))


def test_elites_rerun_with_their_own_seeds_give_the_stored_results(
    archive: StoredArchive, monkeypatch: pytest.MonkeyPatch
) -> None:
    stored = archive.elites["evaluation_seed"]
    monkeypatch.setattr("qdrl.analysis.reevaluate.Streams.seeds", lambda self, purpose, repeat, rows: stored)
    found = reevaluate_elites(archive)
    np.testing.assert_array_equal(found.fitness[:, 0], archive.elites["fitness"])
    np.testing.assert_array_equal(found.descriptor[:, 0], archive.elites["descriptor"])
    assert found.descriptor_error == 0
    assert found.qd_score == pytest.approx(archive.statistics().qd_score)


def test_repeats_have_new_initial_states(archive: StoredArchive) -> None:
    found = reevaluate_elites(archive, repeats=3)
    assert found.fitness.shape == (len(archive), 3)
    assert all(len(set(row)) > 1 for row in found.fitness.tolist())
    again = reevaluate_elites(archive, repeats=2, worlds=3)
    np.testing.assert_array_equal(again.fitness, found.fitness[:, :2])


def test_descriptors_and_centroids_are_different_targets(archive: StoredArchive) -> None:
    asked = {targets: reevaluate_actor(archive, targets=targets).target for targets in ("descriptors", "centroids")}
    np.testing.assert_array_equal(asked["descriptors"], archive.elites["descriptor"])
    np.testing.assert_array_equal(asked["centroids"], archive.centroids[archive.elites["cell"]])


def test_invalid_arguments_are_errors(archive: StoredArchive) -> None:
    with pytest.raises(ValueError, match=r"targets must be one of .*, got 'descriptor'"):
        reevaluate_actor(archive, targets="descriptor")  # pyright: ignore[reportArgumentType]
    with pytest.raises(ValueError, match="repeats must be at least 1, got 0"):
        reevaluate_elites(archive, repeats=0)


def test_elites_of_a_fixed_initial_state_are_reproduced_exactly(tmp_path: Path) -> None:
    ant = {"name": "ant_omni", "episode_length": 20, "initial_noise": 0.0}
    plain = {"name": "map_elites", "batch_size": 8}
    experiment = EXPERIMENT | {"task": ant, "algorithm": plain, "run": {"generations": 2}}
    stored = open_archive(
        start(parse_experiment(experiment), OneProcess(), folder=tmp_path / "run", progress=False).archive
    )
    found = reevaluate_elites(stored, repeats=2, seed=5)
    assert found.descriptor_error == 0.0
    np.testing.assert_array_equal(found.fitness, np.repeat(stored.elites["fitness"][:, None], 2, axis=1))
    np.testing.assert_array_equal(found.steps, np.repeat(stored.elites["steps"][:, None], 2, axis=1))
    statistics = stored.statistics()
    assert (found.qd_score, found.fitness_sum) == (statistics.qd_score, statistics.fitness_sum)


def test_metrics_by_hand() -> None:
    found = Reevaluation(
        target=np.array([[0.0, 0.0], [1.0, 1.0], [5.0, 5.0]]),
        fitness=np.array([[1.0, 3.0], [4.0, np.nan], [np.nan, np.nan]]),
        descriptor=np.array([[[3.0, 4.0], [0.0, 1.0]], [[1.0, 3.0], [np.nan] * 2], [[np.nan] * 2] * 2]),
        steps=np.array([[2, 4], [6, 1], [1, 1]]),
        offsets=Offsets(-10.0, step_offset=0.5),
    )
    np.testing.assert_array_equal(found.mean_fitness, [2.0, 4.0, np.nan])
    assert found.qd_score == (1 + 10 + 1 + 3 + 10 + 2) / 2 + (4 + 10 + 3) + 0
    assert found.fitness_sum == 2 + 4 + 0
    assert found.env_steps == 15
    assert found.max_fitness == 4
    assert found.descriptor_error == pytest.approx((5 + 1 + 2) / 3)
    assert found.failed == 3


def test_the_verb_prints_elites_and_actor(archive: StoredArchive) -> None:
    result = CliRunner().invoke(qdrl, ["archive", "reevaluate", str(archive.path), "--repeats", "2"])
    assert result.exit_code == 0, result.output
    for line in (
        "elites, run again",
        "elites, as stored",
        "actor, asked for descriptors",
        "actor, asked for centroids",
    ):
        assert line in result.output
