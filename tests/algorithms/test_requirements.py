"""Requirements for the algorithm named in an experiment."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from pydantic import BaseModel

from qdrl.algorithms.base import Algorithm
from qdrl.algorithms.map_elites import MapElites
from qdrl.algorithms.registry import algorithm_class, algorithm_names
from qdrl.config import parse_experiment
from qdrl.errors import UserError
from qdrl.parallel.exchange import LOCAL
from qdrl.parallel.ranks import OneProcess
from qdrl.run.build import build
from qdrl.run.start import start


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


class WithoutRows(MapElites):
    def ask(self) -> Any: ...


class WithoutLineages(MapElites):
    holds_lineages = True


class WithoutBatchSize(MapElites):
    @property
    def batch_size(self) -> int:
        raise AttributeError("batch_size")


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("NotASubclass", r"must be a subclass of qdrl\.Algorithm; it lacks .*collect_state"),
        ("Unfinished", "does not define load_state_dict, state_dict, tell"),
        ("Nameless", "needs the field name: str in its Settings"),
        ("Mistyped", "defines colect_state, which is never called: did you mean collect_state"),
        ("WithoutExchange", "defines tell without its parameter exchange"),
        ("WithoutRows", r"defines ask without its parameter rows: ask\(self, rows=None\)"),
        ("WithoutLineages", "has holds_lineages = True but does not define lineages"),
    ],
)
def test_a_class_that_does_not_meet_the_protocol_is_an_error_of_one_line(name: str, message: str) -> None:
    with pytest.raises(UserError, match=message) as caught:
        algorithm_class(f"{__name__}:{name}")
    assert "\n" not in str(caught.value)


class Standing(MapElites):
    def tell(self, evaluation: Any, exchange: Any = LOCAL) -> Any:
        counts = super().tell(evaluation, exchange)
        self.generation -= 1
        return counts


class Silent(MapElites):
    def tell(self, evaluation: Any, exchange: Any = LOCAL) -> Any:
        super().tell(evaluation, exchange)


class Bare(MapElites):
    def ask(self, rows: range | None = None) -> Any:
        return super().ask(rows).genomes


class Proposing(MapElites):
    columns, kind, proposed_by = 8, torch.float32, "random"

    def ask(self, rows: range | None = None) -> Any:
        rows = range(self.batch_size) if rows is None else rows
        genomes: Any = torch.zeros(len(rows), self.columns, dtype=self.kind)
        return self.make_candidates(rows, genomes, self.proposed_by)


class Narrow(Proposing):
    columns = 5


class Double(Proposing):
    kind = torch.float64


class Misnamed(Proposing):
    proposed_by = "randon"


class OutOfRange(Proposing):
    proposed_by: Any = np.full(16, 7)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("Standing", "tell must add 1 to generation, which is 0 after 0"),
        ("Silent", "tell must return metrics by name, a dict, got NoneType"),
        ("Bare", "ask must return Candidates, as make_candidates does, got Tensor"),
        ("Narrow", r"ask proposed genomes \(16, 5\) torch.float32, not \(16, 8\) float32"),
        ("Double", r"ask proposed genomes \(16, 8\) torch.float64, not"),
        ("Misnamed", "no emitter 'randon'; did you mean 'random'"),
        ("OutOfRange", "emitters of rows must be indices below 2, got 7"),
    ],
)
def test_a_method_that_does_what_it_must_not_is_an_error_of_one_line(name: str, message: str, tmp_path: Path) -> None:
    experiment = {
        "name": "wrong",
        "task": {"name": "arm"},
        "archive": {"kind": "grid", "shape": [4, 4]},
        "algorithm": {"name": f"{__name__}:{name}", "batch_size": 16},
        "run": {"generations": 2},
    }
    with pytest.raises(UserError, match=f"algorithm '{__name__}:{name}': {message}") as caught:
        start(parse_experiment(experiment), OneProcess(), folder=tmp_path / "run", progress=False)
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
