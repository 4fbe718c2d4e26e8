"""Users' robots: the example of docs/how-to/robot.md unchanged, and classes that do not fit their model."""

import json
import re
import shutil
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import h5py
import mujoco
import numpy as np
import pytest
import torch
from click.testing import CliRunner

from qdrl.analysis.decode import task_of
from qdrl.archives.hdf5 import content_digest, open_archive, write_archive
from qdrl.archives.statistics import Offsets
from qdrl.cli import qdrl
from qdrl.config import load_experiment
from qdrl.errors import UserError
from qdrl.parallel.ranks import OneProcess
from qdrl.run.resume import resume
from qdrl.run.start import start
from qdrl.tasks.episodic import EpisodicTask
from qdrl.tasks.locomotion.models import compile_model, read_model
from qdrl.tasks.locomotion.worlds import LocomotionWorlds
from qdrl.tasks.registry import make_task
from tests.helpers.devices import WARP_DEVICES
from tests.tasks.builders import candidates, first_genomes

DOCUMENT = Path(__file__).parents[3] / "docs" / "how-to" / "robot.md"
SMALL = ["run.generations=2", "algorithm.batch_size=6", "task.episode_length=30"]


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", DOCUMENT.read_text(), re.DOTALL)


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Save the files of the document in a folder and change to it."""
    (tmp_path / "meshes").mkdir()
    for names, language in (
        (["crawler.xml", "legs.xml"], "xml"),
        (["meshes/hull.obj"], "text"),
        (["crawler.py"], "python"),
        (["crawler.toml"], "toml"),
    ):
        for name, text in zip(names, blocks(language), strict=True):
            (tmp_path / name).write_text(text)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    before = list(sys.path)
    yield tmp_path
    sys.path[:] = before
    sys.modules.pop("crawler", None)


def crawler(**options: Any) -> EpisodicTask:
    task = make_task("crawler:Crawler", policy={"hidden_sizes": (8,)}, **options)
    assert isinstance(task, EpisodicTask)
    return task


def test_a_robot_without_an_offset_needs_one_to_have_it_in_fitness(folder: Path) -> None:
    assert crawler().spec.offsets == Offsets()
    with pytest.raises(
        UserError, match=r"task.offset_in_fitness: crawler:Crawler has no offset, set task.reward_offset"
    ):
        crawler(offset_in_fitness=True)
    assert crawler(offset_in_fitness=True, reward_offset=2.0).spec.offsets == Offsets(included_offset=2.0)


def test_a_robot_is_run_and_rerun_from_its_archive_without_its_model_files(folder: Path) -> None:
    done = start(load_experiment("crawler.toml", SMALL), OneProcess(), folder=folder / "run", progress=False)
    stored = open_archive(done.archive)
    assert set(stored.meta["assets"]) == {"hull.obj"}
    assert "include" not in stored.meta["mjcf"]
    shutil.rmtree(folder / "meshes")
    for name in ("crawler.xml", "legs.xml"):
        (folder / name).unlink()
    sys.modules.pop("crawler", None)
    show = ["archive", "show", str(done.archive), str(stored.best_cell), "--replay"]
    refused = CliRunner().invoke(qdrl, show)
    assert "needs code that it names: task 'crawler:Crawler'" in str(refused.exception)
    shown = CliRunner().invoke(qdrl, [*show, "--allow-code"])
    assert shown.exit_code == 0, shown.output
    assert "bit for bit" in shown.output


def test_a_robot_is_resumed_with_its_own_model_only(folder: Path) -> None:
    run = start(load_experiment("crawler.toml", SMALL), OneProcess(), folder=folder / "run", progress=False).folder
    resume(run, OneProcess(), overrides=["run.generations=3"], progress=False)
    whole = load_experiment("crawler.toml", [*SMALL, "run.generations=3"])
    uninterrupted = start(whole, OneProcess(), folder=folder / "whole", progress=False)
    assert content_digest(run / "archive.h5") == content_digest(uninterrupted.archive)
    hull = folder / "meshes" / "hull.obj"
    hull.write_text(hull.read_text().replace("0.35 0.1 0.05", "0.36 0.1 0.05"))
    with pytest.raises(UserError, match="source of the MuJoCo model has changed"):
        resume(run, OneProcess(), overrides=["run.generations=4"], progress=False)


def test_a_mesh_edited_within_a_second_is_read_again(folder: Path) -> None:
    hull = folder / "meshes" / "hull.obj"
    longer = hull.read_text().replace("0.35 0.1 0.05", "0.36 0.1 0.05")
    before = read_model(folder / "crawler.xml")
    hull.write_text(longer)
    after = read_model(folder / "crawler.xml")
    lengths = [compile_model(source).mesh_vert[:, 0].max() for source in (before, after)]
    assert lengths[0] != lengths[1]


def test_worlds_do_exactly_what_mujoco_does_with_the_file(folder: Path) -> None:
    worlds = crawler().make_worlds(2)
    assert isinstance(worlds, LocomotionWorlds)
    worlds.reset([0, 1], [5, 6])
    model = mujoco.MjModel.from_xml_path(str(folder / "crawler.xml"))
    data = mujoco.MjData(model)
    data.qpos[:], data.qvel[:] = (worlds.physics.state[name][1].numpy() for name in ("qpos", "qvel"))
    total, draw = 0.0, np.random.default_rng(0)
    for step in range(1, 41):
        actions = draw.uniform(-1, 1, (2, 2))
        x, control = data.qpos[0], actions[1].astype(np.float64)
        reward, terminated = worlds.step(torch.from_numpy(actions))
        data.ctrl[:] = control
        mujoco.mj_step(model, data, 5)
        np.testing.assert_array_equal(worlds.physics.state["qpos"][1].numpy(), data.qpos)
        effort = 0.05 * (control * control).sum()
        assert reward[1].item() == data.qpos[0] - x - effort * 0.05
        assert bool(terminated[1]) == (data.qpos[2] <= 0.1)
        total += worlds.observe(torch.tensor([step, step]))[1, 0].item() - np.float32(data.qpos[2])
    assert total == 0.0
    assert worlds.descriptor(1, 40).max() > 0


@pytest.mark.slow
@pytest.mark.parametrize("device", WARP_DEVICES)
def test_a_robot_runs_on_a_device(folder: Path, device: str) -> None:
    near, far = crawler(episode_length=10, worlds=4), crawler(episode_length=10, worlds=4, device=device)
    rows = candidates(first_genomes(near, 4))
    expected, found = near.evaluate(rows), far.evaluate(rows)
    torch.testing.assert_close(found.fitness.cpu(), expected.fitness, rtol=1e-2, atol=1e-3)
    assert found.descriptor.shape == (4, 2)


@pytest.mark.parametrize(
    ("file", "old", "new", "words"),
    [
        ("crawler.py", "return step.advance", "return (step.advance", "cannot import module 'crawler'"),
        ("crawler.py", '"front legs", "back', '"fron legs", "back', "no body 'fron legs'.*'front legs'"),
        ("crawler.py", 'state["sensordata"] > 0', 'state["xpos"][:, 0]', r"descriptor: reads state\['xpos'\]"),
        (
            "crawler.py",
            'state["sensordata"] > 0',
            'state["qpos"][:, :3]',
            r"descriptor: expected.* got .*\(2, 3\)",
        ),
        (
            "crawler.py",
            "return step.advance - effort * step.seconds",
            "return 0.0",
            "reward: expected.* got float",
        ),
        ("crawler.py", 'return state["qpos"][:, 2] > 0.1', 'return state["qpos"][:, 2]', "healthy: expected bool"),
        ("crawler.py", '"mean"', '"median"', "descriptor_reduction must be"),
        ("crawler.py", "(RobotSettings)", "(TaskSettings)", "subclass of RobotSettings"),
        ("crawler.py", "    def reward(self, step)", "    def rewards(self, step)", "must define reward"),
        ("crawler.xml", "hull.obj", "hulk.obj", "hulk.obj, which the model refers to: "),
        ("crawler.xml", "legs.xml", "arms.xml", "arms.xml: cannot be read"),
        ("crawler.xml", ' ctrlrange="-1 1"', "", "actuator 0 has no ctrlrange"),
        ("crawler.xml", "</mujoco>", "", "not XML"),
        ("crawler.xml", 'joint="front hip"', 'joint="front hop"', "MuJoCo cannot compile"),
        ("crawler.xml", "<asset>", "<extension/><asset>", "plugins cannot be stored"),
        ("legs.xml", "mujocoinclude>", "mujoco>", "^$"),
    ],
)
def test_what_does_not_fit_is_an_error_in_one_line(folder: Path, file: str, old: str, new: str, words: str) -> None:
    path = folder / file
    assert old in path.read_text()
    head = "from qdrl.tasks.settings import TaskSettings\n" if file.endswith(".py") else ""
    path.write_text(head + path.read_text().replace(old, new))
    if words == "^$":  # an included file may have another root element
        crawler()
        return
    with pytest.raises(UserError, match=words) as caught:
        crawler()
    assert "\n" not in str(caught.value)


def test_a_file_cannot_make_mujoco_read_another_file(folder: Path) -> None:
    done = start(load_experiment("crawler.toml", SMALL), OneProcess(), folder=folder / "run", progress=False)
    stored = open_archive(done.archive)
    hostile = stored.meta["mjcf"].replace('file="hull.obj"', f'file="{folder}/meshes/hull.obj"')
    write_archive(folder / "hostile.h5", replace(stored, meta=stored.meta | {"mjcf": hostile}))
    with pytest.raises(UserError, match=r"refers to the file .*hull.obj', which is not in the archive"):
        task_of(open_archive(folder / "hostile.h5"), allow_code=True)
    with h5py.File(done.archive, "r+") as file:
        del file["meta/assets"]
        file["meta/assets"] = json.dumps({"hull.obj": "?"})
    with pytest.raises(UserError, match=r"/meta/assets: hull.obj is not base64 text"):
        open_archive(done.archive)
