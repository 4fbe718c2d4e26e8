"""Self-contained MJCF models: XML text and the files that it names.

`read_source` inlines includes and collects the meshes, textures and height fields that a model names, so that an
archive can hold the whole model. `stored_source` checks a model from an archive: it rejects text that could make MuJoCo
read any other file.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from xml.etree import ElementTree

from qdrl.errors import UserError

MOST_ASSET_BYTES = 2**28
_FOLDERS = {"mesh": "meshdir", "hfield": "meshdir", "skin": "meshdir", "flexcomp": "meshdir", "texture": "texturedir"}
_NAMED_BY_FILE = ("mesh", "hfield", "texture")  # elements without a name have that of their file
_UNSTORABLE = {
    "model": "attached models (asset/model)",
    "attach": "attached models (attach)",
    "extension": "plugins",
    "plugin": "plugins",
}
_INCLUDE_DEPTH = 32


@dataclass(frozen=True)
class ModelSource:
    """A MuJoCo model as text, with the files that it names.

    Attributes:
        mjcf: XML without includes and folders.
        assets: Contents of meshes, textures and height fields, by the name that the XML uses.
    """

    mjcf: str
    assets: Mapping[str, bytes] = field(default_factory=dict)


def read_source(path: str | Path) -> tuple[ElementTree.Element, dict[str, bytes]]:
    """Return a model's XML without includes and folders, and the files that it names.

    Numbers keep their text: `MjSpec.to_xml` was measured to round to six digits, so that a stored model drifted by
    1e-6 m in 20 steps.

    Args:
        path: MJCF file.

    Raises:
        UserError: A file is missing or is not MJCF, or the model uses a feature that an archive cannot store.
    """
    main = Path(path)
    root = _parsed(main)
    if root.tag != "mujoco":
        raise UserError(f"{main}: expected an MJCF file with the root element <mujoco>, got <{root.tag}>")
    _inline(root, main.parent, main.parent, depth=0)
    for element in root.iter():
        if element.tag in _UNSTORABLE:
            raise UserError(
                f"{main}: {_UNSTORABLE[element.tag]} cannot be stored in an archive; save it as one MJCF file"
            )
    return root, _collect_assets(root, main.parent)


def stored_source(mjcf: str, assets: Mapping[str, bytes]) -> ModelSource:
    """Return a model that was stored in an archive, after checking that it reads no file but its own assets.

    Args:
        mjcf: XML of the model.
        assets: Contents of the model's files, by the name that the XML uses.

    Raises:
        UserError: The text is not MJCF, or names another file.
    """
    if "<!DOCTYPE" in mjcf or "<!ENTITY" in mjcf:
        raise UserError("/meta/mjcf: document types and entities are not allowed")
    try:
        root = ElementTree.fromstring(mjcf)  # noqa: S314 - without entities
    except ElementTree.ParseError as error:
        raise UserError(f"/meta/mjcf: not XML: {error}") from error
    for element in root.iter():
        if element.tag == "include" or element.tag in _UNSTORABLE:
            raise UserError(f"/meta/mjcf: the element <{element.tag}> may read other files and is not allowed")
        for name, value in element.attrib.items():
            if name in ("meshdir", "texturedir", "assetdir"):
                raise UserError(f"/meta/mjcf: the attribute {name} is not allowed")
            if name.startswith("file") and value not in assets:
                raise UserError(f"/meta/mjcf: refers to the file '{_end_of(value)}', which is not in the archive")
    return ModelSource(mjcf, assets)


def _end_of(name: str) -> str:
    """Return a file name of any length in at most 80 characters; the end says most."""
    return name if len(name) <= 80 else f"...{name[-77:]}"


def _parsed(path: Path) -> ElementTree.Element:
    try:
        return ElementTree.parse(path).getroot()  # noqa: S314 - the user's own file
    except OSError as error:
        raise UserError(f"{path}: cannot be read: {error.strerror}") from error
    except ElementTree.ParseError as error:
        raise UserError(f"{path}: not XML: {error}") from error


def _inline(parent: ElementTree.Element, folder: Path, main: Path, depth: int) -> None:
    """Replace every include below an element by the children of the included file's root, recursively."""
    if depth > _INCLUDE_DEPTH:
        raise UserError(f"{main}: includes are nested deeper than {_INCLUDE_DEPTH} files")
    for index in range(len(parent) - 1, -1, -1):
        child = parent[index]
        if child.tag != "include":
            _inline(child, folder, main, depth)
            continue
        name = child.get("file", "")
        path = folder / name if (folder / name).is_file() else main / name
        included = _parsed(path)
        _inline(included, path.parent, main, depth + 1)
        parent[index : index + 1] = list(included)


def _collect_assets(root: ElementTree.Element, folder: Path) -> dict[str, bytes]:
    """Read the files that a model names, and remove folders from their names in the XML."""
    compiler = {name: value for element in root.iter("compiler") for name, value in element.attrib.items()}
    folders = {name: compiler.get(name, compiler.get("assetdir", "")) for name in ("meshdir", "texturedir")}
    for element in root.iter("compiler"):
        for name in ("meshdir", "texturedir", "assetdir", "strippath"):
            element.attrib.pop(name, None)
    assets: dict[str, bytes] = {}
    paths: dict[str, Path] = {}
    for element in root.iter():
        for attribute in [name for name in element.attrib if name.startswith("file")]:
            written = element.attrib[attribute]
            name = PurePosixPath(written).name
            if element.tag in _NAMED_BY_FILE and "name" not in element.attrib:
                element.set("name", PurePosixPath(written).stem)
            relative = name if compiler.get("strippath") == "true" else written
            path = folder / folders[_FOLDERS.get(element.tag, "meshdir")] / relative
            key = _free_name(name, path, paths)
            if key not in assets:
                assets[key] = _contents(path)
            element.set(attribute, key)
    if (size := sum(map(len, assets.values()))) > MOST_ASSET_BYTES:
        raise UserError(
            f"the model's files have {size / 2**20:.0f} MiB, an archive takes {MOST_ASSET_BYTES // 2**20} MiB"
        )
    return assets


def _free_name(name: str, path: Path, paths: dict[str, Path]) -> str:
    """Return a name that no other file has, upper and lower case being equal as in MuJoCo."""
    key, number = name, 1
    while paths.setdefault(key.lower(), path) != path:
        number += 1
        key = f"{number}_{name}"
    return key


def _contents(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise UserError(f"cannot read {path}, which the model refers to: {error.strerror}") from error
