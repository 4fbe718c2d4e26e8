"""Wrong values of options: one line with the value and what was expected."""

from pathlib import Path

import pytest
from click.testing import CliRunner

from qdrl.cli import qdrl

REFERENCE = str(Path(__file__).parents[2] / "archives" / "reference" / "walker2d_uni.h5")
FIND = ["archive", "find", REFERENCE, "--descriptor", "0.3", "0.7"]


@pytest.mark.parametrize(
    ("arguments", "option", "words"),
    [
        ([*FIND, "--count", "0"], "--count", "expected an integer, at least 1, got '0'"),
        ([*FIND, "--count", "few"], "--count", "expected an integer, at least 1, got 'few'"),
        (["evolve", "a.toml", "--seed", "-1"], "--seed", "expected an integer, at least 0, got '-1'"),
        (["evolve", "a.toml", "--device", "gpu"], "--device", "'gpu' is not one of 'cpu', 'cuda', 'warp-cpu'"),
        (["render", REFERENCE, "a.gif", "--fps", "1.5"], "--fps", "expected an integer from 1 to 120, got '1.5'"),
        (
            ["render", REFERENCE, "a.gif", "--width", "9999"],
            "--width",
            "expected an integer from 16 to 4096, got '9999'",
        ),
        (["export", REFERENCE, "a.npz", "--cell", "best"], "--cell", "'best' is not a valid integer"),
        (["archive", "reevaluate", REFERENCE, "--repeats", "0"], "--repeats", "from 1 to 100000, got '0'"),
        (["archive", "plot", REFERENCE, "--vmin", "low"], "--vmin", "'low' is not a valid float"),
    ],
)
def test_a_wrong_value_is_one_line(arguments: list[str], option: str, words: str) -> None:
    done = CliRunner().invoke(qdrl, arguments)
    assert done.exit_code == 2
    assert done.stdout == ""
    assert done.stderr.splitlines()[-1].startswith(f"Error: Invalid value for '{option}': ")
    assert words in done.stderr.splitlines()[-1]
    assert "range" not in done.stderr
