"""Files that qdrl never writes: changed bytes, and well-formed HDF5 of the wrong structure.

Every mutation takes an open h5py file and a random generator, and changes the file in place. If it finds nothing to
change, it raises an exception such as `KeyError` or `ValueError`, and the caller chooses another mutation.
"""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np

Mutation = Callable[[Any, np.random.Generator], None]

HUGE = 10**12
COLUMN = ("cell", "fitness", "descriptor", "evaluation_seed", "generation", "emitter", "parent_cell", "n_evaluations")
WRONG: tuple[Any, ...] = (
    "text",
    b"\xff\xfe",
    -1,
    2**62,
    float("nan"),
    1e308,
    True,
    1 + 2j,
    np.zeros(3),
    np.zeros((2, 2)),
    np.zeros(0),
    np.arange(4, dtype=">i4"),
    np.array([b"a", b"b"]),
    np.float16(1),
    h5py.Empty("f8"),
)


def change_bytes(path: Path, random: np.random.Generator) -> str:
    """Change some bytes of a file; return the kind of change."""
    content = bytearray(path.read_bytes())
    size, place = len(content), int(random.integers(len(path.read_bytes())))
    way = str(random.choice(["flip", "overwrite", "zeros", "ones", "cut", "delete", "insert", "swap"], p=_SHARES))
    length = int(min(size - place, 2 ** random.integers(0, 12)))
    if way == "flip":
        for index in random.integers(0, size, int(2 ** random.integers(0, 7))):
            content[index] ^= 1 << int(random.integers(8))
    elif way == "cut":
        del content[place:]
    elif way == "delete":
        del content[place : place + length]
    elif way == "insert":
        content[place:place] = random.bytes(length)
    elif way == "swap":
        other = int(random.integers(size - length + 1))
        content[place : place + length], content[other : other + length] = (
            content[other : other + length],
            content[place : place + length],
        )
    else:
        fill = {"overwrite": random.bytes(length), "zeros": bytes(length), "ones": b"\xff" * length}
        content[place : place + length] = fill[way]
    path.write_bytes(content)
    return way


_SHARES = [0.4, 0.25, 0.08, 0.08, 0.06, 0.04, 0.04, 0.05]


def put(name: str, values: Any, **options: Any) -> Mutation:
    """Replace an object by a dataset."""

    def mutate(file: Any, random: np.random.Generator) -> None:
        if name in file:
            del file[name]
        file.create_dataset(name, data=values, **options)

    return mutate


def declare(name: str, shape: tuple[int, ...], dtype: Any = "f8", **options: Any) -> Mutation:
    """Declare a dataset without writing any data."""

    def mutate(file: Any, random: np.random.Generator) -> None:
        if name in file:
            del file[name]
        file.create_dataset(name, shape, dtype, **options)

    return mutate


def attribute(place: str, name: str, value: Any) -> Mutation:
    """Set an attribute of any size; large ones need a newer version of the file format."""

    def mutate(file: Any, random: np.random.Generator) -> None:
        file[place].attrs[name] = value

    return mutate


def element(name: str, value: Any) -> Mutation:
    """Set one random element of a dataset."""

    def mutate(file: Any, random: np.random.Generator) -> None:
        dataset = file[name]
        dataset[tuple(int(random.integers(side)) for side in dataset.shape)] = value

    return mutate


def link(name: str, target: Any) -> Mutation:
    """Replace an object by a link."""

    def mutate(file: Any, random: np.random.Generator) -> None:
        linked = target(file) if callable(target) else target
        if name in file:
            del file[name]
        file[name] = linked

    return mutate


def meta(name: str, *keys: str, value: Any) -> Mutation:
    """Set a value in one of the JSON strings."""

    def mutate(file: Any, random: np.random.Generator) -> None:
        parsed = json.loads(file["meta"][name].asstr()[()])
        inner = parsed
        for key in keys[:-1]:
            inner = inner[key]
        inner[keys[-1]] = value
        del file["meta"][name]
        file["meta"][name] = json.dumps(parsed)

    return mutate


def text(name: str, content: str | bytes) -> Mutation:
    """Replace one of the JSON strings."""
    return put(f"meta/{name}", content)


def virtual(name: str) -> Mutation:
    """Replace a dataset by a virtual dataset of another file."""

    def mutate(file: Any, random: np.random.Generator) -> None:
        layout = h5py.VirtualLayout(shape=(7,), dtype="f8")
        layout[:] = h5py.VirtualSource("/etc/passwd", "x", shape=(7,))
        del file[name]
        file.create_virtual_dataset(name, layout)

    return mutate


def nested(depth: int) -> Mutation:
    """Add groups nested to this depth."""

    def mutate(file: Any, random: np.random.Generator) -> None:
        file.create_group("/".join(["deep"] * depth))

    return mutate


def many(count: int) -> Mutation:
    """Add many groups, or attributes if `count` is small."""

    def mutate(file: Any, random: np.random.Generator) -> None:
        for number in range(count):
            file["history"].attrs[f"a{number}"] = number

    return mutate


def named(name: bytes | str) -> Mutation:
    """Add a metric of the right length with this name."""

    def mutate(file: Any, random: np.random.Generator) -> None:
        length = len(file["history/generation"])
        file["history"][name] = np.zeros(length)

    return mutate


def _references(file: Any, random: np.random.Generator) -> None:
    del file["elites/fitness"]
    file.create_dataset("elites/fitness", data=[file.ref, file["meta"].ref], dtype=h5py.ref_dtype)


def _named_type(file: Any, random: np.random.Generator) -> None:
    file["a_type"] = np.dtype("f8")


def _copy_of_one_string(file: Any, random: np.random.Generator) -> None:
    file.attrs["many"] = np.array(["x" * 1000] * 4, dtype=object)


def _datasets(file: Any, below: str = "/") -> list[str]:
    names: list[str] = []
    file[below].visititems(lambda name, item: names.append(f"{below}/{name}") if hasattr(item, "shape") else None)
    return names


def any_wrong(below: str) -> Mutation:
    """Replace a random dataset by a value of a wrong type or shape."""

    def mutate(file: Any, random: np.random.Generator) -> None:
        names = _datasets(file, below)
        name = names[int(random.integers(len(names)))]
        del file[name]
        file[name] = WRONG[int(random.integers(len(WRONG)))]

    return mutate


def any_extreme(below: str) -> Mutation:
    """Set a random element of a random dataset to an extreme value."""

    def mutate(file: Any, random: np.random.Generator) -> None:
        names = _datasets(file, below)
        dataset = file[names[int(random.integers(len(names)))]]
        bounds = np.iinfo(dataset.dtype) if dataset.dtype.kind in "iu" else np.finfo(dataset.dtype)
        extremes = [bounds.min, bounds.max, 0, 1, *([np.nan, np.inf] if dataset.dtype.kind == "f" else [])]
        place = tuple(int(random.integers(side)) for side in dataset.shape)
        dataset[place] = extremes[int(random.integers(len(extremes)))]

    return mutate


def any_gone(below: str) -> Mutation:
    """Delete a random dataset or its group."""

    def mutate(file: Any, random: np.random.Generator) -> None:
        names = _datasets(file, below)
        name = names[int(random.integers(len(names)))]
        del file[name.rpartition("/")[0] if random.random() < 0.3 else name]

    return mutate


def any_attribute(place: str) -> Mutation:
    """Set a random attribute to a value of a wrong type, or delete it."""

    def mutate(file: Any, random: np.random.Generator) -> None:
        attributes = file[place].attrs
        names = list(attributes)
        name = names[int(random.integers(len(names)))]
        del attributes[name]
        if random.random() < 0.9:
            attributes[name] = WRONG[int(random.integers(len(WRONG)))]

    return mutate


def any_cut(below: str) -> Mutation:
    """Replace a random array by a shorter or longer one of the same type."""

    def mutate(file: Any, random: np.random.Generator) -> None:
        names = _datasets(file, below)
        name = names[int(random.integers(len(names)))]
        values = file[name][()]
        changed = values[:-1] if random.random() < 0.5 else np.concatenate([values, values])
        del file[name]
        file[name] = changed

    return mutate


_GYM = {
    "name": "gym:nowhere:Env-v0",
    "descriptor": "os:system",
    "axes": [{"name": "x", "lower": 0.0, "upper": 1.0}],
    "kwargs": {"xml_file": "/etc/passwd"},
}

STRUCTURAL: dict[str, Mutation] = {
    # links
    "soft link to itself": link("history/loop", h5py.SoftLink("/history/loop")),
    "soft link": link("elites/fitness", h5py.SoftLink("/elites/cell")),
    "dangling soft link": link("elites/fitness", h5py.SoftLink("/nowhere")),
    "external link": link("meta/config", h5py.ExternalLink("/etc/passwd", "/")),
    "cycle of groups": link("elites/again", lambda file: file["/"]),
    "group below itself": link("history/again", lambda file: file["history"]),
    "two names": link("elites/fitness", lambda file: file["elites/evaluation_seed"]),
    "deep groups": nested(40),
    "very deep groups": nested(2000),
    "many attributes": many(2000),
    # storage
    "virtual dataset": virtual("elites/fitness"),
    "external storage": declare("elites/fitness", (7,), external=[("nowhere.bin", 0, 56)]),
    "sparse fitness": declare("elites/fitness", (HUGE,), chunks=(1024,)),
    "sparse genomes": declare("elites/genome", (7, HUGE), "f4", chunks=(1, 1024)),
    "sparse genome rows": declare("elites/genome", (HUGE, 6), "f4", chunks=(1, 6)),
    "sparse history": declare("history/generation", (HUGE,), chunks=(1024,)),
    "sparse centroids": declare("archive/centroids", (HUGE, 2), chunks=(1024, 2)),
    "sparse and unknown": declare("unknown", (HUGE,), chunks=(1024,)),
    "contiguous and never written": declare("unknown", (2**40,)),
    "one huge chunk": declare("elites/fitness", (7,), maxshape=(None,), chunks=(2**28,)),
    "compression bomb": put("history/generation", np.zeros(2**24), compression="gzip", compression_opts=9),
    "compressed genomes": put("elites/genome", np.zeros((7, 6), "f4"), compression="gzip"),
    "lzf": put("elites/fitness", np.zeros(7), compression="lzf"),
    "scale and offset": put("elites/cell", np.arange(7), scaleoffset=0),
    # types
    "compound": put("elites/fitness", np.zeros(7, [("a", "f8"), ("b", "i4")])),
    "references": _references,
    "arrays of any length": declare("elites/fitness", (7,), h5py.vlen_dtype(np.dtype("f8"))),
    "opaque": put("elites/fitness", np.zeros(7, "V8")),
    "named type": _named_type,
    "big-endian": put("elites/genome", np.zeros((7, 6), ">f4")),
    "half precision": put("elites/fitness", np.zeros(7, "f2")),
    "double genomes": put("elites/genome", np.zeros((7, 6))),
    "complex": put("elites/fitness", np.zeros(7, "c16")),
    "booleans": put("elites/cell", np.zeros(7, bool)),
    "strings": put("elites/fitness", np.array([b"a"] * 7)),
    "enumeration": declare("elites/cell", (7,), h5py.enum_dtype({"A": 0, "B": 1}, basetype="i4")),
    "nothing": put("elites/fitness", h5py.Empty("f8")),
    "group for a dataset": lambda file, random: (file.__delitem__("elites/cell"), file.create_group("elites/cell"))[0],
    "dataset for a group": put("history", np.zeros(3)),
    "dataset for elites": put("elites", np.zeros(3)),
    # shapes
    "scalar cells": put("elites/cell", 3),
    "cells in two dimensions": put("elites/cell", np.zeros((7, 1), "i4")),
    "no cells": put("elites/cell", np.zeros(0, "i4")),
    "five dimensions": put("unknown", np.zeros((1, 1, 1, 1, 1))),
    "metrics of two lengths": put("history/coverage", np.zeros(1)),
    "metric in two dimensions": put("history/coverage", np.zeros((3, 2))),
    "metric as text": put("history/coverage", "text"),
    "metric as a group": lambda file, random: file.create_group("history/inner"),
    # values
    **{f"{name}: {value}": element(f"elites/{name}", value) for name in COLUMN for value in (-(2**31), 2**31 - 1)},
    "negative cells": element("elites/cell", -5),
    "NaN fitness": element("elites/fitness", np.nan),
    "infinite descriptor": element("elites/descriptor", np.inf),
    "NaN genome": element("elites/genome", np.nan),
    "huge genome": element("elites/genome", 3e38),
    "huge fitness": element("elites/fitness", 1e308),
    "NaN centroid": element("archive/centroids", np.nan),
    # attributes
    "kind as a number": attribute("archive", "kind", 3),
    "cells as a float": attribute("archive", "cells", 2.5),
    "cells without end": attribute("archive", "cells", 2**62),
    "shape overflows": attribute("archive", "shape", np.array([2**32, 2**32])),
    "negative shape": attribute("archive", "shape", np.array([-4, -5])),
    "bounds as text": attribute("archive", "lower", ["a", "b"]),
    "NaN bounds": attribute("archive", "upper", np.array([np.nan, np.nan])),
    "offset as text": attribute("archive", "qd_offset", "much"),
    "NaN offset": attribute("archive", "qd_offset", np.nan),
    "no axes": attribute("archive", "descriptor_names", h5py.Empty("S1")),
    "names as bytes": attribute("archive", "descriptor_names", np.array([b"a", b"b"])),
    "names not UTF-8": attribute("archive", "fitness_name", b"\xff\xfe\xfd"),
    "emitters as one string": attribute("archive", "emitters", "random"),
    "no emitters": attribute("archive", "emitters", np.zeros(0)),
    "neighbours as text": attribute("archive", "neighbours", "three"),
    "reference in an attribute": lambda file, random: file.attrs.__setitem__("r", file.ref),
    "strings in an attribute": _copy_of_one_string,
    "format as an array": attribute("/", "format", np.zeros(3)),
    "version as a number": attribute("/", "format_version", 1.2),
    "time as an array": attribute("/", "created_utc", np.zeros(3)),
    "seed as text": attribute("/", "seed", "seven"),
    "escape sequences": attribute("archive", "fitness_name", "\x1b]0;owned\x07\x1b[2J\n\r"),
    # JSON
    "task as a number": text("task", "3"),
    "task as a list": text("task", "[1, 2]"),
    "task not JSON": text("task", "{'a': "),
    "task nested without end": text("task", "[" * 100_000),
    "task not UTF-8": text("task", b"\xff\xfe"),
    "task with half a character": text("task", '{"name": "\\ud800"}'),
    "task with a long number": text("task", '{"episode_length": ' + "9" * 10_000 + "}"),
    "task as numbers": put("meta/task", np.arange(3)),
    "task as strings": put("meta/task", np.array([b"{}", b"{}"])),
    "options as a list": meta("task", "options", value=[1]),
    "no options": meta("task", "options", value=None),
    "name as a number": meta("task", "options", "name", value=3),
    "unknown task": meta("task", "options", "name", value="nowhere"),
    "reserved option": meta("task", "options", "worlds", value=10**9),
    "unknown option": meta("task", "options", "wind", value=1),
    "code in options": meta("task", "options", value=_GYM),
    "endless episodes": meta("task", "options", "episode_length", value=2**40),
    "layers as text": meta("policy", "layers", value="abc"),
    "layers of text": meta("policy", "layers", value=["a", "b"]),
    "negative layers": meta("policy", "layers", value=[-1, 5, 2]),
    "huge layers": meta("policy", "layers", value=[60_000, 60_000, 60_000]),
    "one layer": meta("policy", "layers", value=[3]),
    "unknown activation": meta("policy", "activation", value="relish"),
    "unknown kind of policy": meta("policy", "kind", value="spiking"),
    "convolutions without an image": meta("policy", "kind", value="conv"),
    "devices as a list": meta("config", "compute", value=[1]),
    "device as a number": meta("config", "compute", value={"device": 3}),
    "arguments as numbers": meta("command", "arguments", value=[1, 2]),
    "policy of another shape": meta("policy", "layers", value=[3, 77, 2]),
    # other parts
    "metric with a line break": named("a\nb"),
    "metric with an escape": named("\x1b[2J"),
    "metric with dollars": named("$x_{$"),
    "metric not UTF-8": named(b"\xff\xfe"),
    "negative variance": element("normalizer/var", -1.0),
    "normaliser of another width": put("normalizer/var", np.ones(77)),
    "normaliser as text": put("normalizer/mean", "text"),
    "generations of statistics as floats": put("normalizer/at/generation", np.zeros(3)),
    "champion as text": put("champion/fitness", "text"),
    "champion of no generation": put("champion/generation", np.zeros(0, "i8")),
    "champion of another length": put("champion/genome", np.zeros(3, "f4")),
    "champion with more": put("champion/more", np.zeros(3)),
    "actor for many": put("actor/dimensions", np.arange(3)),
    "actor in two dimensions": put("actor/genome", np.zeros((3, 3), "f4")),
    "offsets overflow": element("elites/lineage/offsets", 2**62),
    "negative offsets": element("elites/lineage/offsets", -(2**62)),
    "offsets as floats": put("elites/lineage/offsets", np.linspace(0, 1, 5)),
    "signed seeds": put("elites/lineage/seeds", np.array([-1, -2])),
    "infinite powers": element("elites/lineage/sigmas", np.inf),
    "keyframes in three dimensions": put("elites/lineage/keyframes", np.zeros((1, 2, 3), "f4")),
    "wide keyframes": declare("elites/lineage/keyframes", (0, 2**40), "f4"),
    "noise as bytes": attribute("elites/lineage", "noise", b"\xff"),
    "noise not JSON": attribute("elites/lineage", "noise", "{"),
    "unknown noise": attribute("elites/lineage", "noise", '{"name": "dice"}'),
    "noise as a list": attribute("elites/lineage", "noise", '{"name": ["keyed"]}'),
    "a table of 16 GiB": attribute("elites/lineage", "noise", '{"name": "table", "size": 4294967295}'),
    "generation of the state": put("state/algorithm/generation", 2**62),
    "negative generation of the state": put("state/algorithm/generation", -3),
    "state as a dataset": put("state", 3),
    **{f"parent {value}": element("state/algorithm/ancestry/parent", value) for value in (2**40, -7)},
    **{f"node {value}": element("state/algorithm/nodes", value) for value in (2**40, -7)},
    "tree of two lengths": put("state/algorithm/ancestry/seed", np.zeros(3, "u4")),
    # anywhere
    **{
        f"{kind.__name__} below {place}": kind(place)
        for kind in (any_wrong, any_extreme, any_gone, any_cut)
        for place in ("/", "state", "elites", "history", "meta")
    },
    **{f"attribute of {place}": any_attribute(place) for place in ("/", "archive", "elites/lineage")},
}


def change_structure(path: Path, random: np.random.Generator, name: str | None = None) -> str:
    """Apply the named structural mutation, or a random one; return its name, or "none" if it did not apply."""
    names = list(STRUCTURAL)
    name = name or names[int(random.integers(len(names)))]
    try:
        with h5py.File(path, "r+", libver=("earliest", "latest")) as file:
            STRUCTURAL[name](file, random)
    except (KeyError, ValueError, TypeError, IndexError, AttributeError, OSError, RuntimeError, OverflowError):
        return "none"
    return name
