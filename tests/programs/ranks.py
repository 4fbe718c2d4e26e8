"""Programs of the ranks of `test_ranks.py`: `mpirun -n 3 python -m tests.programs.ranks exchange <folder>`."""

import os
import signal
import sys
import threading
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch

from qdrl.evaluation import Candidates, Evaluation, ObservationMoments, evaluated
from qdrl.parallel.ranks import Ranks, connect, repeat_after_losses
from tests.programs.ending import aborting_all_ranks

PARAMETERS = 5
COUNTS = (0, 1, 2, 3, 7, 64)


def evaluation_of(rows: range, *, moments: bool) -> Evaluation:
    """Return an evaluation of these rows; each value depends only on its row, and every third row failed."""
    row = torch.arange(rows.start, rows.stop)
    x = row.double()
    candidates = Candidates(
        generation=4,
        rows=rows,
        genomes=torch.sin(x[:, None] * 7 + torch.arange(PARAMETERS)).float(),
        seeds=row * 2**55 + 3,  # not exactly representable in float64
        emitter=row % 2,
        parent_cell=row - 1,
    )
    observations = ObservationMoments(
        count=row + 10,
        mean=torch.cos(x[:, None] + torch.arange(3)),
        deviation=torch.exp(x[:, None] / 9) + torch.arange(3),
    )
    return evaluated(
        candidates,
        fitness=torch.sqrt(x),
        descriptor=torch.stack([torch.tanh(x), -x / 3], dim=1),
        steps=row * 1000,
        failed=row % 3 == 1,
        observations=observations if moments else None,
    )


def requested_rows(count: int) -> dict[str, torch.Tensor]:
    """Return rows whose genomes are requested: ascending ones, reversed ones and repeated ones."""
    everything = torch.arange(count)
    return {
        "all": everything,
        "none": everything[:0],
        "odd": everything[1::2],
        "last": everything[-1:],
        "back": everything.flip(0),
        "twice": everything.repeat_interleave(2),
    }


def exchange(ranks: Ranks, folder: Path) -> None:
    """Save the evaluations, genomes, blocks of rows and flags that this rank has after sharing, for every row count."""
    seen: dict[str, np.ndarray] = {}
    for count in COUNTS:
        for moments in (False, True):
            shared = ranks.share(evaluation_of(ranks.rows(count), moments=moments), count)
            seen |= {f"{count}/{moments}/{name}": column.numpy() for name, column in shared.columns().items()}
            seen[f"{count}/{moments}/rows"] = np.array(shared.rows, np.int64)
            for name, rows in requested_rows(count).items():
                seen[f"{count}/{moments}/genomes of {name}"] = ranks.exchange.genomes(shared, rows).numpy()
    np.savez(folder / f"{ranks.rank}.npz", **seen)  # pyright: ignore[reportArgumentType]
    blocks = [list(ranks.rows(count)) for count in range(20)]
    anyone = [ranks.any(ranks.rank == k) for k in range(ranks.size)]
    result = ranks.rank, ranks.size, ranks.first, blocks, ranks.any(False), anyone, ranks.from_first(ranks.rank + 100)
    (folder / f"{ranks.rank}.txt").write_text(repr(result))


SHARDS = (4, 5, 9)
LENGTHS = (1, 3, 1000, 1024, 5001)


def shard_of(shard: int, length: int) -> torch.Tensor:
    """Return numbers whose sum over shards depends on the order of addition in its last bits."""
    return torch.sin(torch.arange(length) * 7.3 + shard * 0.9) * 10.0 ** (shard % 3)


def learn(ranks: Ranks, folder: Path) -> None:
    """Save the results of adding, joining and collecting in this process of a learner group."""
    from mpi4py import MPI

    from qdrl.parallel.learners import MpiLearners

    seen: dict[str, np.ndarray] = {}
    for count in SHARDS:
        learners = MpiLearners(MPI.COMM_WORLD, count)
        seen[f"{count}/held"] = np.array(learners.shards, np.int64)
        for length in LENGTHS * 2:  # the second time with existing buffers
            parts, total = torch.stack([shard_of(k, length) for k in learners.shards]), torch.full((length,), torch.nan)
            learners.sum(parts, total)
            seen[f"{count}/{length}/sum"] = total.numpy().copy()
            seen[f"{count}/{length}/join"] = learners.join(parts).numpy()
        states = [{"a": shard_of(k, k).numpy(), "b": np.full((2, k), k)} for k in learners.shards]
        collected = learners.collect(states)
        assert (collected is None) == (ranks.rank > 0)
        for shard, state in enumerate(collected or ()):
            seen |= {f"{count}/collected/{shard}/{name}": array for name, array in state.items()}
    np.savez(folder / f"{ranks.rank}.npz", **seen)  # pyright: ignore[reportArgumentType]


def fail(ranks: Ranks, folder: Path) -> None:
    """Fail on rank 1 while the others wait for it."""
    if ranks.rank == 1:
        time.sleep(0.5)
        (folder / "failed_at").write_text(repr(time.time()))
        raise ArithmeticError("the physics of rank one broke")
    ranks.any(False)
    (folder / f"{ranks.rank} went on").touch()


def leave(ranks: Ranks, folder: Path) -> None:
    """Exit with a code, except for the last rank, which is killed."""
    if ranks.rank == ranks.size - 1:
        os.kill(os.getpid(), signal.SIGKILL)
    if ranks.first:
        sys.stdout.write("left\n")
    ranks.leave(75)


def share_memory(ranks: Ranks, folder: Path) -> None:
    """Fill a shared table while the rank that fills it is killed, and later a rank that waits for it."""
    for dying in (0, 1):

        def fill(numbers: np.ndarray, dying: int = dying) -> None:
            if dying == 0 and ranks.size == 4:
                os.kill(os.getpid(), signal.SIGKILL)
            time.sleep(0.5)
            numbers[:] = np.arange(len(numbers))

        if dying == 1 and ranks.rank == 1:
            threading.Timer(0.2, os.kill, (os.getpid(), signal.SIGKILL)).start()
        table = repeat_after_losses(lambda fill=fill: ranks.shared(100_000, fill), lambda _: None)
        assert (table == np.arange(100_000)).all()
    (folder / f"{ranks.rank} of {ranks.size}").touch()
    ranks.leave()


PROGRAMS = {"exchange": exchange, "learn": learn, "fail": fail, "leave": leave, "share_memory": share_memory}


def main(arguments: Sequence[str]) -> None:
    """Run one program; an exception ends all ranks."""
    program, folder = arguments
    with aborting_all_ranks():
        PROGRAMS[program](connect(), Path(folder))


if __name__ == "__main__":
    main(sys.argv[1:])
