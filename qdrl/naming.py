"""Names given by users: nearest known name, run names, and `package.module:attribute` references."""

import re
import sys
import sysconfig
import unicodedata
from collections.abc import Iterable, Sequence
from difflib import get_close_matches
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Any

from qdrl.errors import UserError

_LISTED = 30  # known names that a message lists at most
_MISSPELT = 0.85  # least similarity at which a member of a class counts as misspelt; "colect_state" has 0.96
_LEAST = 3  # letters from which the beginning of a name counts as near


def nearest(name: str, known: Iterable[str], cutoff: float = 0.6) -> str | None:
    """Return the known name that the given one probably meant; None with nothing near.

    Case, spaces, "-" and "_" do not count: "MAP-Elites" means "map_elites". `cutoff` is the least similarity, as
    `difflib.get_close_matches` measures it.
    """
    names = {_folded(each): each for each in sorted(known, reverse=True)}
    folded = _folded(name)
    if folded in names:
        return names[folded]
    if begun := [each for each in names if len(folded) >= _LEAST and each.startswith(folded)]:
        return names[min(begun, key=len)]
    near = get_close_matches(folded, names, n=1, cutoff=cutoff)
    return names[near[0]] if near else None


def suggest(name: str, known: Iterable[str]) -> str:
    """Say which known name the given one probably meant.

    Args:
        name: what the user wrote.
        known: the names there are.

    Returns:
        "; did you mean 'x'?" or, with nothing near, "; known: a, b, c".
    """
    names = sorted(known)
    if (near := nearest(name, names)) is not None:
        return f"; did you mean '{near}'?"
    more = f" and {len(names) - _LISTED} more" if len(names) > _LISTED else ""
    return f"; known: {', '.join(names[:_LISTED])}{more}"


def misspelt_member(kind: type, base: type, members: Sequence[str]) -> str | None:
    """Return a message on the first name in a user's class that looks like a misspelt member of its base class.

    Args:
        kind: the user's class; classes of qdrl that it inherits from are not searched.
        base: the base class.
        members: names of the base class that a user may define.

    Returns:
        One line without the name of the class; None if no name is misspelt.
    """
    for each in kind.__mro__[: kind.__mro__.index(base)]:
        for name in vars(each):
            if name.startswith("_") or hasattr(base, name) or name in members or each.__module__.startswith("qdrl."):
                continue
            if near := get_close_matches(name, members, 1, cutoff=_MISSPELT):
                return f"defines {name}, which is never called: did you mean {near[0]}? Otherwise rename it"
    return None


def run_name(display: str) -> str:
    """Return a name that a folder can bear on any system, for the name of a file or folder: "día 1" gives "dia_1"."""
    plain = unicodedata.normalize("NFKD", display).encode("ascii", "ignore").decode()
    return re.sub(r"[^A-Za-z0-9._-]+", "_", plain).strip("._-") or "experiment"


def is_reference(name: str) -> bool:
    """Whether the name has the form `package.module:attribute`."""
    module, _, attribute = name.partition(":")
    return attribute.isidentifier() and all(part.isidentifier() for part in module.split("."))


def search_also(folder: Path) -> None:
    """Let references find modules of this folder too, after all other places."""
    if (path := str(folder.resolve())) not in sys.path:
        sys.path.append(path)


def load_reference(reference: str) -> Any:
    """Import what `package.module:attribute` names.

    Raises:
        UserError: the reference is malformed, the module cannot be imported or lacks the attribute.
    """
    if not is_reference(reference):
        raise UserError(f"'{reference}' is not of the form package.module:name")
    module_name, _, attribute = reference.partition(":")
    try:
        module = import_module(module_name)
    except (Exception, SystemExit) as error:  # a user's module may raise anything while it is imported
        reason = f"{type(error).__name__}: {error}".splitlines()[0]
        raise UserError(f"cannot import module '{module_name}' of '{reference}': {reason}{_remedy(error)}") from error
    if not hasattr(module, attribute):
        if (hidden := _hidden_file(module)) is not None:
            found = "Python's own module" if _is_standard(module) else str(module.__file__)
            raise UserError(f"'{reference}': module '{module_name}' is {found}, which hides {hidden}; rename that file")
        known = [name for name in vars(module) if not name.startswith("_")]
        raise UserError(f"module '{module_name}' has no '{attribute}'{suggest(attribute, known)}")
    return getattr(module, attribute)


def _folded(name: str) -> str:
    return re.sub(r"[\s_-]+", "", name).lower()


def _remedy(error: BaseException) -> str:
    """Return a hint for a module that was not found."""
    if not isinstance(error, ModuleNotFoundError):
        return ""
    return "; modules are searched in the current folder, the folder of an experiment file, and PYTHONPATH"


def _is_standard(module: ModuleType) -> bool:
    """Whether a module comes with Python (`sys.stdlib_module_names` leaves some out, such as `test`)."""
    path = Path(module.__file__ or sysconfig.get_path("stdlib"))
    return path.is_relative_to(sysconfig.get_path("stdlib")) and "site-packages" not in path.parts


def _hidden_file(module: ModuleType) -> Path | None:
    """Return a file of the module's name further back on the search path, which the module hides."""
    parts = Path(*module.__name__.split("."))
    own = Path(module.__file__).resolve() if module.__file__ else None
    places = [Path(entry or ".") / parts.with_suffix(".py") for entry in sys.path]
    return next((place for place in places if place.is_file() and place.resolve() != own), None)
