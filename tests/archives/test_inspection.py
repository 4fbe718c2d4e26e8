"""Seals of files, and the child process that inspects files without an intact seal."""

import logging
import os
import signal
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

from qdrl.archives import inspection
from qdrl.archives.hdf5 import open_archive, read_checkpoint, validate, write_archive, write_checkpoint
from qdrl.archives.seals import USER_BLOCK, check_seal, write_seal
from qdrl.errors import UserError
from tests.archives.builders import damaged, small_archive

REFERENCE = Path(__file__).parents[2] / "archives" / "reference" / "walker2d_uni.h5"


def flip(path: Path, place: int) -> None:
    content = bytearray(path.read_bytes())
    content[place] ^= 1
    path.write_bytes(content)


def no_child(path: Path, seconds: float) -> Any:
    raise AssertionError("a child process was started")


def ends(code: int | None) -> Any:
    return lambda path, seconds: (code, "")


def test_a_sealed_file_is_opened_without_a_child_process(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(inspection, "run_child", no_child)
    assert check_seal(path) == "intact"
    assert path.read_bytes().startswith(b"qdrl-seal 1\nxxh3_128 ")
    assert len(open_archive(path)) == 7
    with h5py.File(path) as file:  # any HDF5 program reads a file with a user block
        assert file.userblock_size == USER_BLOCK


def test_one_changed_byte_anywhere_breaks_the_seal(path: Path) -> None:
    size = path.stat().st_size
    for place in [0, 12, 21, 60, 70, 400, USER_BLOCK, size // 2, size - 1]:
        write_archive(path, small_archive())
        flip(path, place)
        assert check_seal(path) == "broken", place


def test_an_edited_file_opens_with_a_warning_and_is_reported_until_sealed_again(
    path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with damaged(path) as file:
        file["elites/fitness"][0] = 1.5
    for _ in range(2):
        assert open_archive(path).elites["fitness"][0] == 1.5
    assert [record.levelno for record in caplog.records] == [logging.WARNING]
    assert "changed since it was written" in caplog.text
    assert len(problems := validate(path)) == 1
    assert "does not match its seal" in problems[0]
    assert validate(path, seal=True) == validate(path) == []
    assert check_seal(path) == "intact"


def test_a_file_with_other_problems_is_not_sealed(path: Path) -> None:
    with damaged(path) as file:
        file["elites/fitness"][0] = np.nan
    assert validate(path, seal=True) == ["/elites/fitness: not finite in rows [0]"]
    assert check_seal(path) == "broken"


def test_a_file_of_format_1_0_has_no_seal_and_is_opened_without_a_warning(caplog: pytest.LogCaptureFixture) -> None:
    assert check_seal(REFERENCE) == "absent"
    assert len(open_archive(REFERENCE)) == 256
    assert validate(REFERENCE) == []
    assert caplog.records == []
    with pytest.raises(UserError, match="has no user block for a seal"):
        validate(REFERENCE, seal=True)


def test_a_changed_checkpoint_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "checkpoint.h5"
    write_checkpoint(path, small_archive(), {"weights": np.arange(6.0)})
    flip(path, path.stat().st_size - 1)
    with pytest.raises(UserError, match=r"checkpoint\.h5: .*(changed since it was written|damaged)"):
        read_checkpoint(path)


@pytest.mark.parametrize(
    ("code", "verdict"),
    [
        (-signal.SIGSEGV, "crashed the HDF5 library (signal 11)"),
        (-signal.SIGXCPU, "takes longer than 20 s"),
        (None, "takes longer than 20 s"),
        (1, "failed (exit code 1)"),
    ],
)
def test_a_child_that_crashes_or_exceeds_its_time_is_reported_as_damage(
    path: Path, monkeypatch: pytest.MonkeyPatch, code: int | None, verdict: str
) -> None:
    monkeypatch.setattr(inspection, "run_child", ends(code))
    flip(path, 12)
    assert len(problems := validate(path)) == 1
    assert verdict in problems[0]
    with pytest.raises(UserError) as refusal:
        open_archive(path)
    assert str(refusal.value) == f"{path}: {problems[0]}"


def test_no_child_process_is_started_under_mpi(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(inspection, "run_child", no_child)
    monkeypatch.setattr("qdrl.archives.hdf5.can_start_processes", lambda: False)
    flip(path, 70)
    assert "does not match its seal" in validate(path)[0]
    assert len(open_archive(path)) == 7


def test_the_child_imports_nothing_from_the_current_folder(
    path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "h5py.py").write_text("raise SystemExit(7)")
    monkeypatch.chdir(tmp_path)
    write_seal(path)
    assert validate(Path(os.path.relpath(path))) == []
