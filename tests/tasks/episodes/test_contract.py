"""Worlds that break their contract raise an error of one line in the first run of a rollout."""

from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch
from torch import Tensor

from qdrl.errors import UserError
from qdrl.policies.mlp import Mlp, MlpSettings
from qdrl.tasks.episodes.rollout import Rollout
from qdrl.tasks.episodes.worlds import EpisodeWorlds


class Faulty(EpisodeWorlds):
    """Worlds with episodes of one step; tests replace their return values."""

    def __init__(self, count: int, **answers: Callable[[int], Any]) -> None:
        self.count = count
        self.answers = answers

    def reset(self, slots: Sequence[int], seeds: Sequence[int]) -> None: ...

    def observe(self, ages: Tensor) -> Tensor:
        return self.answers.get("observe", lambda n: torch.zeros(n, 2))(len(ages))

    def step(self, actions: Tensor) -> tuple[Tensor, Tensor]:
        good = lambda n: (torch.zeros(n).double(), torch.ones(n).bool())  # noqa: E731
        return self.answers.get("step", good)(len(actions))

    def descriptor(self, slot: int, steps: int) -> Tensor:
        return self.answers.get("descriptor", lambda _: torch.zeros(1).double())(1)

    def move(self, source: int, target: int) -> None: ...


def rollout(worlds: EpisodeWorlds) -> Rollout:
    return Rollout(worlds, Mlp(2, 1, MlpSettings(hidden_sizes=())), dimensions=1, episode_length=4)


@pytest.mark.parametrize(
    ("method", "answer", "words"),
    [
        ("observe", lambda n: torch.zeros(n, 3), "a tensor of shape (4, 3) and dtype float32, expected shape (4, 2)"),
        ("observe", lambda n: torch.zeros(n, 2).double(), "dtype float64, expected shape (4, 2) and dtype float32"),
        ("observe", lambda n: torch.zeros(n, 2).numpy(), "a value of type numpy.ndarray, expected a tensor of shape"),
        ("observe", lambda n: torch.zeros(n, 2, requires_grad=True), "a tensor that requires gradients"),
        (
            "step",
            lambda n: (torch.ones(n).bool(), torch.zeros(n).double()),
            "as rewards a tensor of shape (4,) and dtype bool, expected shape (4,) and dtype float64; it returns (rew",
        ),
        (
            "step",
            lambda n: (torch.zeros(n), torch.ones(n).bool()),
            "as rewards a tensor of shape (4,) and dtype float32",
        ),
        (
            "step",
            lambda n: (torch.zeros(n).double(), torch.ones(n, 1).bool()),
            "as terminated a tensor of shape (4, 1) and dtype bool, expected shape (4,)",
        ),
        (
            "step",
            lambda n: torch.zeros(n).double(),
            "a tensor of shape (4,) and dtype float64, expected (rewards, term",
        ),
        ("step", lambda n: (0, 1, 2), "a tuple of 3 values, expected (rewards, terminated)"),
        ("step", lambda _: None, "None, expected (rewards, terminated)"),
        (
            "descriptor",
            lambda _: [0.0],
            "a list of 1 values, expected a tensor of shape (1,) and dtype float64: one value",
        ),
        ("descriptor", lambda _: torch.zeros(1), "dtype float32, expected shape (1,) and dtype float64"),
    ],
)
def test_an_answer_of_another_form_names_class_method_and_what_was_expected(
    method: str, answer: Callable[[int], Any], words: str
) -> None:
    with pytest.raises(UserError) as caught:
        rollout(Faulty(4, **{method: answer})).run(torch.zeros(4, 3), range(4))
    assert str(caught.value).startswith(f"Faulty.{method} returned")
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)


def test_steps_after_the_first_run_are_not_checked() -> None:
    worlds = Faulty(2)
    checked = rollout(worlds)
    checked.run(torch.zeros(0, 3), [])
    assert checked._worlds is not worlds  # nothing was checked yet
    checked.run(torch.zeros(3, 3), range(3))
    assert checked._worlds is worlds
