"""Names given by users: nearest known name, and `package.module:attribute` references."""

from collections.abc import Iterable
from difflib import get_close_matches
from importlib import import_module
from typing import Any

from qdrl.errors import UserError


def suggest(name: str, known: Iterable[str]) -> str:
    """Say which known name the given one probably meant.

    Args:
        name: what the user wrote.
        known: the names there are.

    Returns:
        "; did you mean 'x'?" or, with nothing near, "; known: a, b, c".
    """
    names = sorted(known)
    near = get_close_matches(name, names, n=1, cutoff=0.6)
    return f"; did you mean '{near[0]}'?" if near else f"; known: {', '.join(names)}"


def is_reference(name: str) -> bool:
    """Whether the name has the form `package.module:attribute`."""
    module, _, attribute = name.partition(":")
    return attribute.isidentifier() and all(part.isidentifier() for part in module.split("."))


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
    except Exception as error:  # a user's module may raise anything while it is imported
        reason = f"{type(error).__name__}: {error}".splitlines()[0]
        raise UserError(f"cannot import module '{module_name}' of '{reference}': {reason}") from error
    if not hasattr(module, attribute):
        known = [name for name in vars(module) if not name.startswith("_")]
        raise UserError(f"module '{module_name}' has no '{attribute}'{suggest(attribute, known)}")
    return getattr(module, attribute)
