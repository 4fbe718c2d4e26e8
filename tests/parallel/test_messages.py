"""Messages of transitions between ranks, exchanged here without MPI."""

import numpy as np
import pytest
import torch

from qdrl.evaluation import Transitions
from qdrl.parallel.learners import block
from qdrl.parallel.messages import BLOCK_BYTES, TransitionMessages

ROWS = 12


def episodes(lengths: list[int]) -> Transitions:
    """Return random transitions of episodes of these lengths; row r has `lengths[r]` steps."""
    draw, steps = np.random.default_rng(0), torch.tensor(lengths)
    row = torch.repeat_interleave(torch.arange(len(lengths)), steps)
    count, before = len(row), torch.cumsum(steps > 0, 0) - (steps > 0).long()

    def numbers(*shape: int) -> torch.Tensor:
        return torch.from_numpy(draw.standard_normal(shape, np.float32))

    return Transitions(
        row=row,
        observations=numbers(count + int((steps > 0).sum()), 30),
        index=torch.arange(count) + before[row],
        action=numbers(count, 3),
        reward=numbers(count),
        terminated=torch.from_numpy(draw.random(count) < 0.5),
        truncated=torch.from_numpy(draw.random(count) < 0.5),
    )


@pytest.mark.parametrize("lengths", [[40] * ROWS, [1, 50, 0, 7] * 3, [0] * 8 + [3] * 4, [0] * ROWS])
@pytest.mark.parametrize(("ranks", "shards"), [(1, 1), (2, 1), (2, 2), (3, 2), (3, 4), (4, 7)])
def test_each_learner_receives_the_transitions_of_its_shards(lengths: list[int], ranks: int, shards: int) -> None:
    whole, learners = episodes(lengths), min(ranks, shards)
    held = [block(rank, learners, shards) if rank < learners else range(0) for rank in range(ranks)]
    own = [whole.within(block(rank, ranks, ROWS)) for rank in range(ranks)]
    parts = [[mine.within(block(shard, shards, ROWS)) for shard in range(shards)] for mine in own]
    sizes = [[(len(part), len(part.observations)) for part in of_rank] for of_rank in parts]
    messages = [TransitionMessages(parts[rank][0], sizes, held, rank) for rank in range(ranks)]
    sent = [np.split(messages[rank].pack(parts[rank]), np.cumsum(messages[rank].sent)[:-1]) for rank in range(ranks)]
    assert all(len(sent[rank][rank]) == 0 for rank in range(ranks))
    for rank in range(ranks):
        arriving = [sent[source][rank] for source in range(ranks)]
        assert [len(message) for message in arriving] == messages[rank].received.tolist()
        found = messages[rank].join(parts[rank], np.concatenate(arriving).reshape(-1, BLOCK_BYTES))
        assert len(found) == len(held[rank])
        for shard, transitions in zip(held[rank], found, strict=True):
            expected = whole.within(block(shard, shards, ROWS))
            for name, column in vars(expected).items():
                assert torch.equal(getattr(transitions, name), column), name
