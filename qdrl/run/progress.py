"""Progress on stderr: a live bar on a terminal, otherwise one plain line an interval."""

import sys
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from math import isnan
from typing import Any

from qdrl.settings.run import RunSettings


class Progress:
    """Progress output of the first rank on stderr, once enabled.

    Args:
        budget: budgets and the interval between lines.
        live: a live bar; when left out, one is drawn for a single process on a terminal.
        alone: whether the run has a single process.
    """

    def __init__(self, budget: RunSettings, *, live: bool | None, alone: bool) -> None:
        self._budget = budget
        self._enabled = False
        self._live = alone and sys.stderr.isatty() if live is None else live
        self._bar: Any = None
        self._task: Any = None
        self._begun = self._last_line = time.monotonic()
        self._evaluations_before = 0.0
        self._done_before = 0.0

    def begin(self, history: Mapping[str, Sequence[float]]) -> None:
        """Start the clock; what the history holds was done before."""
        self._begun = time.monotonic()
        self._last_line = -float("inf")
        if history:
            latest = {name: values[-1] for name, values in history.items()}
            self._evaluations_before = latest["evaluations"]
            self._done_before = self._done(latest)

    def enable(self) -> None:
        """Start writing, with a bar where one is wanted."""
        self._enabled = True
        if self._live:
            from rich.console import Console
            from rich.progress import BarColumn, TextColumn
            from rich.progress import Progress as Bar

            self._bar = Bar(
                BarColumn(bar_width=24),
                TextColumn("{task.percentage:>3.0f}%  {task.description}"),
                console=Console(stderr=True),
            )
            self._task = self._bar.add_task("", total=1.0)
            self._bar.start()

    def end(self) -> None:
        """Remove the bar."""
        if self._bar is not None:
            self._bar.stop()

    def step(self, row: Mapping[str, float]) -> str | None:
        """Show a generation's row of history; return the line for the log when one is due, else None."""
        if not self._enabled:
            return None
        line = self._line(row)
        if self._bar is not None:
            self._bar.update(self._task, completed=min(1.0, self._done(row)), description=line)
        if time.monotonic() - self._last_line < self._budget.log_seconds:
            return None
        self._last_line = time.monotonic()
        if self._bar is None:
            self.say(line)
        return line

    def say(self, line: str) -> None:
        """Print a line."""
        if self._enabled:
            with suppress(OSError):  # a file on a full disk, a closed pipe
                sys.stderr.write(line + "\n")
                sys.stderr.flush()

    def _line(self, row: Mapping[str, float]) -> str:
        elapsed = max(time.monotonic() - self._begun, 1e-9)
        speed = (row["evaluations"] - self._evaluations_before) / elapsed
        filling = f"entries {row['elites']}" if isnan(row["coverage"]) else f"coverage {row['coverage']:.3f}"
        return (
            f"generation {row['generation']:.0f}  evaluations {row['evaluations']:.0f}  {speed:.0f}/s  "
            f"{filling}  QD score {row['qd_score']:.6g} ({row['fitness_sum']:.6g} without offset)  "
            f"best {row['max_fitness']:.5g}  failed {row['failed']:.0f}  left {self._time_left(row, elapsed)}"
        )

    def _time_left(self, row: Mapping[str, float], elapsed: float) -> str:
        done = self._done(row)
        gained = done - self._done_before
        if gained <= 0:
            return "?"
        seconds = round(elapsed * max(0.0, 1.0 - done) / gained)
        return f"{seconds // 3600}:{seconds // 60 % 60:02}:{seconds % 60:02}"

    def _done(self, row: Mapping[str, float]) -> float:
        """Return the spent fraction of the budget that is nearest to its end."""
        budget = self._budget
        parts = [
            (row["generation"] + 1) / budget.generations if budget.generations else 0.0,
            row["evaluations"] / budget.evaluations if budget.evaluations else 0.0,
            row["env_steps"] / budget.env_steps if budget.env_steps else 0.0,
            row["frames"] / budget.frames if budget.frames else 0.0,
            row["seconds"] / (60 * budget.minutes) if budget.minutes else 0.0,
            (time.monotonic() - self._begun) / (60 * budget.job_minutes) if budget.job_minutes else 0.0,
        ]
        return max(parts)
