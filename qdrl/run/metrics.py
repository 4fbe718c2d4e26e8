"""metrics.csv: the history as text, one row for each generation, to watch a run."""

import csv
import io
from collections.abc import Callable
from pathlib import Path

from qdrl.archives.atomic import reason_of, write_text
from qdrl.run.history import History


class MetricsFile:
    """A CSV file that follows a history; rows that could not be written are written later.

    Args:
        path: the file.
        warn: called with one line when rows cannot be written for the first time.
    """

    def __init__(self, path: Path, warn: Callable[[str], None]) -> None:
        self._path = path
        self._warn = warn
        self._behind = True  # the file does not hold the history's rows
        self._warned = False

    def follow(self, history: History, *, rewrite: bool = False) -> None:
        """Write the history's last row, or every row where the file lacks more.

        Args:
            history: the rows that the file shall hold.
            rewrite: whether rows or columns in the file may differ from the history.
        """
        try:
            if rewrite or self._behind or len(history) < 2:
                self._behind = True
                self._write(history)
            else:
                self._behind = True
                self._append(history)
            self._behind = False
        except OSError as error:
            if not self._warned:
                self._warn(f"cannot write {self._path}: {reason_of(error)}; its missing rows are written later")
            self._warned = True

    def _write(self, history: History) -> None:
        text = io.StringIO()
        if history.columns:
            writer = csv.writer(text)
            writer.writerow(history.columns)
            writer.writerows(zip(*history.columns.values(), strict=True))
        write_text(self._path, text.getvalue())

    def _append(self, history: History) -> None:
        with self._path.open("a", newline="", encoding="utf-8") as file:
            csv.writer(file).writerow(history.last_row())
