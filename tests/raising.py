"""An algorithm of a user's that breaks on one rank."""

import os
import time
from pathlib import Path

from qdrl.algorithms.map_elites import MapElites
from qdrl.evaluation import Candidates


class RaisingOnRankOne(MapElites):
    """MAP-Elites whose second rank raises in the third generation and notes when."""

    def ask(self, rows: range | None = None) -> Candidates:
        if self.generation == 2 and os.environ["OMPI_COMM_WORLD_RANK"] == "1":
            Path(os.environ["QDRL_TEST_MOMENT"]).write_text(str(time.time()))
            raise RuntimeError("rank one breaks on purpose")
        return super().ask(rows)
