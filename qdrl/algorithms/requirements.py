"""Checks of a class that an experiment names as its algorithm; they run once, before the class is used."""

import inspect
from typing import Any

from pydantic import BaseModel

from qdrl.algorithms.base import Algorithm
from qdrl.naming import misspelt_member

_MEMBERS = tuple(name for name in {**vars(Algorithm), **Algorithm.__annotations__} if not name.startswith("_"))


def problem_of(found: Any) -> str | None:
    """Return the first unmet requirement of `qdrl.algorithms.base.Algorithm`; None if all are met.

    Args:
        found: the object that the experiment names, of any type.
    """
    if not (isinstance(found, type) and issubclass(found, Algorithm)):
        lacking = [member for member in _MEMBERS if member not in dir(found)]
        missing = f"; it lacks {', '.join(lacking)}" if lacking else ""
        return f"must be a subclass of qdrl.Algorithm{missing}"
    if found.__abstractmethods__:
        return f"does not define {', '.join(sorted(found.__abstractmethods__))}"
    attributes = dir(found)
    settings = found.Settings if "Settings" in attributes else None
    if not (isinstance(settings, type) and issubclass(settings, BaseModel)):
        return "needs a pydantic model as its attribute Settings"
    if "name" not in settings.model_fields:
        return "needs the field name: str in its Settings"
    if "emitters" not in attributes:
        return 'needs the names of its emitters, such as emitters = ("random",)'
    if found.holds_lineages and found.lineages is Algorithm.lineages:
        return "has holds_lineages = True but does not define lineages"
    try:
        inspect.signature(found.tell).bind(None, None, None)
    except TypeError:
        return "defines tell without its parameter exchange: tell(self, evaluation, exchange=LOCAL)"
    try:
        inspect.signature(found.ask).bind(None, None)
    except TypeError:
        return "defines ask without its parameter rows: ask(self, rows=None)"
    return misspelt_member(found, Algorithm, _MEMBERS)
