"""Count the collectives of a generation: `mpirun -n 2 python -m tests.programs.collectives FOLDER`.

FOLDER holds a `config.toml`. It is run for 2 and for 6 generations; what the longer run calls more often belongs to 4
generations. `counts.json` gets the calls of one generation, by the name of the MPI function.
"""

import json
import sys
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from qdrl.config import load_experiment
from qdrl.parallel.mpi import MpiRanks
from qdrl.run.start import start

_BUDGETS = ("run.minutes=60", "run.job_minutes=60", "run.checkpoint_seconds=60")  # all flags, no save before the end
_LOCAL = {"Get_rank", "Get_size", "Get_group", "Get_name"}


class CountingCommunicator:
    """A communicator that counts the calls of its methods.

    Args:
        communicator: does the work.
        calls: counts by name of the method.
    """

    def __init__(self, communicator: Any, calls: Counter[str]) -> None:
        self._communicator = communicator
        self._calls = calls

    def __getattr__(self, name: str) -> Any:
        if name not in _LOCAL:
            self._calls[name] += 1
        return getattr(self._communicator, name)


def main(arguments: Sequence[str]) -> None:
    """Run the experiment twice and write the difference."""
    from mpi4py import MPI

    folder, counts = Path(arguments[0]), []
    for generations in (2, 6):
        calls: Counter[str] = Counter()
        ranks = MpiRanks(CountingCommunicator(MPI.COMM_WORLD, calls))
        experiment = load_experiment(folder / "config.toml", [f"run.generations={generations}", *_BUDGETS])
        start(experiment, ranks, folder=folder / f"{generations}", progress=False)
        counts.append(calls)
    difference = counts[1] - counts[0]
    if MPI.COMM_WORLD.Get_rank() == 0:
        (folder / "counts.json").write_text(json.dumps({name: calls / 4 for name, calls in difference.items()}))


if __name__ == "__main__":
    main(sys.argv[1:])
