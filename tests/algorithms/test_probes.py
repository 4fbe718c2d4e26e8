"""Evaluations of the actor in a generation of their own, with an actor that has layers of its own."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from qdrl.algorithms.critic_guided import CriticGuided
from qdrl.archives.hdf5 import open_archive
from qdrl.config import parse_experiment
from qdrl.critics.injection import conditioned
from qdrl.errors import RankLost, RunFailed, UserError
from qdrl.evaluation import Candidates, Evaluation, evaluated
from qdrl.parallel.exchange import LocalExchange, Training, TrainingResult
from qdrl.parallel.ranks import OneProcess
from qdrl.policies.mlp import Mlp
from qdrl.run.start import start
from tests.algorithms.test_critic_guided import BATCH, SMALL, advance, started, task_of

PROBES, REACH = 10, 10.0  # bounds of point_omni are +-10 m
APART: dict[str, Any] = {
    "probe_rows": PROBES,
    "probe_order": "after_children",
    "critic": {**SMALL["critic"], "actor_hidden_sizes": (12, 6, 5)},
}


def apart(**settings: Any) -> CriticGuided:
    return started("dcg_map_elites", **{**APART, **settings})


@pytest.mark.parametrize("trained", [False, True])
def test_probes_act_like_an_actor_of_other_layers_with_an_elites_descriptor(trained: bool) -> None:
    algorithm, task = apart(target_noise=0.0), task_of()
    advance(algorithm, 3 if trained else 1)
    asked, targets = algorithm.ask(), algorithm._plan(range(PROBES)).target
    assert (bool(algorithm._learned), asked.hidden_sizes, algorithm.batch_size) == (trained, (12, 6, 5), PROBES)
    stored = algorithm.archive.descriptors_of(algorithm.archive.occupied_cells).numpy()
    assert isinstance(task.policy, Mlp)
    own = task.policy.resized((12, 6, 5))
    assert own.sizes == (task.policy.sizes[0], 12, 6, 5, task.policy.sizes[-1])
    plain, actor = own.population(1), conditioned(own, 2).population(1)
    actor.load([0], algorithm.learner.td3.actor)
    for row, target in enumerate(targets):
        assert (stored == target).all(1).any()
        plain.load([0], asked.genomes[row : row + 1])
        for observation in torch.randn(3, 5, generator=torch.Generator().manual_seed(row)):
            seen = torch.cat([observation, torch.from_numpy(target / REACH).float()])
            torch.testing.assert_close(plain.act(observation[None]), actor.act(seen[None]), atol=1e-6, rtol=1e-5)


def test_children_and_probes_take_turns_and_training_follows_the_probes() -> None:
    algorithm = apart()
    seen, held, steps, evaluated = [], [], [], []
    for _ in range(4):
        seen.append({algorithm.emitters[index] for index in algorithm.ask().emitter.tolist()})
        before = len(algorithm.archive)
        counts = advance(algorithm)
        held.append(len(algorithm.learner.shards[0]))
        steps.append(counts["critic_steps"])
        evaluated.append(counts["actor_evaluations"])
        assert (
            sum(value for name, value in counts.items() if name.startswith("added_")) == len(algorithm.archive) - before
        )
    assert seen == [{"random"}, {"probe"}, {"variation", "gradient"}, {"probe"}]
    assert held == [20 * count for count in (BATCH, BATCH + PROBES, 2 * BATCH + PROBES, 2 * (BATCH + PROBES))]
    assert steps == [0, 12, 0, 12]
    assert evaluated == [0, PROBES, 0, PROBES]


def test_targets_of_probes_are_drawn_from_the_archive_that_the_children_have_entered() -> None:
    algorithm, new = apart(target_noise=0.0), 0
    for _ in range(6):
        before = {tuple(row) for row in _descriptors(algorithm)}
        advance(algorithm)  # children
        after = {tuple(row) for row in _descriptors(algorithm)}
        targets = {tuple(row) for row in algorithm._plan(range(PROBES)).target}
        assert targets <= after
        new += len(targets - before)
        advance(algorithm)  # probes
    assert new > PROBES  # those of the first generation, and some of later ones


def _descriptors(algorithm: CriticGuided) -> np.ndarray:
    return algorithm.archive.descriptors_of(algorithm.archive.occupied_cells).numpy()


def test_the_replay_buffer_stores_targets_and_reached_descriptors_of_probes() -> None:
    algorithm, task = apart(), task_of()
    advance(algorithm, 3)
    before, plan = len(algorithm.learner.shards[0]), algorithm._plan(range(PROBES))
    evaluation = task.evaluate(algorithm.ask())
    algorithm.tell(evaluation)
    held = {name: column[before:] for name, column in algorithm.learner.shards[0].state_dict().items()}
    rows = np.repeat(np.arange(PROBES), 20)
    for name, expected in (("descriptor", evaluation.descriptor.numpy()), ("target_descriptor", plan.target)):
        np.testing.assert_allclose(held[name], np.clip(expected / REACH, -1, 1)[rows], atol=1e-6)


@pytest.mark.parametrize("generations", [2, 3])
def test_a_restored_algorithm_continues_with_the_same_bits(generations: int) -> None:
    algorithm, other = apart(), apart()
    advance(algorithm, generations)
    other.load_state_dict(algorithm.state_dict())
    other.archive.load_state_dict(algorithm.archive.state_dict())
    for _ in range(3):
        ours, theirs = advance(algorithm), advance(other)
        np.testing.assert_equal(ours, theirs)
    assert np.array_equal(algorithm.learner.td3.actor, other.learner.td3.actor)


def test_probes_are_the_same_when_a_rank_is_lost_after_the_learner_trained() -> None:
    class LosesARank(LocalExchange):
        def train(self, evaluation: Evaluation, training: Training, shards: int = 1) -> TrainingResult:
            super().train(evaluation, training, shards)
            raise RankLost("on purpose")

    algorithm = apart()
    advance(algorithm)
    first, untrained = algorithm.ask(), algorithm.learner.td3.actor.clone()
    with pytest.raises(RankLost):
        algorithm.tell(algorithm.task.evaluate(first), LosesARank())
    assert not torch.equal(algorithm.learner.td3.actor, untrained)
    assert torch.equal(torch.as_tensor(algorithm.ask().genomes), torch.as_tensor(first.genomes))


def test_asking_for_probes_in_parts_gives_the_same_rows() -> None:
    algorithm = apart()
    advance(algorithm, 3)
    whole, parts = algorithm.ask(), [algorithm.ask(rows) for rows in (range(4), range(4, PROBES))]
    for field in ("genomes", "seeds", "emitter", "parent_cell"):
        assert torch.equal(torch.cat([getattr(part, field) for part in parts]), getattr(whole, field)), field


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"probe_order": "with_children"}, r"\[12, 6, 5\] differ from policy.hidden_sizes \[8, 8\].*probe_order = "),
        ({"actor_rows": 3}, r"\[12, 6, 5\] differ from .*set actor_rows = 0 or equal sizes"),
        ({"learners": 12, "critic": {"batch_size": 24}, "gradient": {"batch_size": 24}}, "at most 10"),
    ],
)
def test_rows_that_do_not_fit_the_actor_are_errors(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        apart(**settings)


def test_an_actor_of_the_policies_layers_may_be_a_genome() -> None:
    algorithm = started("dcrl_map_elites", critic={**SMALL["critic"], "actor_hidden_sizes": (8, 8)})
    advance(algorithm, 2)
    assert "layers" not in (algorithm.actor or {})


def history_of(folder: Path, run: dict[str, Any], **settings: Any) -> dict[str, np.ndarray]:
    experiment = parse_experiment(
        {
            "name": "probes",
            "task": {"name": "point_omni", "episode_length": 10},
            "policy": {"hidden_sizes": [4]},
            "archive": {"kind": "grid", "shape": [6, 6]},
            "algorithm": {
                "name": "dcg_map_elites",
                "batch_size": 8,
                "gradient_rows": 4,
                "probe_rows": 5,
                "probe_order": "after_children",
                "replay_capacity": 500,
                "critic": {"steps": 2, "batch_size": 8, "hidden_sizes": [4]},
                "gradient": {"steps": 2, "batch_size": 8},
                **settings,
            },
            "run": run,
        }
    )
    return open_archive(start(experiment, OneProcess(), folder=folder, progress=False).archive).history


@pytest.mark.parametrize(("order", "ends"), [("after_children", False), ("with_children", True)])
def test_failed_probes_end_no_run_if_they_are_a_generation_of_their_own(
    order: str, ends: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def with_failed_probes(candidates: Candidates, **results: Any) -> Evaluation:
        changed: dict[str, Any] = results | {"failed": candidates.emitter == 3}
        return evaluated(candidates, **changed)

    monkeypatch.setattr("qdrl.tasks.episodic.evaluated", with_failed_probes)
    run = {"generations": 4, "max_failed_share": 0.1}
    if ends:
        with pytest.raises(
            RunFailed, match=r"generation 1: 5 of 13 evaluations failed, more than run\.max_failed_share"
        ):
            history_of(tmp_path / "run", run, probe_order=order)
    else:
        assert history_of(tmp_path / "run", run, probe_order=order)["failed"].tolist() == [0, 5, 5, 10]


@pytest.mark.parametrize(("counted", "expected"), [(False, [8, 8, 16, 16]), (True, [8, 13, 21, 26])])
def test_probes_count_as_evaluations_if_the_experiment_says_so(
    counted: bool, expected: list[int], tmp_path: Path
) -> None:
    run = {"evaluations": expected[-1]} if counted else {"generations": 4}
    history = history_of(tmp_path / "run", run, count_probes=counted)
    assert history["evaluations"].tolist() == expected
    assert history["actor_evaluations"].tolist() == [0, 5, 5, 10]
    assert history["env_steps"].tolist() == [80, 130, 210, 260]
