"""Work that is replayed is the work that is done step by step, in whole generations on Warp's CPU device."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.testing import assert_equal

from qdrl.config import load_experiment
from qdrl.critics import td3
from qdrl.critics.chunks import ChunkGraphs
from qdrl.critics.injection import conditioned
from qdrl.critics.replay import Replay
from qdrl.critics.settings import Td3Settings
from qdrl.parallel.learners import OneLearner
from qdrl.policies.mlp import Mlp, MlpSettings
from qdrl.run.start import build
from tests.critics.builders import transitions
from tests.helpers.recorded import RecordedWork, WatchedAside, record, without_numpy

CONFIG = """
name = "graphs"
seed = 5
[task]
name = "{task}"
episode_length = 5
[policy]
hidden_sizes = [8]
normalize_observations = {normalize}
[archive]
cells = 32
samples = 500
[algorithm]
name = "{algorithm}"
batch_size = 8
gradient_rows = 3
actor_rows = {rows}
replay_capacity = 300
critic = {{ steps = 205, hidden_sizes = [8], batch_size = 10 }}
gradient = {{ steps = 4, batch_size = 10 }}
[run]
generations = 4
[compute]
device = "warp-cpu"
worlds = 4
"""


def outcome(config: Path, generations: int) -> dict[str, Any]:
    """What is known after so many generations, as a GPU would take them."""
    parts = build(load_experiment(config))
    algorithm: Any = parts.algorithm
    algorithm.learner.td3._graphs = ChunkGraphs(torch.device("cpu"))
    algorithm._gradient._at_once = None
    for _ in range(generations):
        evaluation = parts.task.evaluate(algorithm.ask())
        algorithm.tell(evaluation)
        parts.task.update(evaluation)
    return {"archive": algorithm.archive.state_dict(), "td3": algorithm.learner.td3.state_dict()}


@pytest.mark.parametrize(
    ("task", "algorithm", "normalize"),
    [("walker2d_uni", "dcrl_map_elites", True), ("ant_omni", "pga_map_elites", False)],
)
def test_a_run_whose_steps_are_replayed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, task: str, algorithm: str, normalize: bool
) -> None:
    config = tmp_path / "config.toml"
    rows = 3 if algorithm == "dcrl_map_elites" else 1
    config.write_text(CONFIG.format(rows=rows, task=task, algorithm=algorithm, normalize=str(normalize).lower()))
    without_numpy(monkeypatch)
    expected = outcome(config, 4)
    record(monkeypatch)
    found = outcome(config, 4)
    assert RecordedWork.captures > 4
    assert_equal(found, expected)


def test_a_recording_does_what_a_graph_would() -> None:
    """And nothing else: a name that Python binds anew, or a number that it works out, stays that of the capture."""
    state, kept, count = torch.zeros(2), torch.zeros(2), 0

    def work() -> None:
        nonlocal count
        count += 1
        state.add_(1)
        kept.copy_(state * 10 + count)

    replayed = RecordedWork(work, torch.device("cpu"))
    seen = []
    for _ in range(4):
        replayed()
        seen.append(kept.tolist()[0])
    assert seen == [11, 22, 32, 42]


@pytest.mark.parametrize("ask", [torch.Tensor.item, torch.nonzero, lambda flag: flag[flag > 0]])
def test_a_recording_refuses_what_waits_for_the_device(ask: Callable[[torch.Tensor], object]) -> None:
    flag = torch.ones(())
    replayed = RecordedWork(lambda: ask(flag), torch.device("cpu"))
    replayed()
    with pytest.raises(RuntimeError, match="waits for its device"):
        replayed()


@pytest.mark.parametrize("order", ["code", "paper"])
@pytest.mark.parametrize("shards", [1, 2])
def test_what_critics_do_side_by_side_does_not_meet(monkeypatch: pytest.MonkeyPatch, order: Any, shards: int) -> None:
    without_numpy(monkeypatch)
    monkeypatch.setattr(td3, "Aside", WatchedAside)
    monkeypatch.setattr(WatchedAside, "joins", 0)
    settings = Td3Settings(batch_size=20, hidden_sizes=(24, 24), order=order)
    trained = td3.Td3(
        conditioned(Mlp(7, 3, MlpSettings(hidden_sizes=(16,))), 2), 2, settings, np.random.default_rng(0), shards=shards
    )
    replays = [Replay(60, 7, 3, 2) for _ in range(shards)]
    for replay in replays:
        replay.add(transitions(50, 7, 3, 2))
    trained.train_on(replays, [np.random.default_rng(1) for _ in replays], OneLearner(shards), 8)
    assert WatchedAside.joins == 8 * shards + (4 if order == "code" else 0)


def test_work_aside_that_meets_what_is_done_meanwhile_is_seen() -> None:
    aside, one, other = WatchedAside(torch.device("cpu")), torch.zeros(3), torch.zeros(3)
    with aside:
        one.add_(other)
    other[:1].add_(1)
    with pytest.raises(AssertionError):
        aside.join()
    with aside:
        one.add_(1)
    other.add_(1)
    aside.join()
