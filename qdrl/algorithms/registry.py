"""The built-in algorithms by name; a user's own class is named `package.module:Class`."""

from importlib import import_module
from typing import TYPE_CHECKING

from qdrl.errors import UserError
from qdrl.naming import is_reference, load_reference, suggest

if TYPE_CHECKING:
    from qdrl.algorithms.base import Algorithm

ALGORITHMS = {
    "map_elites": "qdrl.algorithms.map_elites:MapElites",
    "pga_map_elites": "qdrl.algorithms.pga_map_elites:PgaMapElites",
    "dcg_map_elites": "qdrl.algorithms.dcg_map_elites:DcgMapElites",
    "deep_ga": "qdrl.algorithms.deep_ga:DeepGa",
    "novelty_es": "qdrl.algorithms.novelty_es:NoveltyEs",
    "openai_es": "qdrl.algorithms.openai_es:OpenAiEs",
    "dcrl_map_elites": "qdrl.algorithms.dcrl_map_elites:DcrlMapElites",
    "evotorch": "qdrl.algorithms.evotorch:EvoTorch",
}
"""Reference `module:Class` of each built-in algorithm."""


def algorithm_names() -> tuple[str, ...]:
    """Return the names of the built-in algorithms."""
    return tuple(ALGORITHMS)


def algorithm_class(name: str) -> "type[Algorithm]":
    """Return the class of an algorithm.

    Args:
        name: a key of `ALGORITHMS`, or `package.module:Class`.

    Raises:
        UserError: there is no such algorithm, or the class does not implement `qdrl.algorithms.base.Algorithm`.
    """
    if name not in ALGORITHMS and not is_reference(name):
        raise UserError(f"algorithm.name: no algorithm '{name}'{suggest(name, ALGORITHMS)}")
    if name in ALGORITHMS:
        module, _, attribute = ALGORITHMS[name].partition(":")
        found = getattr(import_module(module), attribute)
    else:
        found = load_reference(name)
    from qdrl.algorithms.requirements import problem_of  # imports torch, which `algorithm_names` does not need

    if problem := problem_of(found):
        raise UserError(f"algorithm.name: '{name}' {problem}")
    return found
