"""Options of Atari games, against ALE driven by hand."""

from typing import Any

import numpy as np
import pytest
import torch
from pydantic import ValidationError

from qdrl.streams import generator_from_seed
from qdrl.tasks.atari import AtariWorlds
from qdrl.tasks.atari_games import SingleGames, VectorGames, draw_start, fire_presses, make_games, minimal_actions
from qdrl.tasks.registry import make_task
from qdrl.tasks.resize import resize_picture
from qdrl.tasks.settings import AtariSettings
from tests.tasks.builders import candidates, first_genomes

pytest.importorskip("ale_py")
pytestmark = pytest.mark.atari
PUBLISHED = {"minimal_actions": True, "fire_on_reset": True, "at_least_one_no_op": True, "resize": "bilinear"}
POLICY = {"kind": "conv", "convolutions": ({"filters": 2, "size": 8, "stride": 8},), "hidden_sizes": (4,)}
ONE = np.array([0])


def settings_of(game: str, **options: Any) -> AtariSettings:
    return AtariSettings(name=f"atari:{game}", **options)


def ale_after(game: str, seed: int, codes: list[int]) -> list[Any]:
    """The grey screens of ALE after a reset and after each of these frames."""
    from ale_py import ALEInterface, roms

    ale = ALEInterface()
    ale.setFloat("repeat_action_probability", 0.0)
    ale.setInt("random_seed", seed)
    ale.loadROM(str(roms.get_rom_path(game)))
    ale.reset_game()
    screens = [ale.getScreenGrayscale()]
    for code in codes:
        ale.act(code)
        screens.append(ale.getScreenGrayscale())
    return screens


def test_minimal_actions_are_ales() -> None:
    assert minimal_actions("breakout") == (0, 1, 3, 4)  # nothing, FIRE, right, left
    assert minimal_actions("skiing") == (0, 3, 4)
    assert minimal_actions("frostbite") == tuple(range(18))
    task = make_task("atari:breakout", policy=POLICY, minimal_actions=True)
    assert task.spec.action_size == 4
    assert make_task("atari:breakout", policy=POLICY).spec.action_size == 18


@pytest.mark.parametrize(("game", "presses"), [("breakout", (1, 3)), ("pong", (1, 3)), ("skiing", ())])
def test_fire_is_pressed_where_it_is_in_the_minimal_set(game: str, presses: tuple[int, ...]) -> None:
    assert fire_presses(game) == presses


def test_published_starts_have_1_to_30_frames_without_action() -> None:
    published, default = settings_of("pong", at_least_one_no_op=True), settings_of("pong")
    seeds = range(500)
    assert {draw_start(seed, published)[1] for seed in seeds} == set(range(1, 31))
    assert {draw_start(seed, default)[1] for seed in seeds} == set(range(30))
    generator = generator_from_seed(7)
    assert draw_start(7, published) == (generator.integers(2**31 - 1), generator.integers(30) + 1)
    assert draw_start(7, settings_of("pong", no_ops=0, fire_on_reset=True))[1] == 0
    with pytest.raises(ValidationError, match="at_least_one_no_op needs no_ops of 1 or more, got 0"):
        settings_of("pong", no_ops=0, at_least_one_no_op=True)


def test_a_published_episode_is_that_of_ale_by_hand() -> None:
    settings = settings_of("breakout", **PUBLISHED)
    worlds = AtariWorlds(settings, 2)
    worlds.reset([1], [7])
    worlds.move(1, 0)
    seed, no_ops = draw_start(7, settings)
    screens = ale_after("breakout", seed, [0] * no_ops + [1] * 4 + [3] * 4 + [4] * 4)  # FIRE, right, then left
    first, second = (resize_picture(np.maximum(*screens[at : at + 2]), 84, "bilinear") for at in (-6, len(screens) - 2))
    black = np.zeros((84, 84), np.uint8)

    def seen() -> Any:
        return (worlds.observe(torch.zeros(1)) * 255).round().numpy().astype(np.uint8).reshape(4, 84, 84)

    assert (seen() == np.stack([black, black, black, first])).all()
    worlds.step(torch.tensor([[0.0, 0.0, 0.0, 1.0]]))  # the last of four actions is left
    assert (seen() == np.stack([black, black, first, second])).all()
    assert (first != second).any()
    assert worlds.descriptor(0, 1)[1] == 0.0
    worlds.step(torch.tensor([[0.0, 1.0, 0.0, 0.0]]))
    assert worlds.descriptor(0, 2)[1] == 0.5


def test_a_published_rows_result_does_not_depend_on_the_number_of_games() -> None:
    found = []
    for worlds in (1, 2):
        task = make_task("atari:breakout", policy=POLICY, worlds=worlds, episode_length=5, **PUBLISHED)
        found.append(task.evaluate(candidates(first_genomes(task, 3))))
    assert torch.equal(found[0].fitness, found[1].fitness)
    assert torch.equal(found[0].descriptor, found[1].descriptor)


def test_single_games_play_like_the_vector_environment() -> None:
    settings = settings_of("breakout", no_ops=0, minimal_actions=True)
    vector, single = VectorGames(settings, 1), SingleGames(settings, 1)
    assert vector.codes == single.codes
    pairs = [(vector.reset(ONE, [3]), single.reset(ONE, [3]))]
    for action in np.random.default_rng(0).integers(4, size=60):
        (pictures, *others), (same, *same_others) = (games.step(ONE, np.array([action])) for games in (vector, single))
        assert others == same_others
        pairs.append((pictures, same))
    # OpenCV sums areas in float32, so that a pixel may be rounded the other way.
    assert all(np.abs(one.astype(int) - other).max() <= 1 for one, other in pairs)


@pytest.mark.parametrize("options", [{}, {"fire_on_reset": True}])
def test_outputs_without_an_action_do_nothing(options: dict[str, bool]) -> None:
    games = make_games(settings_of("skiing", no_ops=0, **options), 1)
    assert len(games.codes) == 18
    assert games.codes[9:] == (0,) * 9
    seen = []
    for action in (0, 17):
        games.reset(ONE, [5])
        seen.append([games.step(ONE, np.array([action]))[0] for _ in range(5)])
    assert (np.stack(seen[0]) == np.stack(seen[1])).all()


@pytest.mark.parametrize("option", [{name: value} for name, value in PUBLISHED.items() if name != "minimal_actions"])
def test_any_published_start_or_picture_needs_single_games(option: dict[str, Any]) -> None:
    assert isinstance(make_games(settings_of("pong", **option), 1), SingleGames)


def test_by_default_games_are_ales_vector_environment() -> None:
    assert isinstance(make_games(settings_of("pong", minimal_actions=True), 1), VectorGames)
