"""Requirements for the algorithm named in an experiment."""

from typing import Any

import pytest
from pydantic import BaseModel

from qdrl.algorithms.base import Algorithm
from qdrl.algorithms.map_elites import MapElites
from qdrl.algorithms.registry import algorithm_class, algorithm_names
from qdrl.config import parse_experiment
from qdrl.errors import UserError
from qdrl.run.build import build


class NotASubclass:
    def ask(self) -> None: ...


class Unfinished(Algorithm):
    class Settings(BaseModel):
        name: str = "unfinished"

    emitters = ("random",)

    def ask(self, rows: range | None = None) -> Any: ...


class Nameless(MapElites):
    class Settings(BaseModel):
        batch_size: int = 4


class Mistyped(MapElites):
    def colect_state(self) -> None: ...


class WithoutExchange(MapElites):
    def tell(self, evaluation: Any) -> Any: ...


class WithoutLineages(MapElites):
    holds_lineages = True


class WithoutBatchSize(MapElites):
    def __init__(self, *parts: Any) -> None:
        super().__init__(*parts)
        del self.batch_size


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("NotASubclass", r"must be a subclass of qdrl\.Algorithm; it lacks .*collect_state"),
        ("Unfinished", "does not define load_state_dict, state_dict, tell"),
        ("Nameless", "needs the field name: str in its Settings"),
        ("Mistyped", "defines colect_state, which is never called: did you mean collect_state"),
        ("WithoutExchange", "defines tell without its parameter exchange"),
        ("WithoutLineages", "has holds_lineages = True but does not define lineages"),
    ],
)
def test_a_class_that_does_not_meet_the_protocol_is_an_error_of_one_line(name: str, message: str) -> None:
    with pytest.raises(UserError, match=message) as caught:
        algorithm_class(f"{__name__}:{name}")
    assert "\n" not in str(caught.value)


def test_an_algorithm_without_a_batch_size_is_an_error_of_one_line() -> None:
    run = {"generations": 1}
    experiment = {
        "name": "without",
        "task": {"name": "arm"},
        "algorithm": {"name": f"{__name__}:WithoutBatchSize"},
        "run": run,
    }
    with pytest.raises(UserError, match="must set the attribute batch_size"):
        build(parse_experiment(experiment))


def test_all_built_in_algorithms_meet_the_protocol() -> None:
    for name in algorithm_names():
        assert issubclass(algorithm_class(name), Algorithm)
