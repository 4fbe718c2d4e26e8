"""`qdrl evolve`, `tasks`, `algorithms` and `doctor`, called as in a terminal."""

import json
import re
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from qdrl.errors import UserError
from qdrl.parallel.ranks import OneProcess
from tests.helpers.processes import mpirun, run_qdrl

ROOT = Path(__file__).parents[2]
DOCTOR = ("python", "torch", "devices", "MuJoCo", "HDF5", "memory", "OpenGL", "MPI", "cores", "threads")
ARM = '[task]\nname = "arm"\n[archive]\nkind = "grid"\nshape = [12, 12]\n[run]\ngenerations = 4\n'


def fresh_qdrl(*arguments: str | Path, folder: Path) -> subprocess.CompletedProcess[str]:
    """Run `python -m qdrl` in a new interpreter."""
    command = [sys.executable, "-m", "qdrl", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, cwd=folder, check=False)


def test_evolve_prints_the_outcome_and_draws_figures(tmp_path: Path) -> None:
    (tmp_path / "arm.toml").write_text(ARM)
    done = fresh_qdrl("evolve", "arm.toml", "--seed", "3", folder=tmp_path)
    assert done.returncode == 0, done.stderr
    (folder,) = (tmp_path / "runs" / "arm").iterdir()
    assert folder.name.endswith("_seed3")
    printed = dict(line.split(maxsplit=1) for line in done.stdout.splitlines() if not line.startswith(("QD", "best")))
    assert (tmp_path / printed["archive"]).is_file()
    assert (tmp_path / printed["heatmap"]).read_bytes().startswith(b"\x89PNG")
    assert "QD score" in done.stdout
    assert "best fitness" in done.stdout
    assert "coverage 0." in done.stderr  # a plain line of progress, since stderr is no terminal
    assert "\x1b" not in done.stderr


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--set", "algorithm.batch_sise=3"], "did you mean 'batch_size'"),
        (["--set", "archive.shape=[0, 1]"], "archive.shape.0"),
        (["--set", "task.name=armm"], "did you mean 'arm'"),
        (["--set", "run.generations=soon"], "run.generations"),
        (["--set", 'algorithm.batch_size="16"'], "algorithm.batch_size"),
        (["--set", "algorithm.batch_size=true"], "algorithm.batch_size"),
        (["--set", 'archive.kind=["grid"]'], "archive.kind"),
        (["--set", "archive.shape=[100000, 100000]"], "at most 10000000 cells"),
        (["--set", "task.parameters=100000", "--set", "archive.shape=[3000, 3000]"], "GiB a rank"),
        (
            ["--set", "archive={kind='novelty', capacity=9000000}", "--set", "task.parameters=100000"],
            "archive.capacity",
        ),
        (["--set", "task.=3"], "expected table.key=value"),
    ],
)
def test_a_mistake_is_one_line_exit_code_two_and_nothing_written(
    tmp_path: Path, arguments: list[str], words: str
) -> None:
    (tmp_path / "arm.toml").write_text(ARM)
    done = run_qdrl("evolve", "arm.toml", *arguments, folder=tmp_path)
    assert done.returncode == 2
    assert done.stdout == ""
    assert done.stderr.count("\n") == 1
    assert words in done.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["arm.toml"]


def test_an_unknown_verb_or_option_names_the_nearest(tmp_path: Path) -> None:
    wrong_verb = run_qdrl("evolv", folder=tmp_path)
    assert wrong_verb.returncode == 2
    assert "did you mean 'evolve'" in wrong_verb.stderr
    wrong_option = run_qdrl("evolve", "arm.toml", "--sed", "3", folder=tmp_path)
    assert wrong_option.returncode == 2
    assert "--seed" in wrong_option.stderr


@pytest.mark.parametrize(
    ("words", "meant"),
    [
        (["info", "a.h5"], "qdrl archive info"),
        (["plot", "a.h5"], "qdrl archive plot"),
        (["archive", "resume", "run"], "qdrl resume"),
        (["archive", "inf"], "info"),
        (["evolv"], "evolve"),
    ],
)
def test_a_verb_of_another_group_is_named_in_full(words: list[str], meant: str) -> None:
    from qdrl.cli import qdrl as group

    mistake = CliRunner().invoke(group, words).exception
    assert isinstance(mistake, UserError)
    assert f"did you mean '{meant}'" in str(mistake)


def test_a_gymnasium_environment_is_described_as_far_as_it_can_be() -> None:
    from qdrl.cli.tasks import command

    printed = CliRunner().invoke(command, ["gym:Pendulum-v1"]).stdout
    assert "at most 200 steps" in printed
    assert "needs       task.descriptor" in printed
    described = json.loads(CliRunner().invoke(command, ["gym:Pendulum-v1", "--json"]).stdout)
    assert described["task"] == "gym:Pendulum-v1"


def test_a_run_folder_that_exists_is_refused_with_exit_code_two(tmp_path: Path) -> None:
    (tmp_path / "arm.toml").write_text(ARM)
    (tmp_path / "taken").mkdir()
    done = run_qdrl("evolve", "arm.toml", "--output", "taken", folder=tmp_path)
    assert done.returncode == 2
    assert "taken exists" in done.stderr
    assert list((tmp_path / "taken").iterdir()) == []


def test_a_users_descriptor_function_is_found_beside_the_experiment(tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text("def height(trajectory):\n    return [trajectory.observations[-1][0]]\n")
    (tmp_path / "cart.toml").write_text(
        '[task]\nname = "gym:CartPole-v1"\nepisode_length = 10\ndescriptor = "mine:height"\n'
        'axes = [{name = "last position", unit = "m", lower = -1.0, upper = 1.0}]\n'
        '[policy]\nhidden_sizes = [4]\n[archive]\nkind = "grid"\nshape = [20]\n[run]\ngenerations = 1\n'
    )
    done = run_qdrl("evolve", "cart.toml", folder=tmp_path)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(
    ("module", "words"),
    [
        ("def height(trajectory) return 1", "SyntaxError"),
        ("raise RuntimeError('at import')", "at import"),
        ("def height(): return [0.0]", "must take one argument, the trajectory"),
        ("height = 3", "is not a function"),
    ],
)
def test_a_descriptor_function_that_cannot_work_is_one_line(tmp_path: Path, module: str, words: str) -> None:
    (tmp_path / "mine.py").write_text(module)
    (tmp_path / "cart.toml").write_text(
        '[task]\nname = "gym:CartPole-v1"\ndescriptor = "mine:height"\n'
        'axes = [{name = "x", lower = -1.0, upper = 1.0}]\n[run]\ngenerations = 1\n'
    )
    done = run_qdrl("evolve", "cart.toml", folder=tmp_path)
    assert done.returncode == 2
    assert words in done.stderr
    assert len(done.stderr.splitlines()) == 1
    assert not (tmp_path / "runs").exists()


@pytest.mark.mpi
def test_a_mistake_under_mpirun_is_printed_once(tmp_path: Path) -> None:
    (tmp_path / "arm.toml").write_text(ARM + "generatons = 3\n")
    job = mpirun(3, ["-m", "qdrl", "evolve", tmp_path / "arm.toml", "--output", tmp_path / "run"])
    assert job.returncode == 2
    assert job.stderr.count("did you mean 'generations'") == 1
    assert not (tmp_path / "run").exists()


@pytest.mark.mpi
def test_a_mistake_found_after_mpi_began_ends_all_ranks(tmp_path: Path) -> None:
    (tmp_path / "arm.toml").write_text(ARM)
    (tmp_path / "taken").mkdir()
    job = mpirun(3, ["-m", "qdrl", "evolve", tmp_path / "arm.toml", "--output", tmp_path / "taken"], timeout=30)
    assert job.returncode == 2
    assert job.stderr.count("taken exists") == 1


def test_tasks_lists_every_task_with_the_facts_that_comparisons_need() -> None:
    from qdrl.tasks.registry import task_names

    listed = run_qdrl("tasks").stdout
    assert all(name in listed for name in task_names())
    described = run_qdrl("tasks", "ant_omni").stdout
    for word in ("final x [m] in -30..30", "at most 250 steps", "offset per step 4", "x, y / 30 m (2)"):
        assert word in described
    unknown = run_qdrl("tasks", "ant_omny")
    assert unknown.returncode == 2
    assert "did you mean 'ant_omni'" in unknown.stderr


def test_algorithms_lists_settings_with_their_defaults() -> None:
    assert "map_elites" in run_qdrl("algorithms").stdout
    assert "batch_size" in run_qdrl("algorithms", "map_elites").stdout
    described = run_qdrl("algorithms", "evotorch").stdout
    assert (
        '  with searcher.optimizer.name = "clipup":\n    searcher.optimizer.max_speed: number, above 0; default 0.15\n'
        in described
    )
    cmaes = described.partition('with searcher.name = "cmaes":')[2]
    for line in (
        "initial_stdev: number, above 0; required",
        "separable: boolean; default false",
        "active: boolean; default true",
    ):
        assert f"searcher.{line}\n" in cmaes


def test_doctor_names_every_part_of_the_machine() -> None:
    done = run_qdrl("doctor")
    assert done.returncode == 0
    found = dict(line.split(maxsplit=1) for line in done.stdout.splitlines())
    assert set(found) == set(DOCTOR)
    assert "BROKEN" not in done.stdout
    assert "OMP_NUM_THREADS=1" in found["threads"]


def _doctor() -> dict[str, str]:
    from qdrl.cli.doctor import command

    done = CliRunner().invoke(command)
    assert done.exit_code == 0, done.output
    return dict(line.split(maxsplit=1) for line in done.stdout.splitlines())


def test_doctor_reports_missing_and_broken_mpi(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MUJOCO_GL", "disable")  # this process may not load a library that others lack
    monkeypatch.setitem(sys.modules, "mpi4py", None)
    monkeypatch.delitem(sys.modules, "qdrl.parallel.mpi", raising=False)
    assert _doctor()["MPI"].startswith("none (")
    monkeypatch.setenv("PMI_RANK", "0")
    monkeypatch.setenv("PMI_SIZE", "2")
    found = _doctor()
    assert set(found) == set(DOCTOR)
    assert found["MPI"].startswith("BROKEN: 2 ranks were launched but MPI cannot be used")


@pytest.mark.parametrize(("core", "verdict"), [(1, ""), (0, "OVERSUBSCRIBED: 2 threads on 1 cores")])
def test_doctor_counts_the_cores_of_all_ranks_of_the_node(
    monkeypatch: pytest.MonkeyPatch, core: int, verdict: str
) -> None:
    """mpirun binds every rank to its own core, so each rank reports only that core."""

    class TwoRanks(OneProcess):
        def gather(self, value: Any) -> list[Any]:
            return [(value[0], {0}), (value[0], {core}), ("another node", {2, 3})]

    monkeypatch.setitem(sys.modules, "mpi4py", None)  # after starting MPI, later tests could not start processes
    monkeypatch.setattr("qdrl.parallel.ranks.connect", TwoRanks)
    monkeypatch.setenv("MUJOCO_GL", "disable")
    monkeypatch.setenv("OMPI_COMM_WORLD_RANK", "0")
    monkeypatch.setenv("OMPI_COMM_WORLD_LOCAL_SIZE", "2")
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    assert _doctor()["threads"].partition("; ")[2] == verdict


def test_importing_qdrl_is_quick_and_loads_nothing_heavy() -> None:
    heavy = "{'torch', 'mujoco', 'mpi4py', 'h5py', 'numpy', 'matplotlib', 'gymnasium', 'pydantic'}"
    code = f"import sys, qdrl; print(sorted({heavy} & set(sys.modules)))"
    assert subprocess.check_output([sys.executable, "-c", code], text=True) == "[]\n"
    bare = _quickest([sys.executable, "-c", "pass"])
    assert _quickest([sys.executable, "-c", "import qdrl"]) - bare < 0.2
    assert _quickest([sys.executable, "-m", "qdrl", "--help"]) < 0.5


def test_every_public_name_can_be_imported_and_stays_what_it_is() -> None:
    import types

    import qdrl

    for name in qdrl.__all__:
        assert not isinstance(getattr(qdrl, name), types.ModuleType)
        assert getattr(qdrl, name) is getattr(qdrl, name)  # a submodule of the same name would replace it
    with pytest.raises(AttributeError, match="public names"):
        getattr(qdrl, "MapElitez")  # noqa: B009 - a type error as an attribute


def test_every_verb_has_an_example_in_its_help() -> None:
    from qdrl.cli import qdrl as group

    verbs = ["evolve", "resume", "tasks", "algorithms", "render", "doctor", "archive"]
    archive = ["info", "plot", "show", "find", "validate"]
    for words in [[verb] for verb in verbs] + [["archive", verb] for verb in archive]:
        text = CliRunner().invoke(group, [*words, "--help"]).output
        assert "Example:" in text
        for named in re.findall(r"(?:archives|experiments)/\S+", text):
            assert (ROOT / named).exists(), named


def _quickest(command: list[str], times: int = 5) -> float:
    seconds = []
    for _ in range(times):
        began = time.perf_counter()
        subprocess.run(command, check=True, capture_output=True)
        seconds.append(time.perf_counter() - began)
    return min(seconds)
