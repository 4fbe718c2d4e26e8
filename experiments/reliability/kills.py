"""Kill runs at random moments, resume them, and compare their archives with those of uninterrupted runs.

    python experiments/reliability/kills.py --kills 150

Every kill is one row of results/kills.csv. An interrupted campaign continues when it is started with the same seed.
"""

import argparse
import csv
import json
import random
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from functools import partial
from pathlib import Path

from qdrl.parallel.launcher import limit_threads

limit_threads()

from click.testing import CliRunner
from jobs import Job, forked, qdrl
from small_runs import EXPERIMENTS, GENERATIONS, settings

from qdrl.cli import qdrl as command_line
from qdrl.config import parse_experiment
from qdrl.parallel.ranks import OneProcess
from qdrl.run.resume import resume
from qdrl.run.start import start

RESULTS = Path(__file__).parent / "results" / "kills.csv"
RANKS = 3
ULFM = ("--with-ft", "ulfm")
# By launch mode: share of the kills, and the phases in which they happen.
MODES = {
    "process": (0.34, ("start", "generations", "generations", "write", "last save")),
    "forked process": (0.26, ("generations", "write", "last save")),
    "mpirun": (0.12, ("start", "generations", "last save")),
    "mpirun, ULFM": (0.28, ("start", "generations", "write", "last save", "figures")),
}
VICTIMS = ((0,), (0,), (0,), (1,), (2,), (0, 1), (1, 2), ())
"""Ranks to kill together; an empty tuple means mpirun itself."""


@dataclass
class Kill:
    """A planned kill and its outcome.

    Attributes:
        number: position in the plan.
        mode: how the run is started, a key of `MODES`.
        experiment: a key of `EXPERIMENTS`.
        moment: phase of the run in which to kill.
        victims: ranks to kill; none for the process or mpirun itself.
        delay: position in the phase, drawn uniformly from [0, 1).
        row: metrics rows before a kill in the phases "generations" and "write".
    """

    number: int
    mode: str
    experiment: str
    moment: str
    victims: tuple[int, ...]
    delay: float
    row: int
    utc: str = ""
    exit_code: int | None = None
    ended: str = ""
    seconds: float = 0.0
    verdict: str = ""
    notes: list[str] = field(default_factory=list)


def plan(seed: int) -> Iterator[Kill]:
    """Yield an endless sequence of kills, determined by the seed."""
    draw = random.Random(seed)
    number = 0
    while True:
        mode = draw.choices(list(MODES), [share for share, _ in MODES.values()])[0]
        victims = draw.choice(VICTIMS) if mode == "mpirun, ULFM" else ()
        if mode == "mpirun":
            victims = draw.choice(((), (0,), (1,), (2,)))
        moment = draw.choice(MODES[mode][1])
        experiment = draw.choice(list(EXPERIMENTS))
        yield Kill(number, mode, experiment, moment, victims, draw.random(), draw.randrange(1, GENERATIONS))
        number += 1


class Campaign:
    """Runs of the experiments in a temporary folder, and the digests of uninterrupted runs.

    Args:
        folder: holds the run folders.
        limit: seconds after which a job counts as hanging.
    """

    def __init__(self, folder: Path, limit: float) -> None:
        self._folder, self._limit = folder, limit
        self._digests: dict[str, str] = {}
        self._start_seconds = dict.fromkeys(MODES, 5.0)  # from launch to first generation, as measured last

    def run(self, kill: Kill) -> bool:
        """Start, kill, resume and compare; return False when the run ended before the kill."""
        expected = self._digest_of(kill.experiment)
        folder, began = self._folder / str(kill.number), time.monotonic()
        kill.utc = datetime.now(UTC).isoformat(timespec="seconds")
        job = self._job(kill, folder)
        self._wait(kill, job, folder, began)
        if not job.kill(kill.victims):
            job.end(self._limit)
            return False
        kill.exit_code = job.end(self._limit)
        hung = kill.exit_code is None
        kill.ended = self._finish(kill, folder) if not hung else "hung"
        kill.seconds = round(time.monotonic() - began, 1)
        kill.verdict = "HANG" if hung else self._verdict(kill, folder, expected)
        return True

    def _job(self, kill: Kill, folder: Path) -> Job:
        config, output = self._config(kill.experiment), self._output(kill)
        if kill.mode == "forked process":
            return forked(partial(_start, kill.experiment, folder), output)
        arguments = ["evolve", config, "--output", folder]
        if kill.mode == "process":
            return qdrl(arguments, output)
        return qdrl(arguments, output, ranks=RANKS, options=ULFM if kill.mode == "mpirun, ULFM" else ())

    def _wait(self, kill: Kill, job: Job, folder: Path, began: float) -> None:
        """Wait for the moment of the kill, or for the end of the job."""
        if kill.moment == "start":
            time.sleep(kill.delay * self._start_seconds[kill.mode])
            while job.ranks and len(job.rank_processes()) < job.ranks and time.monotonic() < began + 5:
                time.sleep(0.01)
            return
        self._until(job, lambda: _rows(folder) > 0)
        self._start_seconds[kill.mode] = time.monotonic() - began
        rows = kill.row if kill.moment in ("generations", "write") else GENERATIONS
        self._until(job, lambda: _rows(folder) >= rows)
        if kill.moment == "write":
            self._until(job, lambda: (folder / ".checkpoint.h5.tmp").exists() or (folder / ".archive.h5.tmp").exists())
            time.sleep(0.01 * kill.delay)
        elif kill.moment == "figures":
            self._until(job, lambda: not (folder / ".lock").exists())
            time.sleep(0.5 * kill.delay)
        else:
            time.sleep(0.1 * kill.delay)

    def _until(self, job: Job, condition: Callable[[], bool]) -> None:
        """Wait until the condition holds, the job has ended or the time limit is reached."""
        deadline = time.monotonic() + self._limit
        while not condition() and job.process.poll() is None and time.monotonic() < deadline:
            time.sleep(0.001)

    def _finish(self, kill: Kill, folder: Path) -> str:
        """Resume or restart the run if it did not finish; return how it was finished."""
        if kill.exit_code == 0 and kill.mode == "mpirun, ULFM" and _rows(folder) == GENERATIONS:
            return "survived"
        output = self._output(kill)
        if not (folder / "checkpoint.h5").exists():
            folder = folder.rename(f"{folder} empty") if folder.exists() else folder
            job = forked(partial(_start, kill.experiment, self._folder / str(kill.number)), output)
            way = "started again"
        elif kill.number % 5 == 0:
            job, way = qdrl(["resume", folder], output), "resumed in a new process"
        elif kill.number % 5 == 1 and kill.mode != "forked process":
            job, way = qdrl(["resume", folder], output, ranks=2), "resumed on 2 ranks"
        else:
            job, way = forked(partial(resume, folder, OneProcess(), progress=False), output), "resumed"
        if (code := job.end(self._limit)) != 0:
            kill.notes.append(f"{way}: {'hung' if code is None else f'exit code {code}'}")
        return way

    def _verdict(self, kill: Kill, folder: Path, expected: str) -> str:
        if kill.notes:
            return "FAILED"
        left = [path.name for path in folder.iterdir() if path.name.endswith((".tmp", ".lock"))]
        if left:
            kill.notes.append(f"left: {' '.join(left)}")
            return "UNTIDY"
        return "identical" if _digest(folder / "archive.h5") == expected else "DIFFERENT"

    def _digest_of(self, experiment: str) -> str:
        """Return the archive digest of an uninterrupted run."""
        if experiment not in self._digests:
            folder = self._folder / experiment
            if forked(partial(_start, experiment, folder), self._folder / "reference.txt").end(self._limit) != 0:
                raise SystemExit(f"{experiment} does not run; see {self._folder / 'reference.txt'}")
            self._digests[experiment] = _digest(folder / "archive.h5")
        return self._digests[experiment]

    def _config(self, experiment: str) -> Path:
        return self._folder / experiment / "config.toml"  # written by the uninterrupted run

    def _output(self, kill: Kill) -> Path:
        return self._folder / f"{kill.number}.txt"


def _start(experiment: str, folder: Path) -> None:
    start(parse_experiment(settings(experiment)), OneProcess(), folder=folder, progress=False)


def _rows(folder: Path) -> int:
    """Return the number of generations that a run has recorded."""
    try:
        return max(0, (folder / "metrics.csv").read_bytes().count(b"\n") - 1)
    except OSError:
        return 0


def _digest(archive: Path) -> str:
    printed = CliRunner().invoke(command_line, ["archive", "info", str(archive), "--json"], catch_exceptions=False)
    return json.loads(printed.stdout)["digest"]


def _load(path: Path) -> list[dict[str, str]]:
    if not path.exists():
        return []
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def _append(path: Path, kill: Kill) -> None:
    row = asdict(kill) | {"victims": " ".join(map(str, kill.victims)), "notes": "; ".join(kill.notes)}
    is_new = not path.exists()
    path.parent.mkdir(exist_ok=True)
    with path.open("a", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(row))
        if is_new:
            writer.writeheader()
        writer.writerow(row)


def report(rows: list[dict[str, str]]) -> None:
    """Print counts as `name value unit`."""
    for mode in MODES:
        of_mode = [row for row in rows if row["mode"] == mode]
        for (moment, verdict), count in sorted(Counter((row["moment"], row["verdict"]) for row in of_mode).items()):
            print(f"{mode.replace(', ', '_').replace(' ', '_')}/{moment.replace(' ', '_')}/{verdict} {count} kills")
    for ended, count in sorted(Counter(row["ended"] for row in rows).items()):
        print(f"ended/{ended.replace(' ', '_')} {count} kills")
    print(f"identical {sum(row['verdict'] == 'identical' for row in rows)} kills")
    print(f"kills {len(rows)} kills")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=150, help="total number of rows of the results")
    parser.add_argument("--seed", type=int, default=0, help="seed of the plan")
    parser.add_argument("--limit", type=float, default=120.0, help="seconds after which a job counts as hanging")
    parser.add_argument("--results", type=Path, default=RESULTS)
    parser.add_argument("--keep", type=Path, help="keep runs and their output in this folder")
    arguments = parser.parse_args()
    rows = _load(arguments.results)
    done = {int(row["number"]) for row in rows}
    with tempfile.TemporaryDirectory() as temporary:
        folder = arguments.keep or Path(temporary)
        folder.mkdir(exist_ok=True)
        campaign = Campaign(folder, arguments.limit)
        for kill in plan(arguments.seed):
            if len(done) >= arguments.kills:
                break
            if kill.number in done or kill.number < max(done, default=-1) or not campaign.run(kill):
                continue
            done.add(kill.number)
            _append(arguments.results, kill)
            print(
                kill.number, kill.mode, kill.experiment, kill.moment, kill.ended, kill.verdict, *kill.notes, flush=True
            )
    rows = _load(arguments.results)
    report(rows)
    sys.exit(any(row["verdict"] != "identical" for row in rows))


if __name__ == "__main__":
    main()
