"""A campaign of damaged and hostile files: every verb reads each file or reports an error in one line.

`python -m tests.programs.fuzz_archives FOLDER --files 10000 --workers 2` copies files of small real runs, changes each
copy, and calls verbs on it in a forked child with limited memory and time. FOLDER gets the results, one line per file.
An interrupted campaign continues with the files that have no result yet. File i is the same in every campaign.
"""

import argparse
import io
import json
import logging
import os
import resource
import shutil
import sys
import tempfile
import traceback
import warnings
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from click.testing import CliRunner

from qdrl.archives import inspection
from qdrl.archives.hdf5 import open_archive
from qdrl.archives.seals import write_seal
from qdrl.cli import qdrl
from qdrl.config import parse_experiment
from qdrl.errors import UserError
from qdrl.parallel.launcher import limit_threads
from qdrl.parallel.ranks import OneProcess
from qdrl.run.start import start
from tests.helpers.forked import Send, in_child, run_forked
from tests.helpers.mutants import change_bytes, change_structure

SECONDS = 60.0  # per file
MEMORY = 512 * 2**20  # limit for a file, in addition to the memory of the program and 64 times the size of the file
OUTCOMES = ("served", "warned", "refused", "traceback", "crashed", "hung", "memory")
BAD = OUTCOMES[3:]

REFERENCE = Path(__file__).parents[2] / "archives" / "reference" / "walker2d_uni.h5"
_POINT = {"name": "point_omni", "episode_length": 8}
_POLICY = {"hidden_sizes": [4], "normalize_observations": True}
RUNS: dict[str, dict[str, Any]] = {
    "map_elites": {"algorithm": {"batch_size": 12}, "run": {"generations": 3}},
    "deep_ga": {
        "algorithm": {"name": "deep_ga", "batch_size": 8, "parents": 3, "candidate_episodes": 0, "rebase_depth": 2},
        "policy": {"hidden_sizes": [4]},
        "run": {"generations": 5},
    },
    "novelty_es": {
        "algorithm": {"name": "novelty_es", "batch_size": 6},
        "archive": {"kind": "novelty", "rule": "all"},
        "run": {"generations": 4},
    },
    "dcg_map_elites": {
        "algorithm": {
            "name": "dcg_map_elites",
            "batch_size": 8,
            "gradient_rows": 4,
            "probe_rows": 8,
            "replay_capacity": 300,
            "critic": {"steps": 3, "batch_size": 8, "hidden_sizes": [8, 8]},
            "gradient": {"steps": 2, "batch_size": 8},
        },
        "run": {"generations": 3},
    },
}


@dataclass(frozen=True)
class Source:
    """A good file to change.

    Attributes:
        path: the file.
        config: the run's config.toml, for a checkpoint.
        cell: a cell that holds an elite.
        axes: number of descriptor axes.
        generations: number of generations of the run.
    """

    path: Path
    config: Path | None
    cell: int
    axes: int
    generations: int


def make_sources(folder: Path) -> list[Source]:
    """Run small experiments; return their archives and checkpoints, sealed and not, and the reference archive."""
    sources = [_source(REFERENCE)]
    for name in RUNS:
        run = folder / name
        # In a child, since the threads of torch's autograd do not survive a fork.
        if not (run / "archive.h5").exists() and in_child(lambda _, name=name: _run(name, folder), 300)[0] != 0:
            raise RuntimeError(f"the run {name} failed")
        for file in ("archive.h5", "checkpoint.h5"):
            config = run / "config.toml" if file == "checkpoint.h5" else None
            sources += [_source(run / file, config), _source(_unsealed(run / file), config)]
    return sources


def _run(name: str, folder: Path) -> None:
    shutil.rmtree(folder / name, ignore_errors=True)
    experiment = {
        "name": name,
        "task": _POINT,
        "policy": _POLICY,
        "archive": {"kind": "grid", "shape": [4, 4]},
        "compute": {"worlds": 4},
    }
    start(parse_experiment(experiment | RUNS[name]), OneProcess(), folder=folder / name, progress=False)


def change(source: Source, target: Path, index: int) -> str:
    """Copy a source to a target and change it; return the kind of change, for example "flip, resealed"."""
    random = np.random.default_rng(index)
    shutil.copyfile(source.path, target)
    kind = int(random.integers(4))
    if kind < 2:
        what = change_bytes(target, random)
    else:
        what = "none"
        while what == "none":
            what = change_structure(target, random)
    if random.random() < (0.1 if kind < 2 else 0.7):
        try:
            write_seal(target)
        except UserError:
            return what
        return f"{what}, resealed"
    return what


def calls(source: Source, file: Path, random: np.random.Generator) -> list[list[str]]:
    """Return the arguments of the verbs to call on a file."""
    find = ["archive", "find", str(file), "--descriptor", *["0.1"] * source.axes]
    verbs = [
        find,
        ["archive", "show", str(file), str(source.cell)],
        ["archive", "show", str(file), str(source.cell), "--replay"],
        ["export", str(file), str(file.with_suffix(".npz"))],
        ["export", str(file), str(file.with_suffix(".npz")), "--cell", str(source.cell)],
    ]
    if source.path != REFERENCE:
        verbs.append(["archive", "reevaluate", str(file)])
    chosen = [verbs[index] for index in random.permutation(len(verbs))[:2]]
    if random.random() < 0.1:  # plots take ten times as long as other verbs
        chosen[0] = ["archive", "plot", str(file), "--output", str(file.with_suffix(".png"))]
    first = [["archive", "validate", str(file)], ["archive", "info", str(file)]]
    if source.config is None:
        return first + chosen
    budget = f"run.generations={source.generations + 1}"
    if random.random() < 0.4:
        return first[:1] + chosen
    return [first[0], chosen[0], ["resume", str(file.parent), "--no-progress", "--set", budget]]


def try_file(source: Source, folder: Path, index: int) -> dict[str, Any]:
    """Change a file and call verbs on it in a child; return the change and the outcome of each call."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    file = folder / ("archive.h5" if source.config is None else "checkpoint.h5")
    if source.config is not None:
        shutil.copyfile(source.config, folder / "config.toml")
    how = change(source, file, index)
    changed = file.read_bytes() != source.path.read_bytes()
    verbs = calls(source, file, np.random.default_rng([index, 1]))

    def call_all(send: Send) -> None:
        sys.stdout, sys.stderr = io.StringIO(), io.StringIO()
        for verb in verbs:
            send(json.dumps(_call(verb, file.stat().st_size)) + "\n")

    code, text = in_child(call_all, SECONDS)
    ends = [tuple(json.loads(line)) for line in text.splitlines() if line.endswith("]")]
    if len(ends) < len(verbs):
        ends.append(("hung", "") if code is None else ("crashed", f"exit code {code}"))
    names = [" ".join(verb[:2]) if verb[0] == "archive" else verb[0] for verb in verbs]
    done = [{"verb": name, "end": end, "said": said} for name, (end, said) in zip(names, ends, strict=False)]
    return {"index": index, "source": str(source.path.name), "how": how, "changed": changed, "calls": done}


def run_campaign(folder: Path, indices: list[int], sources: list[Source]) -> list[dict[str, Any]]:
    """Try the files that have no result in the folder yet; return the new results."""
    folder.mkdir(parents=True, exist_ok=True)
    results = folder / f"results-{indices[0] if indices else 0}.jsonl"
    known = {json.loads(line)["index"] for line in results.read_text().splitlines()} if results.exists() else set()
    made = []
    with results.open("a") as log, tempfile.TemporaryDirectory(dir=folder) as work, _forked_inspection():
        for index in indices:
            if index not in known:
                made.append(try_file(sources[index % len(sources)], Path(work) / "run", index))
                log.write(json.dumps(made[-1]) + "\n")
                log.flush()
    return made


def summary(results: list[dict[str, Any]]) -> dict[str, Any]:
    """Count the outcomes of calls, and the changed files that `validate` accepted."""
    ends = Counter(call["end"] for result in results for call in result["calls"])
    accepted = Counter(
        "resealed" if "resealed" in result["how"] else "sealed or not"
        for result in results
        for call in result["calls"]
        if result["changed"] and call["verb"] == "archive validate" and call["end"] in ("served", "warned")
    )
    return {
        "files": len(results),
        "calls": sum(ends.values()),
        **{name: ends[name] for name in OUTCOMES},
        "changed files that validate accepted": dict(accepted),
    }


def bad(results: list[dict[str, Any]]) -> list[str]:
    """List the calls with a forbidden outcome."""
    return [
        f"file {result['index']} ({result['source']}, {result['how']}): {call['verb']} {call['end']}: {call['said']}"
        for result in results
        for call in result["calls"]
        if call["end"] in BAD
    ]


def _call(verb: list[str], size: int) -> tuple[str, str]:
    """Run a verb in this process; return its outcome and message."""
    warned = _Warnings()
    logging.getLogger("qdrl").addHandler(warned)
    before = _peak()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        done = CliRunner().invoke(qdrl, verb)
    logging.getLogger("qdrl").removeHandler(warned)
    error = done.exception
    if (taken := _peak() - before) > MEMORY + 64 * size:
        return "memory", f"{taken / 2**20:.0f} MiB"
    if isinstance(error, UserError):
        return ("refused", str(error)[:300]) if "\n" not in str(error) else ("traceback", "several lines")
    if error is not None and not isinstance(error, SystemExit):
        return "traceback", "".join(traceback.format_exception(error))[-1500:]
    if done.exit_code not in (0, None):
        return "refused", (done.stdout + done.stderr)[:300]
    return "warned" if warned.count else "served", ""


class _Warnings(logging.Handler):
    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.count = 0

    def emit(self, record: logging.LogRecord) -> None:
        self.count += 1


def _peak() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


@contextmanager
def _forked_inspection() -> Iterator[None]:
    """Run inspections in forks: a new interpreter for each file would take most of the time."""
    real = inspection.run_child
    inspection.run_child = run_forked
    try:
        yield
    finally:
        inspection.run_child = real


def _source(path: Path, config: Path | None = None) -> Source:
    archive = open_archive(path)
    generations = len(next(iter(archive.history.values()), ()))
    return Source(path, config, int(archive.elites["cell"][0]), len(archive.axes), generations)


def _unsealed(path: Path) -> Path:
    """Write a copy without a user block, as in format 1.1."""
    target = path.with_name(f"unsealed_{path.name}")
    if target.exists():
        return target
    with h5py.File(path) as old, h5py.File(target, "w") as new:
        for name in old:
            old.copy(name, new)
        new.attrs.update(old.attrs)
        new.attrs["format_version"] = "1.1"
    return target


def main() -> None:
    """Run a campaign and print its counts."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--files", type=int, default=10_000)
    parser.add_argument("--workers", type=int, default=2)
    options = parser.parse_args()
    import matplotlib.pyplot  # noqa: F401 - imported once for all children

    import qdrl.analysis.export
    import qdrl.analysis.reevaluate
    import qdrl.analysis.rerun  # noqa: F401

    sources = make_sources(options.folder / "sources")
    indices, children = list(range(options.files)), []
    for worker in range(options.workers):
        child = os.fork()
        if child == 0:
            run_campaign(options.folder / f"worker-{worker}", indices[worker :: options.workers], sources)
            os._exit(0)
        children.append(child)
    for child in children:
        os.waitpid(child, 0)
    lines = [line for file in options.folder.glob("worker-*/results-*.jsonl") for line in file.read_text().splitlines()]
    results = [json.loads(line) for line in lines]
    sys.stdout.write("".join(f"{line}\n" for line in [*bad(results), json.dumps(summary(results), indent=2)]))


if __name__ == "__main__":
    limit_threads()
    main()
