"""CUDA graphs compute what direct calls do: whole generations with recorded graphs on Warp's CPU device."""

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
from qdrl.critics.fast import losses
from qdrl.critics.injection import conditioned
from qdrl.critics.replay_buffer import ReplayBuffer
from qdrl.critics.settings import Td3Settings
from qdrl.parallel.learners import OneLearner
from qdrl.policies.mlp import Mlp, MlpSettings
from qdrl.run.build import build
from tests.critics.builders import transitions
from tests.helpers.recorded import RecordedCall, WatchedSideStream, record, without_numpy

CONFIG = """
name = "graphs"
seed = 5
[task]
name = "{task}"
episode_length = 3
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
critic = {{ steps = 105, hidden_sizes = [8], batch_size = 10 }}
gradient = {{ steps = 4, batch_size = 10 }}
[run]
generations = 3
[compute]
device = "warp-cpu"
worlds = 8
"""


def state_after(config: Path, generations: int) -> dict[str, Any]:
    """Return archive and critics after some generations, computed in chunks and batches as on a GPU."""
    parts = build(load_experiment(config))
    algorithm: Any = parts.algorithm
    algorithm.learner.td3._graphs = ChunkGraphs(torch.device("cpu"))
    algorithm._gradient._rows_at_once = None
    for _ in range(generations):
        evaluation = parts.task.evaluate(algorithm.ask())
        algorithm.tell(evaluation)
        parts.task.update(evaluation)
    return {"archive": algorithm.archive.state_dict(), "td3": algorithm.learner.td3.state_dict()}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("task", "algorithm", "normalize"),
    [
        ("walker2d_uni", "dcrl_map_elites", True),
        ("ant_omni", "pga_map_elites", False),
    ],
)
def test_graphed_calls_leave_a_run_unchanged(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, task: str, algorithm: str, normalize: bool
) -> None:
    config = tmp_path / "config.toml"
    rows = 3 if algorithm == "dcrl_map_elites" else 1
    config.write_text(CONFIG.format(rows=rows, task=task, algorithm=algorithm, normalize=str(normalize).lower()))
    without_numpy(monkeypatch)
    expected = state_after(config, 3)
    record(monkeypatch)
    found = state_after(config, 3)
    assert RecordedCall.captures > 4
    assert_equal(found, expected)


def test_a_recording_behaves_like_a_graph() -> None:
    """Python variables and numbers keep their values of the capture."""
    state, kept, count = torch.zeros(2), torch.zeros(2), 0

    def work() -> None:
        nonlocal count
        count += 1
        state.add_(1)
        kept.copy_(state * 10 + count)

    graphed = RecordedCall(work, torch.device("cpu"))
    seen = []
    for _ in range(4):
        graphed()
        seen.append(kept.tolist()[0])
    assert seen == [11, 22, 32, 42]


@pytest.mark.parametrize("ask", [torch.Tensor.item, torch.nonzero, lambda flag: flag[flag > 0]])
def test_a_recording_rejects_synchronisation_with_the_device(ask: Callable[[torch.Tensor], object]) -> None:
    flag = torch.ones(())
    graphed = RecordedCall(lambda: ask(flag), torch.device("cpu"))
    graphed()
    with pytest.raises(RuntimeError, match="synchronises with its device"):
        graphed()


@pytest.mark.parametrize("order", ["code", "paper"])
@pytest.mark.parametrize("shards", [1, 2])
def test_side_streams_share_no_written_memory(monkeypatch: pytest.MonkeyPatch, order: Any, shards: int) -> None:
    without_numpy(monkeypatch)
    for module in (td3, losses):
        monkeypatch.setattr(module, "SideStream", WatchedSideStream)
    monkeypatch.setattr(WatchedSideStream, "joins", 0)
    settings = Td3Settings(batch_size=20, hidden_sizes=(24, 24), order=order)
    trained = td3.Td3(
        conditioned(Mlp(7, 3, MlpSettings(hidden_sizes=(16,))), 2), 2, settings, np.random.default_rng(0), shards=shards
    )
    replays = [ReplayBuffer(60, 7, 3, 2) for _ in range(shards)]
    for replay in replays:
        replay.add(transitions(50, 7, 3, 2))
    trained.train_shards(replays, [np.random.default_rng(1) for _ in replays], OneLearner(shards), 8)
    assert WatchedSideStream.joins == 8 * shards + (4 if order == "code" else 0)


def test_overlapping_writes_of_a_side_stream_are_detected() -> None:
    side_stream, one, other = WatchedSideStream(torch.device("cpu")), torch.zeros(3), torch.zeros(3)
    with side_stream:
        one.add_(other)
    other[:1].add_(1)
    with pytest.raises(AssertionError):
        side_stream.join()
    with side_stream:
        one.add_(1)
    other.add_(1)
    side_stream.join()
