"""Users' algorithms that fail on one rank."""

import os
import signal
import time
from itertools import count
from pathlib import Path
from typing import Any

from qdrl.algorithms.dcrl_map_elites import DcrlMapElites
from qdrl.algorithms.map_elites import MapElites
from qdrl.evaluation import Candidates, Evaluation
from qdrl.parallel.exchange import LOCAL, Exchange
from qdrl.parallel.learners import Learners
from qdrl.report import figures


class RaisingOnRankOne(MapElites):
    """MAP-Elites whose second rank raises in the third generation and stores the time."""

    def ask(self, rows: range | None = None) -> Candidates:
        if self.generation == 2 and os.environ["OMPI_COMM_WORLD_RANK"] == "1":
            Path(os.environ["QDRL_TEST_MOMENT"]).write_text(str(time.time()))
            raise RuntimeError("rank one breaks on purpose")
        return super().ask(rows)


class DyingOnOneRank(MapElites):
    """MAP-Elites with a rank, chosen by an environment variable, that is killed in the third generation."""

    def ask(self, rows: range | None = None) -> Candidates:
        die_if_configured(self.generation)
        return super().ask(rows)


class _DyingInTheLastSave:
    """An algorithm whose first rank is killed after six generations, at a moment chosen by an environment variable.

    Moments: "collect" before the learners' state is collected, "write" before the files are written, "figures" before
    the first figure is drawn.
    """

    generation: int

    def collect_state(self) -> None:
        self._die_at("collect")
        super().collect_state()  # pyright: ignore[reportAttributeAccessIssue]

    def state_dict(self) -> dict[str, Any]:
        self._die_at("write")
        if self._is_last and os.environ.get("QDRL_TEST_DYING_MOMENT") == "figures":
            figures.save_figure = lambda *_: os.kill(os.getpid(), signal.SIGKILL)
        return super().state_dict()  # pyright: ignore[reportAttributeAccessIssue]

    @property
    def _is_last(self) -> bool:
        return self.generation == 6 and os.environ.get("OMPI_COMM_WORLD_RANK") == "0"

    def _die_at(self, moment: str) -> None:
        if self._is_last and os.environ.get("QDRL_TEST_DYING_MOMENT") == moment:
            os.kill(os.getpid(), signal.SIGKILL)


class MapElitesDyingInTheLastSave(_DyingInTheLastSave, MapElites):
    """MAP-Elites, whose state is on every rank."""


class DcrlDyingInTheLastSave(_DyingInTheLastSave, DcrlMapElites):
    """DCRL-MAP-Elites, whose replay buffer is on the first rank only."""


class DcrlDyingOnOneRank(DcrlMapElites):
    """DCRL-MAP-Elites with a rank that is killed, possibly in the middle of a training phase."""

    def ask(self, rows: range | None = None) -> Candidates:
        die_if_configured(self.generation)
        return super().ask(rows)

    def tell(self, evaluation: Evaluation, exchange: Exchange = LOCAL) -> dict[str, float]:
        gradient, generation = self.learner.td3._critic_sum, self.generation
        reduce, steps = gradient.reduce, count()

        def reduce_or_die(learners: Learners) -> None:
            if next(steps) == 7:
                die_if_configured(generation, "train")
            reduce(learners)

        gradient.reduce = reduce_or_die
        try:
            return super().tell(evaluation, exchange)
        finally:
            gradient.reduce = reduce


def die_if_configured(generation: int, moment: str = "ask") -> None:
    if moment != os.environ.get("QDRL_TEST_DYING_MOMENT", "ask"):
        return
    if generation == 2 and os.environ.get("OMPI_COMM_WORLD_RANK") == os.environ.get("QDRL_TEST_DYING_RANK", "none"):
        os.kill(os.getpid(), signal.SIGKILL)
