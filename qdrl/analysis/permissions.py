"""Permission of the user to import and run code that a file names: a file is data.

A stored task may be a user's class. A task of `gym:<id>` names a descriptor function, sometimes a module that
registers the environment, and keyword arguments that may name files. None of them is imported or opened before the user
allows it.
"""

import importlib.util
import re
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.machinery import PathFinder
from pathlib import Path
from typing import Any

from qdrl.errors import UserError
from qdrl.tasks.registry import is_users_task

_INSTALLED = ("gymnasium", "ale_py")  # packages whose environments are part of this installation
_WORD = re.compile(r"[A-Za-z0-9_-]*")  # a string that names neither a file nor code
_NAMES_A_FILE = re.compile(r"file|path|entry|module", re.IGNORECASE)


@dataclass(frozen=True)
class Permission:
    """Permission to run code that a file names.

    Attributes:
        allow_code: import and call the code that the file names, as if the user had written it.
        code_from: a folder that is searched first for modules; implies `allow_code`.
    """

    allow_code: bool = False
    code_from: str | Path | None = None

    def require(self, options: Mapping[str, Any]) -> None:
        """Raise an error for options of a task that need code or files from outside, unless code is allowed.

        Raises:
            UserError: code is not allowed; the message names each option and the file it would be loaded from.
        """
        if self.allow_code or self.code_from is not None:
            return
        if named := named_code(options):
            raise UserError(
                f"the file needs code that it names: {'; '.join(named)}; if you trust it, add --allow-code"
                " (in Python allow_code=True or code_from='folder')"
            )

    @contextmanager
    def searching(self) -> Iterator[None]:
        """Search `code_from` first for modules inside the context."""
        if self.code_from is None:
            yield
            return
        folder = str(Path(self.code_from).absolute())
        if not Path(folder).is_dir():
            raise UserError(f"code_from: no such folder '{self.code_from}'")
        sys.path.insert(0, folder)
        try:
            yield
        finally:
            sys.path.remove(folder)


def named_code(options: Mapping[str, Any]) -> list[str]:
    """Return what a task of these options would import or read from outside, each with its location."""
    name, found = str(options.get("name", "")), []
    if not name.startswith("gym:"):
        return [f"task '{name}' ({_origin(name.partition(':')[0])})"] if is_users_task(name) else []
    environment = name.removeprefix("gym:")
    module, _, rest = environment.rpartition(":")
    if module:
        found.append(f"environment '{environment}' of module '{module}' ({_origin(module)})")
    else:
        found += _registered_by(rest)
    if descriptor := options.get("descriptor"):
        found.append(f"descriptor function '{descriptor}' ({_origin(str(descriptor).partition(':')[0])})")
    kwargs = options.get("kwargs") or {}
    entries = kwargs.items() if isinstance(kwargs, Mapping) else [("kwargs", kwargs)]
    return found + [f"keyword argument {key}={value!r}"[:200] for key, value in entries if not _is_harmless(key, value)]


def _registered_by(environment: str) -> list[str]:
    """Return the modules outside of Gymnasium that are registered for an environment."""
    from gymnasium import error
    from gymnasium.envs.registration import parse_env_id, registry

    try:
        namespace, name, _ = parse_env_id(environment)
    except error.Error:
        return []  # `gymnasium.make` refuses it before it runs anything
    modules = {
        entry.partition(":")[0] if isinstance(entry := spec.entry_point, str) else str(getattr(entry, "__module__", ""))
        for spec in registry.values()
        if (spec.namespace, spec.name) == (namespace, name)
    }
    foreign = sorted(module for module in modules if module.partition(".")[0] not in _INSTALLED)
    return [f"environment '{environment}' of module '{module}' ({_origin(module)})" for module in foreign]


def _is_harmless(name: Any, value: Any) -> bool:
    """Return whether a keyword argument cannot name a file or code."""
    if isinstance(value, Mapping):
        return all(_is_harmless(key, item) for key, item in value.items())
    if isinstance(value, list | tuple):
        return all(_is_harmless(name, item) for item in value)
    if isinstance(value, str):
        return _WORD.fullmatch(value) is not None and _NAMES_A_FILE.search(str(name)) is None
    return value is None or isinstance(value, int | float)


def _origin(module: str) -> str:
    """Return the file from which a module would be imported, without importing it."""
    parts = module.split(".")
    spec = _find(parts[0])
    for end in range(2, len(parts) + 1):
        if spec is None or spec.submodule_search_locations is None:
            break
        spec = PathFinder.find_spec(".".join(parts[:end]), list(spec.submodule_search_locations))
    if spec is None:
        return "not found here"
    return str(spec.origin or next(iter(spec.submodule_search_locations or ()), "of unknown origin"))


def _find(package: str) -> Any:
    try:
        spec = importlib.util.find_spec(package)
    except (ImportError, ValueError):
        spec = None
    return spec or PathFinder.find_spec(package, [str(Path.cwd())])
