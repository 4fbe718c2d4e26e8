"""MJCF models: stored ones without other files, and loading from files with includes and folders."""

from pathlib import Path

import pytest

from qdrl.errors import UserError
from qdrl.physics.mjcf import read_source, stored_source

MESH = "<mujoco><asset><mesh {attributes}/></asset></mujoco>"


@pytest.mark.parametrize(
    ("mjcf", "words"),
    [
        (MESH.format(attributes='file="/etc/passwd"'), "refers to the file '/etc/passwd'"),
        (MESH.format(attributes='file="../a.obj"'), "refers to the file"),
        ('<mujoco><asset><texture fileright="b.png"/></asset></mujoco>', "refers to the file 'b.png'"),
        ('<mujoco><include file="a.obj"/></mujoco>', "<include>"),
        ('<mujoco><asset><model file="a.obj"/></asset></mujoco>', "<model>"),
        ('<mujoco><worldbody><attach model="a"/></worldbody></mujoco>', "<attach>"),
        ('<mujoco><extension><plugin plugin="x"/></extension></mujoco>', "<extension>"),
        ('<mujoco><compiler meshdir="/etc"/></mujoco>', "meshdir"),
        ('<mujoco><compiler assetdir="/etc"/></mujoco>', "assetdir"),
        ('<!DOCTYPE x [<!ENTITY a "b">]><mujoco>&a;</mujoco>', "document types"),
        ("<mujoco>", "not XML"),
    ],
)
def test_a_stored_model_that_could_read_another_file_is_refused(mjcf: str, words: str) -> None:
    with pytest.raises(UserError, match=words) as caught:
        stored_source(mjcf, {"a.obj": b"v"})
    assert "\n" not in str(caught.value)


def test_a_stored_model_may_name_its_own_files() -> None:
    mjcf = MESH.format(attributes='name="a" file="a.obj"')
    assert stored_source(mjcf, {"a.obj": b"v"}).mjcf == mjcf


def test_files_with_the_same_name_in_two_folders_are_both_stored(tmp_path: Path) -> None:
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "part.obj").write_text(name)
    (tmp_path / "model.xml").write_text(
        '<mujoco><asset><mesh file="one/part.obj"/><mesh name="b" file="two/PART.obj"/></asset></mujoco>'
    )
    (tmp_path / "two" / "part.obj").rename(tmp_path / "two" / "PART.obj")
    root, assets = read_source(tmp_path / "model.xml")
    assert assets == {"part.obj": b"one", "2_PART.obj": b"two"}
    assert [(mesh.get("name"), mesh.get("file")) for mesh in root.iter("mesh")] == [
        ("part", "part.obj"),
        ("b", "2_PART.obj"),
    ]


def test_folders_of_the_compiler_are_resolved(tmp_path: Path) -> None:
    (tmp_path / "shapes").mkdir()
    (tmp_path / "shapes" / "part.obj").write_text("shape")
    text = '<mujoco><compiler {} angle="radian"/><asset><mesh file="{}"/></asset></mujoco>'
    for attributes, file in (
        ('meshdir="shapes"', "part.obj"),
        ('assetdir="shapes"', "part.obj"),
        ('meshdir="shapes" strippath="true"', "elsewhere/part.obj"),
        ("", "shapes/part.obj"),
    ):
        (tmp_path / "model.xml").write_text(text.format(attributes, file))
        root, assets = read_source(tmp_path / "model.xml")
        assert assets == {"part.obj": b"shape"}
        (compiler,) = root.iter("compiler")
        assert compiler.attrib == {"angle": "radian"}


def test_files_that_include_each_other_are_refused(tmp_path: Path) -> None:
    (tmp_path / "model.xml").write_text('<mujoco><include file="part.xml"/></mujoco>')
    (tmp_path / "part.xml").write_text('<mujoco><include file="part.xml"/></mujoco>')
    with pytest.raises(UserError, match="nested deeper"):
        read_source(tmp_path / "model.xml")
