"""Runs whose files cannot be written, and values that files cannot store."""

import csv
import errno
import logging
import math
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar

import h5py
import numpy as np
import pytest

from qdrl.algorithms.map_elites import MapElites
from qdrl.archives.atomic import write_text
from qdrl.archives.files import write_hdf5
from qdrl.archives.hdf5 import content_digest, open_archive, read_checkpoint, validate, write_checkpoint
from qdrl.archives.strict_json import from_json, to_json
from qdrl.archives.trees import check_storable
from qdrl.config import load_experiment, parse_experiment
from qdrl.errors import RunFailed, UserError
from qdrl.evaluation import Evaluation
from qdrl.parallel.exchange import LOCAL, Exchange
from qdrl.parallel.ranks import OneProcess
from qdrl.run.checkpoint import checkpoint_interval
from qdrl.run.history import History
from qdrl.run.log import RunLog
from qdrl.run.metrics import MetricsFile
from qdrl.run.resume import resume
from qdrl.run.start import start

ARM = {
    "name": "arm",
    "seed": 5,
    "task": {"name": "sphere", "parameters": 100},
    "archive": {"kind": "grid", "shape": [20, 20]},
    "algorithm": {"name": "map_elites", "batch_size": 32},
    "run": {"generations": 8, "checkpoint_seconds": 0},
}


class LimitedDisk(MapElites):
    """MAP-Elites with a limit on the size of files from generation 3 until `freed_at`."""

    freed_at: ClassVar[int] = 10**9

    def ask(self, rows: range | None = None) -> Any:
        if self.generation == 3 < LimitedDisk.freed_at:
            _limit(2000)
        if self.generation == LimitedDisk.freed_at:
            _limit(resource.RLIM_INFINITY)
        return super().ask(rows)


class Reporting(MapElites):
    """MAP-Elites that reports a metric set by the test from the third generation on."""

    reported: ClassVar[dict[Any, Any]] = {}

    def tell(self, evaluation: Evaluation, exchange: Exchange = LOCAL) -> dict[str, float]:
        counts = super().tell(evaluation, exchange)
        return counts | Reporting.reported if self.generation == 3 else counts


class Unbounded(MapElites):
    class Settings(MapElites.Settings):
        largest_norm: float = math.inf


class Opaque(MapElites):
    class Settings(MapElites.Settings):
        model_config: ClassVar = {"arbitrary_types_allowed": True}
        rule: Any = print


class Remembering(MapElites):
    """MAP-Elites with state set by the test."""

    remembered: ClassVar[Any] = None

    def state_dict(self) -> dict[str, Any]:
        return super().state_dict() | {"memory": {"last": Remembering.remembered}}


@pytest.fixture
def limited() -> Iterator[None]:
    """Make writes beyond the process's limit fail as on a full disk, instead of a signal that ends the process."""
    before = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    yield
    _limit(resource.RLIM_INFINITY)
    signal.signal(signal.SIGXFSZ, before)
    LimitedDisk.freed_at = 10**9


def _limit(size: int) -> None:
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, resource.RLIM_INFINITY))


def _with(algorithm: type, **tables: Any) -> dict[str, Any]:
    return ARM | {"algorithm": {"name": f"tests.run.test_saving:{algorithm.__name__}", "batch_size": 32}} | tables


@pytest.mark.usefixtures("limited")
def test_a_full_disk_causes_a_warning_and_the_next_checkpoint_is_written(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    LimitedDisk.freed_at = 6
    outcome = start(parse_experiment(_with(LimitedDisk)), OneProcess(), folder=tmp_path / "run", progress=False)
    lines = capsys.readouterr().err.splitlines()
    (warning,) = [line for line in lines if "cannot save generation" in line]
    assert "generation 4" in warning
    assert str(outcome.folder / ".checkpoint.h5.tmp") in warning
    assert "File too large" in warning
    assert "the last good checkpoint is of generation 3" in warning
    assert any("written after" in line for line in lines)
    assert not any("Traceback" in line for line in lines)
    with (outcome.folder / "metrics.csv").open() as file:
        assert [float(row["generation"]) for row in csv.DictReader(file)] == list(range(8))
    whole = start(parse_experiment(_with(LimitedDisk, run={"generations": 8})), OneProcess(), folder=tmp_path / "whole")
    assert content_digest(outcome.archive) == content_digest(whole.archive)


@pytest.mark.usefixtures("limited")
def test_a_disk_that_stays_full_ends_the_run_with_one_line_and_keeps_the_last_good_files(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    with pytest.raises(RunFailed, match=r"generation 8.*File too large.*generation 3.*qdrl resume") as caught:
        start(parse_experiment(_with(LimitedDisk)), OneProcess(), folder=folder, progress=False)
    assert "\n" not in str(caught.value)
    _limit(resource.RLIM_INFINITY)
    assert {path.name for path in folder.iterdir()} == {
        "config.toml",
        "archive.h5",
        "checkpoint.h5",
        "metrics.csv",
        "log.txt",
        "figures",
    }
    assert validate(folder / "archive.h5") == validate(folder / "checkpoint.h5") == []
    assert read_checkpoint(folder / "checkpoint.h5")[1]["algorithm"]["generation"] == 3
    LimitedDisk.freed_at = 3
    outcome = resume(folder, OneProcess(), progress=False)
    assert validate(outcome.archive) == []
    assert outcome.generations == 5


@pytest.mark.parametrize(
    ("seconds", "share", "save_seconds", "expected"),
    [(60, 0.05, 0, 60), (60, 0.05, 3, 60), (60, 0.05, 30, 600), (60, 1, 90, 90), (0, 0.05, 30, 0)],
)
def test_slow_checkpoints_become_rarer(seconds: float, share: float, save_seconds: float, expected: float) -> None:
    assert checkpoint_interval(seconds, share, save_seconds) == pytest.approx(expected)


def test_checkpoints_take_at_most_their_share_of_the_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    begun: list[float] = []

    def write_slowly(*arguments: Any) -> None:
        begun.append(time.monotonic())
        time.sleep(0.1)
        write_checkpoint(*arguments)

    monkeypatch.setattr("qdrl.run.checkpoint.write_checkpoint", write_slowly)
    run = {"minutes": 0.03, "checkpoint_seconds": 0.001, "checkpoint_share": 0.25}
    outcome = start(parse_experiment(ARM | {"run": run}), OneProcess(), folder=tmp_path / "run", progress=False)
    assert len(begun) >= 2
    assert (np.diff(begun[:-1]) >= 0.1 / 0.25).all()  # the last save does not wait
    whole = start(
        parse_experiment(ARM | {"run": {"generations": outcome.generations}}), OneProcess(), folder=tmp_path / "whole"
    )
    assert content_digest(outcome.archive) == content_digest(whole.archive)


@pytest.mark.parametrize("error", [errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.EROFS])
def test_any_error_of_the_disk_is_one_error_with_the_path_and_leaves_the_old_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: int
) -> None:
    path = tmp_path / "file.h5"
    path.write_bytes(b"before")

    def fail(descriptor: int) -> None:
        raise OSError(error, "it failed")

    monkeypatch.setattr("os.fsync", fail)
    with pytest.raises(OSError, match="it failed") as caught:
        write_hdf5(path, lambda file: file.create_dataset("a", data=np.arange(9)), lambda *_: [])
    assert caught.value.errno == error
    assert caught.value.filename == str(tmp_path / ".file.h5.tmp")
    assert [p.name for p in tmp_path.iterdir()] == ["file.h5"]
    assert path.read_bytes() == b"before"


@pytest.mark.usefixtures("limited")
@pytest.mark.parametrize("size", [0, 700, 3000, 50_000, 300_000])
def test_a_disk_that_is_full_at_any_byte_leaves_no_handle_and_no_file(tmp_path: Path, size: int) -> None:
    def write(file: Any) -> None:
        for name in "abcd":
            file.create_dataset(name, data=np.ones((50, 500)), chunks=(1, 500), fletcher32=True)
            file.attrs[name] = name
            file["a"][3]

    _limit(size)
    with pytest.raises(OSError, match="File too large"):
        write_hdf5(tmp_path / "file.h5", write, lambda *_: [])
    _limit(resource.RLIM_INFINITY)
    assert list(tmp_path.iterdir()) == []
    assert h5py.h5f.get_obj_count(h5py.h5f.OBJ_ALL, h5py.h5f.OBJ_FILE) == 0
    write_hdf5(tmp_path / "file.h5", write, lambda *_: [])


def test_files_are_written_where_the_file_system_has_no_locks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def no_locks(*arguments: object) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    opened = []
    plain = h5py.File

    def noting(name: Any, mode: str, **options: Any) -> Any:
        opened.append(isinstance(name, str | Path) and options.get("locking") is not False)
        return plain(name, mode, **options)

    monkeypatch.setattr("fcntl.flock", no_locks)
    monkeypatch.setattr("h5py.File", noting)
    start(parse_experiment(ARM | {"run": {"generations": 1}}), OneProcess(), folder=tmp_path / "run", progress=False)
    assert opened == [False] * len(opened)
    assert opened


def test_a_folder_that_cannot_be_written_is_refused_before_the_first_generation(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    experiment = parse_experiment(ARM)
    with pytest.raises(UserError, match="cannot make a run folder: Not a directory"):
        start(experiment, OneProcess(), folder=tmp_path / "file" / "run", progress=False)
    start(parse_experiment(ARM | {"run": {"generations": 1}}), OneProcess(), folder=tmp_path / "run", progress=False)
    (tmp_path / "run" / "log.txt").unlink()
    (tmp_path / "run" / "log.txt").mkdir()  # in place of a folder without permission, which root always has
    with pytest.raises(UserError, match="cannot write into run folder"):
        resume(tmp_path / "run", OneProcess(), progress=False)


def test_a_run_that_could_not_start_leaves_no_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def busy(*arguments: object) -> None:
        raise BlockingIOError

    logger = logging.getLogger("qdrl")
    before = signal.getsignal(signal.SIGTERM), logger.level, list(logger.handlers)
    monkeypatch.setattr("fcntl.flock", busy)
    with pytest.raises(UserError, match="another job"):
        start(parse_experiment(ARM), OneProcess(), folder=tmp_path / "run", progress=False)
    monkeypatch.undo()
    monkeypatch.setattr("qdrl.run.recorder.Recorder._write_if_first", lambda self: check_storable(None, "x"))
    with pytest.raises(UserError):
        start(parse_experiment(ARM), OneProcess(), folder=tmp_path / "run", progress=False)
    assert list(tmp_path.iterdir()) == []
    assert (signal.getsignal(signal.SIGTERM), logger.level, list(logger.handlers)) == before


def test_a_metric_that_is_missing_in_a_generation_is_nan_there(tmp_path: Path) -> None:
    Reporting.reported = {"critic_loss": np.float32(0.5), "steps": 3, "sure": True}
    outcome = start(parse_experiment(_with(Reporting)), OneProcess(), folder=tmp_path / "run", progress=False)
    history = open_archive(outcome.archive).history
    expected = [np.nan, np.nan, 0.5] + [np.nan] * 5
    np.testing.assert_array_equal(history["critic_loss"], expected)
    np.testing.assert_array_equal(history["sure"][2], 1)
    with (outcome.folder / "metrics.csv").open() as file:
        rows = list(csv.DictReader(file))
    np.testing.assert_array_equal([float(row["critic_loss"]) for row in rows], expected)
    assert [float(row["generation"]) for row in rows] == list(range(8))
    resume(outcome.folder, OneProcess(), overrides=["run.generations=9"], progress=False)
    history = open_archive(outcome.archive).history
    np.testing.assert_array_equal(history["critic_loss"], [*expected, np.nan])


@pytest.mark.parametrize(
    ("reported", "words"),
    [
        ({"loss/critic": 0.5}, "'loss/critic'"),
        ({"": 0.5}, "''"),
        ({".": 0.5}, "'.'"),
        ({"a\nb": 0.5}, "a string that is not empty"),
        ({3: 0.5}, "a metric named 3"),
        ({"phase": "warmup"}, "'warmup' for the metric 'phase'"),
        ({"loss": None}, "None for the metric 'loss'"),
        ({"loss": 1j}, "must be a number"),
        ({"loss": np.ones(2)}, "must be a number"),
        ({"qd_score": 0.5}, "'qd_score', which the run records"),
    ],
)
def test_a_metric_that_files_cannot_store_ends_the_run_in_that_generation(
    tmp_path: Path, reported: dict[Any, Any], words: str
) -> None:
    Reporting.reported = reported
    with pytest.raises(UserError) as caught:
        start(parse_experiment(_with(Reporting)), OneProcess(), folder=tmp_path / "run", progress=False)
    assert words in str(caught.value)
    assert "tests.run.test_saving:Reporting" in str(caught.value)
    assert "\n" not in str(caught.value)
    assert read_checkpoint(tmp_path / "run" / "checkpoint.h5")[1]["algorithm"]["generation"] == 2
    assert str(caught.value) in (tmp_path / "run" / "log.txt").read_text()


def test_a_history_keeps_counts_as_integers() -> None:
    history = History()
    assert history.append({"a": 1})
    assert not history.append({"a": 2})
    assert history.append({"a": 3, "b": 1})
    assert {name: values.dtype.kind for name, values in history.arrays().items()} == {"a": "i", "b": "f"}


@pytest.mark.parametrize(
    "value", [math.inf, -math.inf, [0.7, math.inf], {"a": {"b": [-math.inf, 1, "inf", None, True]}}, "nan", {}]
)
def test_numbers_that_are_not_finite_survive_strict_json(value: Any) -> None:
    assert from_json(to_json(value)) == value
    assert "Infinity" not in to_json(value)


def test_nan_survives_strict_json() -> None:
    assert math.isnan(from_json(to_json(math.nan)))


def test_infinite_settings_are_stored_and_compared(tmp_path: Path) -> None:
    experiment = ARM | {
        "task": {
            "name": "gym:Hopper-v5",
            "descriptor": "tests.run.test_saving:last_two",
            "axes": [{"name": name, "lower": -9, "upper": 9} for name in "xy"],
            "episode_length": 4,
            "kwargs": {"healthy_z_range": [0.7, math.inf]},
        },
        "policy": {"hidden_sizes": [4]},
        "algorithm": {"name": "tests.run.test_saving:Unbounded", "batch_size": 4},
        "run": {"generations": 2},
    }
    outcome = start(parse_experiment(experiment), OneProcess(), folder=tmp_path / "run", progress=False)
    for path in (outcome.archive, outcome.folder / "checkpoint.h5"):
        assert open_archive(path).meta["config"]["task"]["kwargs"] == {"healthy_z_range": [0.7, math.inf]}
        assert open_archive(path).meta["config"]["algorithm"]["largest_norm"] == math.inf
    read = load_experiment(outcome.folder / "config.toml")
    assert read.resolved()["task"]["kwargs"] == {"healthy_z_range": [0.7, math.inf]}
    assert resume(outcome.folder, OneProcess(), overrides=["run.generations=3"], progress=False).generations == 1
    config = (outcome.folder / "config.toml").read_text()
    (outcome.folder / "config.toml").write_text(config.replace("largest_norm = inf", "largest_norm = nan"))
    with pytest.raises(UserError, match="differs from the checkpoint in 'algorithm'"):
        resume(outcome.folder, OneProcess(), overrides=["run.generations=4"], progress=False)


def last_two(trajectory: Any) -> list[float]:
    return trajectory.observations[-1][:2]


def test_settings_that_files_cannot_store_are_an_error_when_the_experiment_is_read() -> None:
    with pytest.raises(UserError, match="cannot be stored as TOML and JSON"):
        parse_experiment(_with(Opaque))
    with pytest.raises(UserError, match="array is not JSON serializable"):
        parse_experiment(ARM | {"task": {"name": "sphere", "parameters": np.ones(2)}})


@pytest.mark.parametrize(
    ("memory", "words"),
    [
        (None, "is NoneType"),
        (object(), "is object"),
        (["a", "b"], "is list"),
        (b"raw", "is bytes"),
        (np.array(["a"]), "is ndarray of <U1"),
        ({"a/b": 1}, "has the key 'a/b'"),
        ({1: 1}, "has the key 1"),
        (2**70, "is int"),
        (np.ones(2, np.complex128), "is ndarray of complex128"),
        (np.ones(2, np.longdouble), "is ndarray of float128"),
        (np.ones(2, ">f8"), "is ndarray of >f8"),
        (np.ones((1, 1, 1, 1, 1)), "is ndarray of float64"),
        ("\ud800", "is str"),
        ([[1], [1, 2]], "is list"),
    ],
)
def test_state_that_a_checkpoint_cannot_store_is_an_error_before_the_folder_is_made(
    tmp_path: Path, memory: Any, words: str
) -> None:
    Remembering.remembered = memory
    with pytest.raises(UserError, match=r"state_dict\['memory'\]\['last'\]") as caught:
        start(parse_experiment(_with(Remembering)), OneProcess(), folder=tmp_path / "run", progress=False)
    assert words in str(caught.value)
    assert list(tmp_path.iterdir()) == []


def test_state_of_arrays_numbers_and_strings_is_restored(tmp_path: Path) -> None:
    kept = {"array": np.arange(3), "number": 1.5, "text": "é", "flag": True, "list": [1, 2], "empty": {}}
    Remembering.remembered = kept
    outcome = start(parse_experiment(_with(Remembering)), OneProcess(), folder=tmp_path / "run", progress=False)
    state = read_checkpoint(outcome.folder / "checkpoint.h5")[1]["algorithm"]["memory"]["last"]
    assert {name: np.asarray(value).tolist() for name, value in state.items()} == {
        name: np.asarray(value).tolist() for name, value in kept.items() if name != "empty"
    } | {"empty": {}}


def test_rows_of_metrics_that_could_not_be_written_are_written_later_after_one_warning(tmp_path: Path) -> None:
    warnings: list[str] = []
    history, file = History(), MetricsFile(tmp_path / "later" / "metrics.csv", warnings.append)
    for generation in range(3):
        history.append({"generation": generation})
        file.follow(history)
    (tmp_path / "later").mkdir()
    for generation in range(3, 6):
        history.append({"generation": generation})
        file.follow(history)
    assert (tmp_path / "later" / "metrics.csv").read_text().split() == ["generation", *"012345"]
    (warning,) = warnings
    assert "No such file or directory" in warning


def test_a_log_on_a_full_disk_is_one_line_on_stderr_and_restores_the_logger(
    capsys: pytest.CaptureFixture[str],
) -> None:
    logger = logging.getLogger("qdrl")
    before = logger.level, list(logger.handlers)
    log = RunLog(Path("/dev/full"))
    log.open()
    for _ in range(3):
        logger.info("a line")
    log.note("another")
    log.close()
    assert capsys.readouterr().err == "qdrl: cannot write /dev/full: No space left on device\n"
    assert (logger.level, list(logger.handlers)) == before


def test_a_failed_write_removes_its_temporary_file(tmp_path: Path) -> None:
    with pytest.raises(UnicodeEncodeError):
        write_text(tmp_path / "a", "half \ud800")
    assert list(tmp_path.iterdir()) == []


def test_a_full_disk_at_the_end_is_exit_code_one_and_one_line_without_a_traceback(tmp_path: Path) -> None:
    experiment = '[task]\nname = "sphere"\nparameters = 100\n[archive]\nkind = "grid"\nshape = [20, 20]\n'
    (tmp_path / "c.toml").write_text(f"{experiment}[run]\ngenerations = 3\n")
    program = (
        "import resource, signal, sys; from qdrl.__main__ import main; signal.signal(signal.SIGXFSZ, signal.SIG_IGN);"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (2000, -1)); sys.argv = ['qdrl', 'evolve', 'c.toml']; main()"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=tmp_path, capture_output=True, text=True, check=False, timeout=60
    )
    assert done.returncode == 1
    (line,) = [line for line in done.stderr.splitlines() if line.startswith("qdrl: cannot save")]
    assert "File too large" in line
    assert "Traceback" not in done.stderr
