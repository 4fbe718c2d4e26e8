"""Source text of users' code that made a result. It is stored to be read and compared, and never run."""

import sysconfig
from collections.abc import Iterable, Mapping
from hashlib import sha256
from importlib.util import find_spec
from pathlib import Path
from typing import Any

Sources = dict[str, dict[str, str | None]]
"""By reference `package.module:name`: `source`, the text of the module, and its `sha256`; None without source."""


def sources_of(references: Iterable[str]) -> Sources:
    """Return the source of the modules that references name. Their parent packages are imported, they are not.

    A module without readable source, for example one written in C, has None for both values.
    """
    found: Sources = {}
    for reference in references:
        source = _source(reference.partition(":")[0])
        digest = None if source is None else sha256(source.encode()).hexdigest()
        found[reference] = {"source": source, "sha256": digest}
    return found


def definition_of(loaded: Any) -> str | None:
    """Return the reference of the definition of a function or class, which may have been imported elsewhere."""
    function = getattr(loaded, "func", loaded)  # of a functools.partial
    module, name = getattr(function, "__module__", None), getattr(function, "__qualname__", None)
    return f"{module}:{name}" if isinstance(module, str) and isinstance(name, str) else None


def is_users(reference: str) -> bool:
    """Return whether a reference leads to code outside of all installed packages."""
    module = reference.partition(":")[0]
    origin = _origin(module)
    if origin is None or module.partition(".")[0] == "qdrl":
        return False
    installed = (Path(sysconfig.get_path(kind)).resolve() for kind in ("purelib", "platlib", "stdlib"))
    return not any(Path(origin).resolve().is_relative_to(folder) for folder in installed)


def changed_sources(before: Mapping[str, Any] | None, now: Mapping[str, Any]) -> list[str]:
    """Return the references whose source differs; those that `before` does not contain are ignored."""
    known = before or {}
    return [name for name in now if name in known and known[name].get("sha256") != now[name].get("sha256")]


def _origin(module: str) -> str | None:
    try:
        spec = find_spec(module)
    except (ImportError, ValueError):
        return None
    return spec.origin if spec is not None and spec.has_location else None


def _source(module: str) -> str | None:
    try:
        spec = find_spec(module)
        get_source = getattr(spec and spec.loader, "get_source", None)
        return None if get_source is None else get_source(module)
    except (ImportError, ValueError, SyntaxError, UnicodeDecodeError):
        return None
