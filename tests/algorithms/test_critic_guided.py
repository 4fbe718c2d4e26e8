"""PGA-, DCG- and DCRL-MAP-Elites without the engine: emitters of rows, stored transitions, training and state."""

from functools import partial
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from qdrl.algorithms.critic_guided import CriticGuided
from qdrl.algorithms.dealing import deal
from qdrl.algorithms.registry import algorithm_class
from qdrl.archives.archive import Archive
from qdrl.archives.grid import Grid
from qdrl.critics.injection import conditioned
from qdrl.errors import UserError
from qdrl.evaluation import Evaluation
from qdrl.parallel.exchange import LOCAL, LocalExchange, Training, TrainingResult
from qdrl.policies.mlp import Mlp
from qdrl.streams import Streams
from qdrl.tasks.episodic import EpisodicTask
from qdrl.tasks.registry import make_task

UNIT = {"name": "u", "lower": 0.0, "upper": 1.0}
NAMES = ("pga_map_elites", "dcg_map_elites", "dcrl_map_elites")
BATCH = 16
SMALL = {
    "batch_size": BATCH,
    "replay_capacity": 4000,
    "critic": {"steps": 12, "batch_size": 20, "hidden_sizes": (16, 16)},
    "gradient": {"steps": 4, "batch_size": 20},
}
SPLIT = {
    "pga_map_elites": {"gradient_rows": 7, "actor_rows": 1},
    "dcg_map_elites": {"gradient_rows": 8, "probe_rows": 16},
    "dcrl_map_elites": {"gradient_rows": 4, "actor_rows": 4},
}


def task_of(name: str = "point_omni", **options: Any) -> EpisodicTask:
    task = make_task(name, worlds=8, policy={"hidden_sizes": (8, 8)}, episode_length=20, **options)
    assert isinstance(task, EpisodicTask)
    return task


def started(name: str, task: EpisodicTask | None = None, seed: int = 3, **settings: Any) -> CriticGuided:
    task = task or task_of()
    archive = Archive(Grid(task.spec.lower, task.spec.upper, (30, 30)), task.parameters)
    kind: Any = algorithm_class(name)
    return kind(task, archive, Streams(seed), kind.Settings(**{**SMALL, **SPLIT[name], **settings}))


def advance(algorithm: CriticGuided, generations: int = 1) -> dict[str, float]:
    task = algorithm.task
    for _ in range(generations):
        counts = algorithm.tell(task.evaluate(algorithm.ask()))
    return counts  # pyright: ignore[reportPossiblyUnboundVariable]


@given(
    counts=st.dictionaries(st.sampled_from("abcd"), st.integers(0, 60), min_size=1).filter(lambda c: sum(c.values()))
)
def test_rows_of_emitters_are_spread_evenly_over_the_batch(counts: dict[str, int]) -> None:
    dealt, total = deal(counts, "abcd"), sum(counts.values())
    for index, name in enumerate("abcd"):
        share = counts.get(name, 0) / total
        held = np.cumsum(dealt == index)
        assert (held[-1] if total else 0) == counts.get(name, 0)
        assert np.abs(held - share * np.arange(1, total + 1)).max() < len(counts)


@pytest.mark.parametrize("name", NAMES)
def test_the_papers_batches_are_the_defaults(name: str) -> None:
    task = task_of()
    archive = Archive(Grid(task.spec.lower, task.spec.upper, (5, 5)), task.parameters)
    kind: Any = algorithm_class(name)
    algorithm = kind(task, archive, Streams(0), kind.Settings(replay_capacity=1000))
    dealt = {emitter: int((algorithm._dealt == i).sum()) for i, emitter in enumerate(algorithm.emitters)}
    assert (
        dealt
        == {
            "pga_map_elites": {"random": 0, "variation": 128, "gradient": 127, "actor": 1},
            "dcg_map_elites": {"random": 0, "variation": 128, "gradient": 128, "probe": 256},
            "dcrl_map_elites": {"random": 0, "variation": 128, "gradient": 64, "actor": 64},
        }[name]
    )


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("cut", [0, 5, 11])
def test_asking_for_rows_in_parts_gives_the_same_rows(name: str, cut: int) -> None:
    algorithm = started(name)
    advance(algorithm, 2)
    whole = algorithm.ask()
    parts = [algorithm.ask(range(cut, algorithm.batch_size)), algorithm.ask(range(cut))][::-1]
    for field in ("genomes", "seeds", "emitter", "parent_cell"):
        assert torch.equal(torch.cat([getattr(part, field) for part in parts]), getattr(whole, field)), field


def test_injected_rows_act_like_the_actor_with_an_elites_descriptor() -> None:
    algorithm, task = started("dcrl_map_elites"), task_of()
    advance(algorithm, 3)
    asked = algorithm.ask()
    rows = torch.nonzero(asked.emitter == algorithm.emitters.index("actor"))[:, 0].tolist()
    targets = algorithm._plan(range(BATCH)).target
    assert len(rows) == 4
    assert isinstance(task.policy, Mlp)
    shape = conditioned(task.policy, 2)
    injected, actor = task.policy.population(1), shape.population(1)
    actor.load([0], algorithm.learner.td3.actor)
    for row in rows:
        stored = algorithm.archive.descriptors_of(algorithm.archive.occupied_cells).numpy()
        assert (stored == targets[row]).all(1).any()
        injected.load([0], asked.genomes[row : row + 1])
        for observation in torch.randn(5, 5, generator=torch.Generator().manual_seed(row)):
            seen = torch.cat([observation, torch.from_numpy(targets[row] / 10).float()])  # bounds are +-10 m
            torch.testing.assert_close(injected.act(observation[None]), actor.act(seen[None]), atol=1e-6, rtol=1e-5)


def test_the_replay_buffer_stores_target_and_reached_descriptors_of_each_row() -> None:
    algorithm, task = started("dcrl_map_elites"), task_of()
    advance(algorithm, 2)
    before, plan = len(algorithm.learner.shards[0]), algorithm._plan(range(BATCH))
    evaluation = task.evaluate(algorithm.ask())
    algorithm.tell(evaluation)
    assert evaluation.transitions is not None
    held = {name: column[before:] for name, column in algorithm.learner.shards[0].state_dict().items()}
    rows = evaluation.transitions.row.numpy()
    reached = np.clip(evaluation.descriptor.numpy() / 10, -1, 1)
    np.testing.assert_allclose(held["descriptor"], reached[rows], atol=1e-6)
    aimed = np.where(np.isnan(plan.target), evaluation.descriptor.numpy(), plan.target) / 10
    np.testing.assert_allclose(held["target_descriptor"], np.clip(aimed, -1, 1)[rows], atol=1e-6)
    free = np.isin(rows, np.flatnonzero(np.isnan(plan.target[:, 0])))
    assert np.array_equal(held["descriptor"][free], held["target_descriptor"][free])
    assert not np.array_equal(held["descriptor"][~free], held["target_descriptor"][~free])


def test_artificial_negatives_are_stored_in_addition_to_the_transitions_they_repeat() -> None:
    algorithm = started("dcg_map_elites", probe_rows=0, artificial_negatives=True)
    advance(algorithm)
    before = len(algorithm.learner.shards[0])
    advance(algorithm)
    held = {name: column[before:] for name, column in algorithm.learner.shards[0].state_dict().items()}
    half = len(held["reward"]) // 2
    assert half == BATCH * 20
    for name in ("observation", "action", "reward", "descriptor"):
        assert np.array_equal(held[name][:half], held[name][half:]), name
    own = algorithm._named(algorithm._dealt, "variation").repeat(20)
    assert np.array_equal(held["target_descriptor"][:half][own], held["descriptor"][:half][own])
    assert not (held["target_descriptor"][half:] == held["descriptor"][half:]).all(1).any()


def test_actors_alone_have_no_artificial_negatives() -> None:
    algorithm = started("dcrl_map_elites", gradient_rows=0, actor_rows=BATCH, artificial_negatives=True)
    advance(algorithm, 2)
    assert len(algorithm.learner.shards[0]) == 2 * BATCH * 20


def test_gradient_rows_have_a_higher_value_than_their_parents() -> None:
    algorithm = started("pga_map_elites", gradient={"steps": 4, "batch_size": 20, "learning_rate": 1e-3})
    advance(algorithm, 3)
    asked = algorithm.ask()
    rows = torch.nonzero(asked.emitter == algorithm.emitters.index("gradient"))[:, 0]
    parents = algorithm.archive.genomes_of(asked.parent_cell[rows])
    moved = (asked.genomes[:][rows] - parents).abs().amax(1)
    assert (moved > 1e-4).all()
    assert (moved < 4.5e-3).all()  # four steps of Adam at 1e-3


def test_probes_never_enter_the_archive_and_are_counted_separately() -> None:
    algorithm = started("dcg_map_elites")
    advance(algorithm)
    probe = algorithm.emitters.index("probe")
    for _ in range(3):
        counts = advance(algorithm)
        assert counts["actor_evaluations"] == 16
        assert counts["added_probe"] == counts["improved_probe"] == 0
    assert not (algorithm.archive.state_dict()["emitter"] == probe).any()


@pytest.mark.parametrize("name", NAMES)
def test_every_new_elite_is_counted_for_one_emitter(name: str) -> None:
    algorithm = started(name)
    for _ in range(4):
        before = len(algorithm.archive)
        counts = advance(algorithm)
        added = sum(value for key, value in counts.items() if key.startswith("added_"))
        assert added == len(algorithm.archive) - before


@pytest.mark.parametrize("name", NAMES)
def test_a_restored_algorithm_continues_with_the_same_bits(name: str) -> None:
    algorithm, other = started(name), started(name)
    advance(algorithm, 2)
    other.load_state_dict(algorithm.state_dict())
    other.archive.load_state_dict(algorithm.archive.state_dict())
    for _ in range(2):
        assert advance(algorithm) == advance(other)
        ours, theirs = algorithm.archive.state_dict(), other.archive.state_dict()
        assert all(np.array_equal(ours[column], theirs[column], equal_nan=True) for column in ours)


def test_a_repeated_generation_is_trained_on_once() -> None:
    algorithm, task = started("dcrl_map_elites"), task_of()
    advance(algorithm)
    evaluation, steps = task.evaluate(algorithm.ask()), algorithm.learner.td3.steps
    first = LOCAL.train(evaluation, partial(algorithm._train, evaluation))
    again = LOCAL.train(evaluation, partial(algorithm._train, evaluation))
    assert algorithm.learner.td3.steps == steps + 12
    assert all(np.array_equal(first[key], again[key], equal_nan=True) for key in first)


def test_a_rank_without_a_shard_cannot_replace_a_lost_learner() -> None:
    learner, heir, task = started("dcrl_map_elites"), started("dcrl_map_elites"), task_of()
    evaluation = task.evaluate(learner.ask())
    result = LOCAL.train(evaluation, partial(learner._train, evaluation))

    class TrainedElsewhere(LocalExchange):
        def train(self, evaluation: Evaluation, training: Training, shards: int = 1) -> TrainingResult:
            return dict(result)

    heir.tell(evaluation, TrainedElsewhere())
    with pytest.raises(UserError, match="a learner rank was lost"):
        heir.state_dict()  # without the replay buffer there is no checkpoint
    with pytest.raises(UserError, match="a learner rank was lost"):
        heir.tell(task.evaluate(heir.ask()))


def test_rewards_are_offset_and_clipped_for_conditioned_critics_only() -> None:
    for name, least in (("dcrl_map_elites", 0.0), ("pga_map_elites", -np.inf)):
        task = task_of("walker2d_uni")
        algorithm = started(name, task)
        evaluation = task.evaluate(algorithm.ask())
        algorithm.tell(evaluation)
        assert evaluation.transitions is not None
        offset = 1.413 if name == "dcrl_map_elites" else 0.0
        expected = (evaluation.transitions.reward + offset).clamp(min=least)
        np.testing.assert_allclose(
            algorithm.learner.shards[0].state_dict()["reward"].ravel(), expected.numpy(), rtol=1e-6
        )


def test_a_diverged_training_is_reported_and_undone() -> None:
    algorithm = started("dcrl_map_elites", critic={**SMALL["critic"], "reward_scale": 1e38})
    before = algorithm.learner.td3.state_dict()["critic"]
    counts = advance(algorithm)
    assert counts["diverged"] == 1
    assert np.array_equal(algorithm.learner.td3.state_dict()["critic"], before)
    assert len(algorithm.archive) > 0
    advance(algorithm)


def test_genomes_are_random_until_the_buffer_has_a_minibatch() -> None:
    algorithm = started("dcrl_map_elites", critic={**SMALL["critic"], "batch_size": 500})
    seen, reports = [], []
    for _ in range(3):
        seen.append(set(algorithm.ask().emitter.tolist()))
        reports.append(advance(algorithm))
    assert [emitters == {0} for emitters in seen] == [True, True, False]
    assert [report["critic_steps"] for report in reports] == [0, 12, 12]
    assert reports[0].keys() == reports[2].keys()  # each is a column of the history


def test_steps_that_are_not_finite_are_not_stored() -> None:
    algorithm, task = started("dcrl_map_elites"), task_of()
    evaluation = task.evaluate(algorithm.ask())
    assert evaluation.transitions is not None
    evaluation.transitions.observations[3, 1] = torch.inf  # observed before the fourth step and after the third
    evaluation.transitions.reward[7] = torch.nan
    evaluation.transitions.action[9, 0] = torch.nan
    algorithm.tell(evaluation)
    assert len(algorithm.learner.shards[0]) == len(evaluation.transitions) - 4


def test_a_genome_that_is_not_finite_is_a_failed_evaluation() -> None:
    task: Any = make_task("gym:Pendulum-v1", descriptor="tests.tasks.test_gym:last_place", axes=[UNIT] * 2)
    candidates = started("pga_map_elites", task).ask()
    candidates.genomes[3:4].fill_(torch.nan)
    evaluation = task.evaluate(candidates)
    assert evaluation.failed.tolist() == [row == 3 for row in range(BATCH)]
    assert evaluation.transitions is not None
    assert 3 not in evaluation.transitions.row


def test_gradient_rows_of_dcg_have_their_reached_descriptor_as_target() -> None:
    for name, differ in (("dcg_map_elites", False), ("dcrl_map_elites", True)):
        algorithm, task = started(name), task_of()
        advance(algorithm, 2)
        before, rows = len(algorithm.learner.shards[0]), np.repeat(algorithm._dealt, 20)
        algorithm.tell(task.evaluate(algorithm.ask()))
        held = {column: values[before:] for column, values in algorithm.learner.shards[0].state_dict().items()}
        gradient = rows == algorithm.emitters.index("gradient")
        same = (held["descriptor"] == held["target_descriptor"]).all(1)
        assert same[gradient].all() != differ


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"gradient_rows": 10, "actor_rows": 7}, r"gradient_rows \(10\) \+ actor_rows \(7\) must be at most"),
        ({"replay_capacity": 19}, r"replay_capacity \(19\) must hold a minibatch \(20\)"),
    ],
)
def test_invalid_settings_are_errors(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        started("dcrl_map_elites", **settings)


def test_flipped_negatives_of_unconditioned_critics_are_an_error() -> None:
    flipped: dict[str, Any] = {"critic": {**SMALL["critic"], "flipped_negatives": True}}
    with pytest.raises(
        UserError, match=r"^algorithm\.critic\.flipped_negatives: the critics of pga_map_elites .*remove"
    ):
        started("pga_map_elites", **flipped)
    started("dcg_map_elites", **flipped)


def test_tasks_without_policies_or_offset_are_errors() -> None:
    arm: Any = make_task("arm", parameters=3)
    with pytest.raises(UserError, match=r"dcrl_map_elites needs a task whose genomes are policies, not arm"):
        started("dcrl_map_elites", arm)
    axes = [{"name": "u", "lower": 0.0, "upper": 1.0}] * 2
    cart_pole: Any = make_task("gym:CartPole-v1", descriptor="tests.tasks.test_gym:last_place", axes=axes)
    with pytest.raises(UserError, match=r"pga_map_elites needs continuous actions, those of gym:CartPole-v1"):
        started("pga_map_elites", cart_pole)
    pendulum: Any = make_task("gym:Pendulum-v1", descriptor="tests.tasks.test_gym:last_place", axes=axes)
    with pytest.raises(UserError, match=r"algorithm.reward_offset: .*task 'gym:Pendulum-v1' states no offset, set one"):
        started("dcrl_map_elites", pendulum)
    started("dcrl_map_elites", pendulum, reward_offset=17.0)
    shifted: Any = make_task("walker2d_uni", episode_length=5, reward_offset=0.5, offset_in_fitness=True)
    with pytest.raises(UserError, match=r"algorithm.reward_offset: 4 would be added to rewards that contain 0.5"):
        started("pga_map_elites", shifted, reward_offset=4.0)
    started("pga_map_elites", pendulum)
