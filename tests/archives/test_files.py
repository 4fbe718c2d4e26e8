"""Opening HDF5 files: faults of a file raise UserError, errors of the calling code pass through unchanged."""

from pathlib import Path

import pytest

from qdrl.archives import layout
from qdrl.archives.files import open_hdf5
from qdrl.archives.hdf5 import open_archive
from qdrl.errors import UserError
from tests.archives.builders import small_archive


def flip_a_bit_of_the_fitness(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[content.index(small_archive().elites["fitness"][2:3].tobytes())] ^= 1
    path.write_bytes(content)


@pytest.mark.parametrize(
    "kind", [TypeError, KeyError, AttributeError, IndexError, ValueError, RuntimeError, OSError, MemoryError, Exception]
)
def test_an_error_raised_by_the_calling_code_passes_through_unchanged(path: Path, kind: type[Exception]) -> None:
    error = kind("a bug")
    with pytest.raises(kind) as raised, open_hdf5(path):
        raise error
    assert raised.value is error


def test_a_keyerror_of_h5py_for_a_missing_name_passes_through(path: Path) -> None:
    with pytest.raises(KeyError, match="missing"), open_hdf5(path) as file:
        file["missing"][:]


def test_an_error_in_a_callback_that_h5py_calls_passes_through(path: Path) -> None:
    def visit(name: str, item: object) -> None:
        raise RuntimeError(name)

    with pytest.raises(RuntimeError), open_hdf5(path) as file:
        file.visititems(visit)


def test_damage_found_while_reading_is_a_usererror(path: Path) -> None:
    flip_a_bit_of_the_fitness(path)
    with pytest.raises(UserError, match=r"archive.h5: cannot be read: .*"), open_hdf5(path) as file:
        file["elites/fitness"][:]


def test_damage_found_by_checks_is_a_usererror_but_a_bug_in_a_check_is_not(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: object) -> list[str]:
        raise KeyError("a bug")

    with monkeypatch.context() as patched:
        patched.setattr(layout, "_problems_of_cells", broken)
        with pytest.raises(KeyError, match="a bug"):
            open_archive(path)
    flip_a_bit_of_the_fitness(path)
    with pytest.raises(UserError, match="damaged"):
        open_archive(path)
