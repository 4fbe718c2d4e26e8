"""Check whether an HDF5 file is safe to read: objects, links, types and sizes, before any data is read.

A file may hold groups, datasets and attributes of integers, floats and strings, and nothing else: no link but hard
ones, no storage outside the file, and no more data than its size accounts for. Reading a file that passes takes at most
`EXPANSION` times its size in memory for each copy of its data.
"""

from typing import Any

import h5py
import numpy as np
from h5py import h5a, h5d, h5g, h5i, h5l, h5o, h5s, h5t, h5z  # pyright: ignore[reportAttributeAccessIssue]

EXPANSION = 8  # allowed bytes of data for each byte of the file; compression of floats reaches 2 to 4
SLACK = 2**20  # further allowed bytes: small files may compress better

_DEPTH = 16  # of nested groups
_ATTRIBUTES = 256  # of one object
_ATTRIBUTE_BYTES = 65_536
_TEXTS = 4_096  # strings in one attribute
DIMENSIONS = 4  # of a dataset, at most
_FILTERS = (h5z.FILTER_DEFLATE, h5z.FILTER_SHUFFLE, h5z.FILTER_FLETCHER32)
_LAYOUTS = (h5d.COMPACT, h5d.CONTIGUOUS, h5d.CHUNKED)
_NUMBERS = (h5t.INTEGER, h5t.FLOAT, h5t.ENUM)


def find_unsafe(file: h5py.File, size: int) -> list[str]:
    """Return the first unsafe part of a file with its place; an empty list for a safe file.

    Args:
        file: the open file.
        size: its size in bytes.
    """
    limit, declared = EXPANSION * size + SLACK, 0
    seen, pending = set[int](), [("/", file.id, 0)]
    while pending:
        place, item, depth = pending.pop()
        if problem := _problem_of_object(item, seen, depth) or _problem_of_attributes(item):
            return [f"{shown(place)}: {problem}"]
        if h5i.get_type(item) in (h5i.GROUP, h5i.FILE):
            names, problem = _links(item, size)
            if problem:
                return [f"{shown(place)}: {problem}"]
            pending += [(f"{place.rstrip('/')}/{name}", h5o.open(item, name.encode()), depth + 1) for name in names]
            continue
        if problem := _problem_of_dataset(item, limit):
            return [f"{shown(place)}: {problem}"]
        declared += _declared(item)
        if declared > limit:
            return [f"{shown(place)}: {_too_large(declared, limit)}"]
    return []


def shown(text: str) -> str:
    """Return text of a file for a terminal: control characters escaped, at most 200 characters."""
    printable = "".join(character if character.isprintable() else ascii(character)[1:-1] for character in text)
    return printable if len(printable) <= 200 else f"{printable[:197]}..."


def _problem_of_object(item: Any, seen: set[int], depth: int) -> str | None:
    found = h5o.get_info(item)
    if found.type not in (h5o.TYPE_GROUP, h5o.TYPE_DATASET):
        return "neither a group nor a dataset"
    if found.addr in seen:
        return "reached by two paths; every object must have one name"
    seen.add(found.addr)
    return f"groups are nested deeper than {_DEPTH}" if depth > _DEPTH else None


def _links(group: Any, size: int) -> tuple[list[str], str | None]:
    """Return the names in a group, or the reason why they are not read."""
    names: list[bytes] = []
    most = size // 16  # an entry of a group takes more than 16 bytes

    def note(name: bytes) -> bool | None:
        names.append(name)
        return True if len(names) > most else None

    group = h5g.open(group, b"/") if h5i.get_type(group) == h5i.FILE else group
    group.links.iterate(note)
    if len(names) > most:
        return [], f"states more than {most} entries, which its size cannot hold"
    if len(set(names)) < len(names):
        return [], "holds a name twice"
    for name in names:
        if group.links.get_info(name).type != h5l.TYPE_HARD:
            return [], f"'{shown(name.decode(errors='replace'))}' is a soft or external link; only hard links are read"
        try:
            name.decode()
        except UnicodeDecodeError:
            return [], f"the name {name!r} is not UTF-8"
    return [name.decode() for name in names], None


def _problem_of_attributes(item: Any) -> str | None:
    count = h5a.get_num_attrs(item)
    if count > _ATTRIBUTES:
        return f"has {count} attributes; at most {_ATTRIBUTES} are read"
    for index in range(count):
        attribute = h5a.open(item, index=index)
        name = shown(attribute.name.decode(errors="replace"))
        space, elements = attribute.get_space(), attribute.get_space().get_simple_extent_npoints()
        if attribute.get_storage_size() > _ATTRIBUTE_BYTES or elements > _TEXTS:
            return f"attribute {name} is larger than {_ATTRIBUTE_BYTES} bytes or {_TEXTS} elements"
        if space.get_simple_extent_type() == h5s.NULL:
            return f"attribute {name} is empty"
        if problem := _problem_of_type(attribute.get_type()):
            return f"attribute {name} {problem}"
    return None


def _problem_of_dataset(dataset: Any, limit: int) -> str | None:
    space, created = dataset.get_space(), dataset.get_create_plist()
    if created.get_layout() not in _LAYOUTS or created.get_external_count():
        return "its data lies outside the dataset or the file; only data in the file is read"
    filters = [created.get_filter(index)[0] for index in range(created.get_nfilters())]
    if unknown := set(filters) - set(_FILTERS):
        return f"uses filter {min(unknown)}; only deflate, shuffle and fletcher32 are read"
    if space.get_simple_extent_type() == h5s.NULL or space.get_simple_extent_ndims() > DIMENSIONS:
        return f"must be a number, a string or an array of at most {DIMENSIONS} dimensions"
    kind = dataset.get_type()
    if problem := _problem_of_type(kind):
        return problem
    if kind.get_class() == h5t.STRING and space.get_simple_extent_ndims():
        return "is an array of strings; only single strings are read"
    if created.get_layout() == h5d.CHUNKED:
        chunk = int(np.prod(created.get_chunk(), dtype=object)) * kind.get_size()
        if chunk > limit:
            return _too_large(chunk, limit)
    return None


def _problem_of_type(kind: Any) -> str | None:
    """Return why values of a type are not read, None if they are; numbers must have a native numpy dtype."""
    what = kind.get_class()
    if what == h5t.STRING:
        return None
    if what not in _NUMBERS:
        return "holds neither numbers nor strings"
    try:
        dtype = np.dtype(kind.dtype)
    except (TypeError, ValueError):
        return "holds numbers of a type that numpy does not know"
    if dtype.kind not in "iufb" or dtype.itemsize > 8 or not dtype.isnative:
        return f"holds numbers of type {dtype.str}; little-endian numbers of at most 8 bytes are read"
    return None


def _declared(dataset: Any) -> int:
    """Return the number of bytes of data that a dataset declares."""
    extent = dataset.get_space().get_simple_extent_dims() or ()
    return int(np.prod(extent, dtype=object)) * dataset.get_type().get_size()


def _too_large(declared: int, limit: int) -> str:
    return f"states {declared} bytes of data, more than the file's size accounts for ({limit})"
