"""The learner group: real MPI processes compared with one process that holds all shards."""

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from qdrl.parallel.learners import OneLearner, block
from tests.helpers.processes import mpirun
from tests.programs.ranks import LENGTHS, SHARDS, shard_of


@given(count=st.integers(0, 50), blocks=st.integers(1, 60))
def test_blocks_are_even_and_leave_nothing_out(count: int, blocks: int) -> None:
    found = [block(index, blocks, count) for index in range(blocks)]
    assert [thing for one in found for thing in one] == list(range(count))
    assert max(map(len, found)) - min(map(len, found)) <= 1


@pytest.mark.mpi
@pytest.mark.parametrize("ranks", [2, 4, *(pytest.param(count, marks=pytest.mark.slow) for count in (1, 3))])
def test_a_group_has_the_bits_of_one_process_that_holds_all_shards(tmp_path: Path, ranks: int) -> None:
    done = mpirun(ranks, ["-m", "tests.programs.ranks", "learn", tmp_path])
    assert done.returncode == 0, done.stderr
    seen = []
    for rank in range(ranks):
        with np.load(tmp_path / f"{rank}.npz") as file:
            seen.append(dict(file))
    for count in SHARDS:
        assert np.concatenate([one[f"{count}/held"] for one in seen]).tolist() == list(range(count))
        assert all(len(one[f"{count}/held"]) for one in seen)
        for length in LENGTHS:
            parts, total = torch.stack([shard_of(k, length) for k in range(count)]), torch.full((length,), torch.nan)
            OneLearner(count).sum(parts, total)
            torch.testing.assert_close(total, parts.sum(0))
            for one in seen:
                assert one[f"{count}/{length}/sum"].tobytes() == total.numpy().tobytes()
                assert one[f"{count}/{length}/join"].tobytes() == parts.numpy().tobytes()
        for shard in range(count):
            assert seen[0][f"{count}/collected/{shard}/a"].tobytes() == shard_of(shard, shard).numpy().tobytes()
            assert np.array_equal(seen[0][f"{count}/collected/{shard}/b"], np.full((2, shard), shard))
