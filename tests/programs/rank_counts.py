"""Run every experiment of a folder on 1 to 4 ranks: `mpirun -n 4 python -m tests.programs.rank_counts split FOLDER`.

Each subfolder of FOLDER holds a `config.toml`. `alone` runs it in one process without MPI, into `alone`. `split` runs
it in groups of ranks, into `1` to `4`, and resumes the run in `killed` on three ranks. One job starts MPI once for all.
"""

import sys
from collections.abc import Sequence
from pathlib import Path

from qdrl.config import load_experiment
from qdrl.parallel.ranks import Ranks, connect
from qdrl.run.resume import resume
from qdrl.run.start import start
from tests.programs.ending import aborting_all_ranks


def _evolve(ranks: Ranks, folders: Sequence[Path], name: str) -> None:
    """Run each folder's experiment, saved only at its end, into a subfolder of that name. Collective."""
    for folder in folders:
        experiment = load_experiment(folder / "config.toml", ["run.checkpoint_seconds=60"])
        start(experiment, ranks, folder=folder / name, progress=False)


def _alone(ranks: Ranks, folders: Sequence[Path]) -> None:
    _evolve(ranks, folders, "alone")


def _split(ranks: Ranks, folders: Sequence[Path]) -> None:
    """Use all four ranks; then three and one; then two groups of two, each with half of the experiments."""
    from mpi4py import MPI

    from qdrl.parallel.mpi import MpiRanks

    _evolve(ranks, folders, "4")
    group = MpiRanks(MPI.COMM_WORLD.Split(ranks.rank == 3))
    _evolve(group, folders, str(group.size))
    if group.size == 3:
        for folder in folders:
            resume(folder / "killed", group, progress=False)
    second = ranks.rank >= 2
    _evolve(MpiRanks(MPI.COMM_WORLD.Split(second)), folders[second::2], "2")


def main(arguments: Sequence[str]) -> None:
    """Run one program; an exception ends all ranks."""
    program, folder = arguments
    folders = sorted(path.parent for path in Path(folder).glob("*/config.toml"))
    with aborting_all_ranks():
        {"alone": _alone, "split": _split}[program](connect(), folders)


if __name__ == "__main__":
    main(sys.argv[1:])
