import json
import subprocess
import sys
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import click
import numpy as np
import pytest
from click.testing import CliRunner

from qdrl.archives.hdf5 import content_digest, open_archive, write_archive
from qdrl.cli import archive as archive_verbs
from qdrl.cli import qdrl
from qdrl.config import parse_experiment
from qdrl.errors import UserError
from qdrl.parallel.ranks import OneProcess
from qdrl.run.start import start
from tests.archives.builders import damaged, small_archive
from tests.helpers.processes import run_qdrl


@dataclass(frozen=True)
class Outcome:
    """Result of a call of the command line."""

    code: int
    out: str
    error: str


def call(*arguments: object) -> Outcome:
    """Run `qdrl archive ...` in this process; handle a UserError like the entry point."""
    result = CliRunner().invoke(qdrl, ["archive", *map(str, arguments)])
    if isinstance(result.exception, UserError):
        return Outcome(2, result.stdout, f"qdrl: {result.exception}\n")
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return Outcome(result.exit_code, result.stdout, result.stderr)


def call_json(*arguments: object) -> Any:
    """Return the printed JSON of a call, parsed strictly."""

    def refuse(constant: str) -> None:
        raise AssertionError(f"{constant} is not JSON")

    return json.loads(call(*arguments, "--json").out, parse_constant=refuse)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """Return a valid archive file that is not part of a run folder."""
    path = tmp_path / "toy.h5"
    write_archive(path, small_archive())
    return path


@pytest.fixture
def run_folder(tmp_path: Path) -> Path:
    """Return a run folder with the files that archive verbs need."""
    folder = tmp_path / "run"
    (folder / "figures").mkdir(parents=True)
    write_archive(folder / "archive.h5", small_archive())
    return folder


# info


def test_info_prints_the_origin_and_the_statistics_of_a_file(path: Path) -> None:
    out = call("info", path).out
    for part in [
        str(path),
        "2026-01-02T03:04:05Z",
        "qdrl evolve config.toml",
        "ranks",
        content_digest(path),
        "toy",
        "250",
        "grid",
        "5 x 4",
        "axis 1",
        "0.35",
        "iso_line",
        "over 3 observations, from 1000 samples",
        "384",
    ]:
        assert part in out


def test_info_as_json_agrees_with_the_archive(path: Path) -> None:
    facts, archive = call_json("info", path), small_archive()
    assert facts["axes"][1] == {"name": "axis 1", "unit": "m", "lower": -1, "upper": 2}
    assert facts["statistics"] == vars(archive.statistics())
    assert sum(facts["elites_by_emitter"].values()) == len(archive)
    assert facts["genome_parameters"] == 6
    assert facts["task"] == archive.meta["task"]
    assert facts["history"]["evaluations"] == 384
    assert facts["digest"] == content_digest(path)


def test_info_names_the_settings_of_the_task_the_best_elite_and_changes_of_code(path: Path) -> None:
    archive = small_archive()
    options = {"name": "toy", "width": 3, "wind": None, "walls": [{"x": 1.0}]}
    task, command = archive.meta["task"] | {"options": options}, archive.meta["command"]
    changed = {"task": task, "command": command | {"code_changed_from": [12, 40], "inexact_from": [9]}}
    write_archive(path, replace(archive, meta=archive.meta | changed))
    facts = call_json("info", path)
    row = int(archive.elites["fitness"].argmax())
    assert facts["best"] == {name: archive.elites[name][row].tolist() for name in ("cell", "fitness", "descriptor")}
    assert facts["origin"]["code_changed_from"] == [12, 40]
    assert facts["task"]["options"] == options
    lines = [line.split() for line in call("info", path).out.splitlines()]
    for words in (
        "Task settings",
        "width 3",
        "wind -",
        "walls {x: 1}",
        "Best elite",
        f"cell {archive.elites['cell'][row]}",
        "code changed from generation 12, 40",
        "continued inexactly from generation 9",
    ):
        assert words.split() in lines


def test_info_find_and_show_describe_axes_and_elites_by_the_same_keys(path: Path) -> None:
    info = call_json("info", path)
    best = info["best"]
    found = call_json("find", path, "--descriptor", *best["descriptor"], "--count", 1)
    shown = call_json("show", path, best["cell"])
    assert info["axes"] == found["axes"] == shown["axes"]
    assert found["elites"] == [best | {"distance": 0.0}]
    assert {name: shown[name] for name in best} == best


def test_info_of_an_empty_archive_without_task_prints_null_for_what_is_not_known(tmp_path: Path) -> None:
    empty = replace(small_archive(elites=0, generations=0, normalizer=False), meta={})
    write_archive(tmp_path / "empty.h5", empty)
    facts = call_json("info", tmp_path / "empty.h5")
    assert facts["statistics"]["max_fitness"] is None
    assert facts["task"] is None
    assert facts["best"] is None
    assert facts["origin"]["code_changed_from"] == []
    assert facts["normalizer"] is None
    assert facts["history"] == {}
    assert call("info", tmp_path / "empty.h5").code == 0


READING = """
import sys
from click.testing import CliRunner
from qdrl.cli import qdrl

def check(path, verb, *options, heavy={"torch", "mujoco", "matplotlib", "mpi4py"}):
    done = CliRunner().invoke(qdrl, ["archive", verb, path, *options], catch_exceptions=False)
    assert done.exit_code == 0, done.output
    assert not heavy & set(sys.modules), (verb, heavy & set(sys.modules))

for path in sys.argv[1:]:
    check(path, "info")
    check(path, "find", "--descriptor", "0", "0")
    check(path, "show", "8")
check(path, "validate")
check(path, "plot", heavy={"torch", "mujoco", "mpi4py"})
"""


def test_verbs_that_read_archives_do_so_without_torch(tmp_path: Path) -> None:
    paths = {kind: tmp_path / f"{kind}.h5" for kind in ("grid", "novelty")}
    for kind, path in paths.items():
        write_archive(path, small_archive(kind=kind, shape=(9, 2), elites=9))
    command = [sys.executable, "-c", READING, *paths.values()]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


# plot


def test_plot_of_a_run_fills_its_figures_folder(run_folder: Path) -> None:
    expected = [run_folder / "figures" / name for name in ("heatmap.png", "curves.png")]
    assert call("plot", run_folder).out.split() == [str(path) for path in expected]
    assert all(path.read_bytes().startswith(b"\x89PNG") for path in expected)
    assert call("plot", run_folder).code == 0  # again: overwrites the first figures


def test_plot_of_a_lone_file_writes_next_to_it_under_its_name(path: Path) -> None:
    assert call("plot", path).code == 0
    assert {p.name for p in path.parent.iterdir()} == {"toy.h5", "toy_heatmap.png", "toy_curves.png"}


def test_plot_writes_the_given_column_to_the_given_path(path: Path, tmp_path: Path) -> None:
    wanted = tmp_path / "new" / "map.svg"
    options = ["--value", "generation", "--vmin", 0, "--vmax", 9]
    assert call("plot", path, "--output", wanted, *options).code == 0
    assert "generation" in wanted.read_text()
    assert (tmp_path / "new" / "map_curves.svg").is_file()
    assert call("plot", path, "--output", tmp_path / "folder").code == 0
    assert (tmp_path / "folder" / "toy_heatmap.png").is_file()


def test_plot_of_an_archive_without_history_draws_the_heatmap_alone(tmp_path: Path) -> None:
    write_archive(tmp_path / "a.h5", replace(small_archive(), history={}))
    assert call("plot", tmp_path / "a.h5").out == f"{tmp_path / 'a_heatmap.png'}\n"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--output", "map.jpeg"], "its suffix must be one of"),
        (["--value", "fitnes"], "did you mean 'fitness'"),
        (["--vmin", 2, "--vmax", 1], "must be below vmax"),
    ],
)
def test_plot_refuses_what_it_cannot_draw(path: Path, options: list[object], message: str) -> None:
    outcome = call("plot", path, *options)
    assert (outcome.code, outcome.error.count("\n")) == (2, 1)
    assert message in outcome.error


# find


def test_find_lists_the_nearest_elites_first(path: Path) -> None:
    archive = small_archive()
    wanted = archive.elites["descriptor"][4] + [0.001, -0.001]
    found = call_json("find", path, "--descriptor", *wanted, "--count", 3)["elites"]
    assert found[0]["cell"] == archive.elites["cell"][4]
    assert found[0]["distance"] == pytest.approx(np.hypot(0.001, 0.001 / 3))
    distances = [elite["distance"] for elite in found]
    assert distances == sorted(distances)
    assert len(found) == 3
    assert "axis 1 [m]" in call("find", path, "--descriptor", *wanted).out


@pytest.mark.parametrize("order", ["file first", "file last", "equals"])
def test_find_takes_as_many_numbers_as_there_are_axes_in_any_place(path: Path, order: str) -> None:
    numbers = ["-0.25", "1e-1"]
    arguments = {
        "file first": [path, "--descriptor", *numbers],
        "file last": ["--count", "5", "--descriptor", *numbers, path],
        "equals": [path, f"--descriptor={numbers[0]}", numbers[1]],
    }[order]
    assert len(call_json("find", *arguments)["elites"]) == 5


@pytest.mark.parametrize("numbers", [["0.3"], ["0.3", "0.4", "0.5"], ["nan", "0"]])
def test_find_names_the_axes_when_the_numbers_do_not_fit(path: Path, numbers: list[str]) -> None:
    outcome = call("find", path, "--descriptor", *numbers)
    assert (outcome.code, outcome.error.count("\n")) == (2, 1)
    assert "needs 2 finite number(s) (axis 0 from 0 to 1, axis 1 [m] from -1 to 2)" in outcome.error


@pytest.mark.parametrize("arguments", [["--descriptor"], ["--descriptor", "x"], []])
def test_find_without_numbers_is_a_usage_error(path: Path, arguments: list[str]) -> None:
    outcome = call("find", path, *arguments)
    assert outcome.code == 2
    assert "--descriptor" in outcome.error


def test_find_in_an_empty_archive_is_an_error(tmp_path: Path) -> None:
    write_archive(tmp_path / "a.h5", small_archive(elites=0))
    assert "the archive is empty" in call("find", tmp_path / "a.h5", "--descriptor", 0, 0).error


# show


def test_show_prints_all_columns_of_one_elite(path: Path) -> None:
    archive = small_archive()
    cell = int(archive.elites["cell"][2])
    facts = call_json("show", path, cell)
    assert facts["fitness"] == archive.elites["fitness"][2]
    assert facts["evaluation_seed"] == archive.elites["evaluation_seed"][2]
    assert facts["emitter"] in archive.emitters
    assert facts["fitness_std"] is None
    assert facts["genome_norm"] == pytest.approx(np.linalg.norm(archive.genome(row=2)))
    assert str(facts["evaluation_seed"]) in call("show", path, cell).out


@pytest.mark.parametrize("words", [[20], [-1], ["--", -1], ["--json", -12], [-1, "--replay"]])
def test_show_refuses_a_cell_that_does_not_exist(path: Path, words: list[object]) -> None:
    outcome = call("show", path, *words)
    assert outcome.code == 2
    assert "does not exist; cells run from 0 to 19" in outcome.error


def test_export_and_render_refuse_a_cell_that_does_not_exist(path: Path, tmp_path: Path) -> None:
    for verb in ("export", "render"):
        output = tmp_path / ("w.npz" if verb == "export" else "w.gif")
        with pytest.raises(UserError, match="cell -1 does not exist; cells run from 0 to 19"):
            CliRunner().invoke(qdrl, [verb, str(path), str(output), "--cell", "-1"], catch_exceptions=False)


@pytest.fixture(scope="module")
def evolved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the archive of a real run with the task arm."""
    experiment = {"name": "arm", "task": {"name": "arm"}, "run": {"generations": 2}}
    cells = {"archive": {"kind": "grid", "shape": [5, 5]}, "algorithm": {"batch_size": 20}}
    folder = tmp_path_factory.mktemp("evolved") / "run"
    return start(parse_experiment(experiment | cells), OneProcess(), folder=folder, progress=False).archive


def test_a_replay_that_agrees_is_a_success(evolved: Path) -> None:
    outcome = call("show", evolved, open_archive(evolved).elites["cell"][0], "--replay")
    assert outcome.code == 0
    assert "replayed 1 steps: the same, bit for bit" in outcome.out


def test_a_replay_that_differs_in_the_last_bit_fails_and_shows_it(evolved: Path, tmp_path: Path) -> None:
    archive = open_archive(evolved)
    true = float(archive.elites["fitness"][0])
    fitness = archive.elites["fitness"].copy()
    fitness[0] = np.nextafter(true, np.inf)
    forged = replace(archive, elites=archive.elites | {"fitness": fitness}, genomes=archive.all_genomes())
    write_archive(tmp_path / "forged.h5", forged)
    outcome = call("show", tmp_path / "forged.h5", archive.elites["cell"][0], "--replay")
    assert outcome.code == 1
    assert "DIFFERENT" in outcome.out
    assert repr(true) in outcome.out
    assert repr(float(fitness[0])) in outcome.out
    facts = call_json("show", tmp_path / "forged.h5", archive.elites["cell"][0], "--replay")
    assert facts["replay"]["same"] is False
    assert facts["replay"]["steps"] == 1


def test_one_of_several_evaluations_of_an_elite_is_rerun(evolved: Path, tmp_path: Path) -> None:
    archive = open_archive(evolved)
    elites = archive.elites | {"n_evaluations": np.full(len(archive), 5)}
    write_archive(tmp_path / "means.h5", replace(archive, elites=elites, genomes=archive.all_genomes()))
    outcome = call("show", tmp_path / "means.h5", archive.elites["cell"][0], "--replay")
    assert outcome.code == 0
    assert "one of the 5 evaluations whose mean the file keeps" in outcome.out
    assert call_json("show", tmp_path / "means.h5", archive.elites["cell"][0], "--replay")["replay"]["same"] is None


# validate


def test_validate_accepts_a_valid_file(path: Path, run_folder: Path) -> None:
    assert call("validate", path) == Outcome(0, f"{path}: valid qdrl-archive 1.2, 7 elites\n", "")
    assert call("validate", run_folder).code == 0


def test_validate_notes_a_missing_seal() -> None:
    path = Path(__file__).parents[2] / "archives" / "reference" / "walker2d_uni.h5"  # from a version without seals
    note = "no seal: a change that keeps the file readable is not found"
    assert call("validate", path) == Outcome(0, f"{path}: valid qdrl-archive 1.0, 256 elites ({note})\n", "")


def test_validate_prints_every_problem_and_exits_with_1(path: Path) -> None:
    with damaged(path) as file:
        file["elites/genome"][3] = np.nan
        file["elites/emitter"][0] = 9
    done = run_qdrl("archive", "validate", path)
    assert done.returncode == 1
    assert done.stdout.splitlines() == [
        f"{path}: /elites/emitter: must lie within 0..1",
        f"{path}: /elites/genome: not finite in rows [3]",
    ]
    assert done.stderr == ""


def test_validate_reports_an_edited_file_until_it_is_sealed(path: Path) -> None:
    with damaged(path) as file:
        file["elites/fitness"][0] = 1.0
    edited = call("validate", path)
    assert edited.code == 1
    assert edited.out.startswith(f"{path}: changed since it was written")
    assert "validate --seal" in edited.out
    assert call("validate", "--seal", path).code == 0
    assert call("validate", path) == Outcome(0, f"{path}: valid qdrl-archive 1.2, 7 elites\n", "")


def test_validate_of_no_file_exits_with_2(tmp_path: Path) -> None:
    assert call("validate", tmp_path / "none.h5").code == 2
    outcome = call("validate", tmp_path)
    assert outcome.code == 2
    assert "has no archive.h5" in outcome.error


# All verbs

VERBS = [("info",), ("plot",), ("find", "--descriptor", "0", "0"), ("show", "1"), ("reevaluate",)]
REASONS = {
    "cut short": "is truncated: ",
    "empty": "is empty; ",
    "text": "is not an HDF5 file; ",
    "gone": "no such file or run folder",
    "later version": "/: format_version is 2.0",
}


def spoil(path: Path, how: str) -> None:
    if how == "cut short":
        path.write_bytes(path.read_bytes()[:-100])
    elif how == "empty":
        path.write_bytes(b"")
    elif how == "text":
        path.write_text("not an archive")
    elif how == "gone":
        path.unlink()
    else:
        with damaged(path) as file:
            file.attrs["format_version"] = "2.0"


@pytest.mark.parametrize("how", REASONS)
def test_every_reading_verb_refuses_a_bad_file_in_one_line(path: Path, how: str) -> None:
    spoil(path, how)
    for verb, *options in VERBS:
        outcome = call(verb, path, *options)
        assert (outcome.code, outcome.out) == (2, "")
        assert outcome.error.startswith(f"qdrl: {path}: {REASONS[how]}")
        assert outcome.error.count("\n") == 1


def test_the_entry_point_turns_a_mistake_into_one_line_and_code_2(path: Path) -> None:
    spoil(path, "cut short")
    done = run_qdrl("archive", "info", path)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith(f"qdrl: {path}: is truncated: ")
    assert done.stderr.count("\n") == 1


@pytest.mark.parametrize("verb", archive_verbs.command.list_commands(click.Context(archive_verbs.command)))
def test_every_verb_has_an_example_in_its_help(verb: str) -> None:
    help_text = call(verb, "--help").out
    assert "Example:\n" in help_text
    assert f"qdrl archive {verb} " in help_text
