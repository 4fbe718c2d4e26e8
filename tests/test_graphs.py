"""Work that is replayed is the work that is done step by step, in whole generations on Warp's CPU device."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from numpy.testing import assert_equal

from qdrl.config import load_experiment
from qdrl.critics.chunks import ChunkGraphs
from qdrl.run import build
from tests.recorded import RecordedWork, record, without_numpy

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
