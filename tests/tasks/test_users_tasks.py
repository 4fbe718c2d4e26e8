"""Users' tasks by reference: the examples of docs/how-to/task.md unchanged, and incomplete classes."""

import re
import sys
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
import torch
from click.testing import CliRunner

from qdrl.archives.hdf5 import content_digest, open_archive
from qdrl.cli import qdrl
from qdrl.config import load_experiment, parse_experiment
from qdrl.errors import RunFailed, UserError
from qdrl.parallel.ranks import OneProcess
from qdrl.run.resume import resume
from qdrl.run.start import start
from qdrl.tasks.registry import make_task, settings_class
from tests.helpers.processes import mpirun
from tests.tasks.builders import candidates, first_genomes

DOCUMENT = Path(__file__).parents[2] / "docs" / "how-to" / "task.md"
MODULES = ("schwefel", "cart", "test_cart", "lacking")
CART = {
    "name": "cart",
    "task": {"name": "cart:Cart", "episode_length": 20},
    "policy": {"hidden_sizes": [4]},
    "archive": {"kind": "grid", "shape": [10]},
    "algorithm": {"name": "map_elites", "batch_size": 8},
    "run": {"generations": 3, "checkpoint_seconds": 0},
}


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", DOCUMENT.read_text(), re.DOTALL)


ALGORITHM = re.compile(r"\[algorithm\]\n(.+\n)+")


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[Path]:
    """Save the files of the document."""
    schwefel, _, cart, test_of_cart = blocks("python")
    schwefel_table, cart_table, critic_table = blocks("toml")
    for name, text in (
        ("schwefel.py", schwefel),
        ("cart.py", cart),
        ("test_cart.py", test_of_cart),
        ("schwefel.toml", schwefel_table),
        ("cart.toml", cart_table),
        ("critic.toml", cart_table.replace(ALGORITHM.search(cart_table).group(), critic_table)),  # pyright: ignore[reportOptionalMemberAccess]
    ):
        (tmp_path / name).write_text(text)
    before = list(sys.path)
    yield tmp_path
    sys.path[:] = before
    for name in MODULES:
        sys.modules.pop(name, None)


def forget() -> None:
    """Unload the modules, as in a process that has not loaded the experiment."""
    for name in MODULES:
        sys.modules.pop(name, None)


@pytest.mark.parametrize("name", ["schwefel", "cart"])
def test_a_users_task_is_run_resumed_stored_and_rerun_where_that_is_allowed(
    name: str, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(folder)
    overrides = ["run.generations=2", "algorithm.batch_size=8"]
    experiment = load_experiment(f"{name}.toml", overrides)
    run = start(experiment, OneProcess(), folder=folder / "run", modules=folder, progress=False).folder
    resume(run, OneProcess(), overrides=["run.generations=4"], progress=False)
    whole = load_experiment(f"{name}.toml", ["run.generations=4", "algorithm.batch_size=8"])
    uninterrupted = start(whole, OneProcess(), folder=folder / "whole", progress=False)
    assert content_digest(run / "archive.h5") == content_digest(uninterrupted.archive)

    stored = open_archive(run / "archive.h5")
    reference = str(stored.meta["task"]["name"])
    assert reference.partition(":")[0] == name
    assert stored.meta["code"][reference]["source"] == (folder / f"{name}.py").read_text()

    forget()
    show = ["archive", "show", str(run / "archive.h5"), str(stored.best_cell), "--replay"]
    shown = CliRunner().invoke(qdrl, show)
    assert isinstance(shown.exception, UserError)
    assert f"task '{reference}' (" in str(shown.exception)
    assert name not in sys.modules
    shown = CliRunner().invoke(qdrl, [*show, "--allow-code"])
    assert shown.exit_code == 0, shown.output
    assert "bit for bit" in shown.output


def test_a_changed_task_is_not_resumed(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder)
    experiment = load_experiment("cart.toml", ["run.generations=1", "algorithm.batch_size=4"])
    run = start(experiment, OneProcess(), folder=folder / "run", modules=folder, progress=False).folder
    (folder / "cart.py").write_text((folder / "cart.py").read_text() + "\n")
    with pytest.raises(UserError, match=r"source of cart:Cart has changed"):
        resume(run, OneProcess(), overrides=["run.generations=2"], progress=False)


def test_a_critic_of_the_size_in_the_document_learns(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder)
    experiment = load_experiment("critic.toml", ["run.generations=2", "algorithm.critic.steps=5"])
    outcome = start(experiment, OneProcess(), folder=folder / "run", progress=False)
    assert open_archive(outcome.archive).history["critic_steps"].tolist() == [5, 5]


@pytest.mark.parametrize(
    ("axes", "words"),
    [
        ('(Axis("final position", "m", 4.0, -4.0),)', "lower < upper; got Axis"),
        ('(Axis("final position", -4.0, 4.0, "m"),)', "takes two strings and two finite numbers"),
        ('Axis("final position", "m", -4.0, 4.0)', r"must be a tuple of one or more Axis\(name, unit, lower, upper\)"),
        ("()", "must be a tuple of one or more"),
        ('(Axis("x", "m", -4.0, 4.0), Axis("x", "m", -4.0, 4.0))', "need different names"),
    ],
)
def test_wrong_axes_of_a_task_are_an_error(
    folder: Path, monkeypatch: pytest.MonkeyPatch, axes: str, words: str
) -> None:
    monkeypatch.syspath_prepend(folder)
    source = (folder / "cart.py").read_text()
    right = '(Axis("final position", "m", -4.0, 4.0),)'
    assert right in source
    (folder / "cart.py").write_text(source.replace(right, axes))
    with pytest.raises(UserError, match=f"task.name: axes of 'cart:Cart'.*{words}"):
        make_task("cart:Cart")


def test_the_check_prints_an_exception_of_the_task_in_one_line(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(folder)
    source = (folder / "cart.py").read_text()
    (folder / "cart.py").write_text(source.replace("self.force * push", "self.forse * push"))
    outcome = CliRunner().invoke(qdrl, ["tasks", "cart:Cart", "--check"])
    assert isinstance(outcome.exception, UserError)
    assert re.search(r"cart\.py:\d+ in step: AttributeError: .*'forse'", str(outcome.exception))
    assert "\n" not in str(outcome.exception)


@pytest.mark.mpi
def test_a_users_task_gives_the_same_archive_on_two_ranks(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder)
    overrides = ["run.generations=3", "algorithm.batch_size=8"]
    alone = start(load_experiment("cart.toml", overrides), OneProcess(), folder=folder / "one", progress=False)
    sets = [argument for override in overrides for argument in ("--set", override)]
    job = mpirun(2, ["-m", "qdrl", "evolve", folder / "cart.toml", "--output", folder / "two", *sets])
    assert job.returncode == 0, job.stderr
    assert content_digest(folder / "two" / "archive.h5") == content_digest(alone.archive)


def test_the_python_line_of_the_document_makes_the_task(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(folder))
    names: dict[str, Any] = {}
    exec(compile(blocks("python")[1], str(DOCUMENT), "exec"), names)
    assert names["task"].spec.options == {"name": "schwefel:Schwefel", "parameters": 6}
    assert names["task"].code == ("schwefel:Schwefel",)
    assert set(settings_class("schwefel:Schwefel").model_fields) == {"name", "parameters"}


HEAD = """
from pydantic import BaseModel
from qdrl.archives.axes import Axis
from qdrl.tasks.base import Task, TaskSpec
from qdrl.tasks.functions import FunctionTask
from qdrl.tasks.settings import TaskSettings

class Sized(TaskSettings):
    size: int = 3

def spec_of(settings, setup, **more):
    return TaskSpec.of(settings, setup, summary="s", axes=(Axis("x", "1", 0, 1),), fitness_name="f", **more)
"""


@pytest.mark.parametrize(
    ("code", "words"),
    [
        ("class Mine:\n    pass\n", "needs a pydantic model as its attribute Settings"),
        ("class Mine:\n    class Settings(BaseModel):\n        size: int = 3\n", "needs the field name: str"),
        ("class Mine(Task):\n    Settings = Sized\n    def __init__(self, settings):\n        pass\n", "two arguments"),
        (
            "class Mine:\n    Settings = Sized\n    def __init__(self, settings, setup):\n        pass\n",
            "lacks spec, parameters, mjcf",
        ),
        (
            "class Mine(Task):\n    Settings = Sized\n    def __init__(self, settings, setup):\n"
            "        self.spec, self.parameters = spec_of(settings, setup), 3\n",
            "lacks initial, evaluate; subclass",
        ),
        (
            "class Mine(FunctionTask):\n    Settings = Sized\n    def __init__(self, settings, setup):\n"
            "        renamed = settings.model_copy(update={'name': 'other'})\n"
            "        super().__init__(spec_of(renamed, setup), 3, 1.0, None)\n",
            "has the name 'other'",
        ),
        (
            "class Mine(FunctionTask):\n    Settings = Sized\n    def __init__(self, settings, setup):\n"
            "        changed = settings.model_copy(update={'size': 5})\n"
            "        super().__init__(spec_of(changed, setup), 3, 1.0, None)\n",
            "do not rebuild its settings",
        ),
        (
            "class Mine(FunctionTask):\n    Settings = Sized\n    def __init__(self, settings, setup):\n"
            "        super().__init__(spec_of(settings, setup), 0, 1.0, None)\n",
            "must be a positive int, got 0",
        ),
        (
            "class Mine(FunctionTask):\n    Settings = Sized\n    def __init__(self, settings, setup):\n"
            "        super().__init__(spec_of(settings, setup), 3, 1.0, None)\n"
            "    def find_warnings(self):\n        pass\n",
            "defines find_warnings, which is never called: did you mean find_warning",
        ),
        ("Other = 3\n", "has no 'Mine'"),
        ("raise RuntimeError('at import')\n", "at import"),
    ],
)
def test_a_class_that_is_no_task_is_an_error_in_one_line(
    code: str, words: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "lacking.py").write_text(HEAD + code)
    monkeypatch.syspath_prepend(str(tmp_path))
    try:
        with pytest.raises(UserError, match=words) as caught:
            make_task("lacking:Mine")
    finally:
        forget()
    assert "\n" not in str(caught.value)
    assert "lacking" in str(caught.value)


def test_a_users_task_runs_on_the_cpu_unless_it_states_devices(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(folder))
    with pytest.raises(UserError, match=r"compute.device: 'cart:Cart' runs on cpu, not on 'cuda'"):
        make_task("cart:Cart", device="cuda")
    with pytest.raises(UserError, match=r"compute.isolate: applies only to tasks behind 'gym:', not to 'cart:Cart'"):
        make_task("cart:Cart", isolate=True)
    with pytest.raises(UserError, match=r"task 'cart:Cart': unknown key 'forse'; did you mean 'force'\?"):
        make_task("cart:Cart", forse=3.0)
    with pytest.raises(UserError, match=r"task 'schwefel:Schwefel': parameters: input should be greater .* 2, got 1"):
        make_task("schwefel:Schwefel", parameters=1)


def edit(folder: Path, old: str, new: str) -> None:
    """Change the cart task of the document."""
    text = (folder / "cart.py").read_text()
    assert old in text
    (folder / "cart.py").write_text(text.replace(old, new))
    forget()


def test_the_test_of_the_document_passes(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(folder))
    import_module("test_cart").test_the_task_keeps_its_contract()


def test_a_world_that_raises_ends_the_run_and_the_checkpoint_stays(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(str(folder))
    edit(folder, "    def step(self, actions):\n", "    def step(self, actions):\n        count_a_step()\n")
    edit(
        folder,
        "class CartWorlds",
        "STEPS = []\n\ndef count_a_step():\n    STEPS.append(0)\n    if len(STEPS) > 30:  # in the second generation\n"
        "        raise RuntimeError('a wheel came off')\n\nclass CartWorlds",
    )
    with pytest.raises(RuntimeError, match="a wheel came off"):
        start(parse_experiment(CART), OneProcess(), folder=folder / "run", modules=folder, progress=False)
    assert "ended by RuntimeError: a wheel came off" in (folder / "run" / "log.txt").read_text()
    assert open_archive(folder / "run" / "archive.h5").history["generation"].tolist() == [0]
    edit(folder, "len(STEPS) > 30", "False")
    outcome = resume(folder / "run", OneProcess(), accept_changed_code=True, progress=False)
    assert open_archive(outcome.archive).history["generation"].tolist() == [0, 1, 2]


@pytest.mark.parametrize("report", ["reward", "failed"])
def test_a_world_that_reports_a_failure_fails_only_its_own_evaluation(
    report: str, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(str(folder))
    edit(folder, "torch.zeros(count, 2,", "torch.zeros(count, 3,")
    edit(folder, "torch.tensor([start, 0.0],", "torch.tensor([start, 0.0, seed],")
    edit(folder, "self.state[: len(ages)].float()", "self.state[: len(ages), :2].float()")
    whole = make_task("cart:Cart", policy={"hidden_sizes": [4]}, episode_length=20)
    batch = candidates(first_genomes(whole, 6))
    expected = whole.evaluate(batch)
    if report == "reward":
        broken = "torch.where(state[:, 2] == 3, torch.nan, 1.0 - push.square())"
        edit(folder, "return 1.0 - push.square(), terminated", f"return {broken}, terminated")
    else:
        failed = "    def failed(self, slot):\n        return bool(self.state[slot, 2] == 3)\n"
        edit(folder, "    def move(", f"{failed}\n    def move(")
    evaluation = make_task("cart:Cart", policy={"hidden_sizes": [4]}, episode_length=20).evaluate(batch)
    others = [0, 1, 2, 4, 5]
    assert evaluation.failed.tolist() == [row == 3 for row in range(6)]
    assert torch.equal(evaluation.fitness[others], expected.fitness[others])
    assert torch.equal(evaluation.descriptor[others], expected.descriptor[others])
    reason = "fitness is nan" if report == "reward" else "the task reported a failure"
    assert evaluation.first_failure is not None
    assert evaluation.first_failure.endswith(reason)


HOOKS = """
class Mine(FunctionTask):
    Settings = Sized
    calls = []

    def __init__(self, settings, setup):
        super().__init__(spec_of(settings, setup), 3, 1.0, self.function)

    def function(self, genomes):
        self.calls.append("evaluate")
        nan = genomes[:, 0] * float("nan")
        return nan, nan[:, None]

    def prepare(self):
        self.calls.append("prepare")

    def close(self):
        self.calls.append("close")

    def find_warning(self):
        return "elites of this task age"

    @property
    def first_failure(self):
        return FAILURE
"""
MINE = {
    "name": "mine",
    "task": {"name": "lacking:Mine"},
    "archive": {"kind": "grid", "shape": [4]},
    "algorithm": {"name": "map_elites", "batch_size": 4},
    "run": {"generations": 2},
}


@pytest.mark.parametrize(
    ("failure", "reason"),
    [
        ("'the ruler broke'", r"the first one: the ruler broke \(traceback in log.txt\); fix"),
        (
            "None",
            r"the first one: the evaluation with seed \d+ failed after 1 steps: fitness is nan; descriptor\[0\] is nan",
        ),
    ],
)
def test_a_run_calls_the_hooks_of_a_users_task(
    failure: str, reason: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "lacking.py").write_text(HEAD + HOOKS.replace("FAILURE", failure))
    monkeypatch.syspath_prepend(str(tmp_path))
    try:
        with pytest.raises(RunFailed, match=f"all 4 evaluations failed; {reason}"):
            start(parse_experiment(MINE), OneProcess(), folder=tmp_path / "run", progress=False)
        assert sys.modules["lacking"].Mine.calls == ["prepare", "evaluate", "close"]
    finally:
        forget()
    assert "elites of this task age" in (tmp_path / "run" / "log.txt").read_text()
