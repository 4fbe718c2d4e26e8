"""Atari games in ALE: many at once in its vector environment, or one by one as Such et al. 2017 set them up.

The source of the published set-up is `gpu_implementation/gym_tensorflow/atari` of
https://github.com/uber-research/deep-neuroevolution. ALE's vector environment cannot do this. It resizes by area only,
draws from 0 to n - 1 frames without action, and cannot press buttons in one game while others wait.
"""

from functools import cache
from typing import TYPE_CHECKING, Protocol

import numpy as np
from numpy.typing import NDArray

from qdrl.streams import generator_from_seed
from qdrl.tasks.resize import resize_picture
from qdrl.tasks.settings import AtariSettings

if TYPE_CHECKING:
    from ale_py import ALEInterface

FRAMES_PER_STEP = 4
ALL_ACTIONS = 18
PICTURES, SIDE = 4, 84
NO_OP, FIRE = 0, 1  # ALE's codes of actions
_LARGEST_SEED = 2**31 - 1
_NO_FRAME_LIMIT = 2**31 - 1


class Games(Protocol):
    """Games of one task. Arrays have one row per game in `games`, which is sorted. Actions are indices of outputs.

    Attributes:
        codes: ALE's code of each output's action; outputs without an action do nothing.
    """

    codes: tuple[int, ...]

    def reset(self, games: NDArray[np.int64], seeds: list[int]) -> NDArray[np.uint8]:
        """Start new episodes; return the last pictures, `(n, PICTURES, SIDE, SIDE)`."""
        ...

    def step(
        self, games: NDArray[np.int64], actions: NDArray[np.int64]
    ) -> tuple[NDArray[np.uint8], NDArray[np.float64], NDArray[np.bool_]]:
        """Take actions for one control step; return pictures, rewards and whether games ended."""
        ...


class VectorGames:
    """Games in ALE's vector environment.

    Args:
        settings: Settings of the game.
        count: Number of games.
    """

    def __init__(self, settings: AtariSettings, count: int) -> None:
        from ale_py.vector_env import AtariVectorEnv

        self._count, self._started = count, False
        self._games = AtariVectorEnv(
            settings.game,
            count,
            num_threads=1,
            max_num_frames_per_episode=_NO_FRAME_LIMIT,
            repeat_action_probability=settings.sticky_actions,
            full_action_space=not settings.minimal_actions,
            noop_max=settings.no_ops,
            reward_clipping=False,
            use_fire_reset=False,
            frameskip=FRAMES_PER_STEP,
            stack_num=PICTURES,
        )
        actions = tuple(action.value for action in self._games.ale.get_action_set())
        self._known = len(actions)
        self.codes = actions if settings.minimal_actions else _fill(actions)

    def reset(self, games: NDArray[np.int64], seeds: list[int]) -> NDArray[np.uint8]:
        """Start new episodes; return the last pictures."""
        if not self._started:  # ALE requires a first reset of all games
            self._games.reset(seed=np.arange(self._count))
            self._started = True
        mask = np.zeros(self._count, bool)
        mask[games] = True
        drawn = np.array([generator_from_seed(seed).integers(_LARGEST_SEED) for seed in seeds], np.int32)
        pictures, _ = self._games.reset(seed=drawn, options={"reset_mask": mask})
        return pictures[games]

    def step(
        self, games: NDArray[np.int64], actions: NDArray[np.int64]
    ) -> tuple[NDArray[np.uint8], NDArray[np.float64], NDArray[np.bool_]]:
        """Take actions for one control step; return pictures, rewards and whether games ended."""
        chosen = np.zeros(self._count, np.int32)  # idle games receive no action
        chosen[games] = np.where(actions < self._known, actions, 0)  # ALE would wait forever after an unknown action
        pictures, rewards, terminated, truncated, _ = self._games.step(chosen)
        return pictures[games], rewards[games].astype(np.float64), (terminated | truncated)[games]


class SingleGames:
    """Games in ALE's interface for one game each.

    Args:
        settings: Settings of the game.
        count: Number of games.
    """

    def __init__(self, settings: AtariSettings, count: int) -> None:
        full, minimal = _action_sets(settings.game)
        self.codes = minimal if settings.minimal_actions else _fill(full)
        self._games = [_Game(settings) for _ in range(count)]

    def reset(self, games: NDArray[np.int64], seeds: list[int]) -> NDArray[np.uint8]:
        """Start new episodes; return the last pictures."""
        for game, seed in zip(games, seeds, strict=True):
            self._games[game].reset(seed)
        return self._pictures(games)

    def step(
        self, games: NDArray[np.int64], actions: NDArray[np.int64]
    ) -> tuple[NDArray[np.uint8], NDArray[np.float64], NDArray[np.bool_]]:
        """Take actions for one control step; return pictures, rewards and whether games ended."""
        rewards, ended = np.zeros(len(games)), np.zeros(len(games), bool)
        for row, (game, action) in enumerate(zip(games, actions, strict=True)):
            rewards[row], ended[row] = self._games[game].step(self.codes[action])
        return self._pictures(games), rewards, ended

    def _pictures(self, games: NDArray[np.int64]) -> NDArray[np.uint8]:
        return np.stack([self._games[game].pictures for game in games])


class _Game:
    """One game.

    Attributes:
        pictures: The last pictures, `(PICTURES, SIDE, SIDE)`; black where the episode has had fewer.
    """

    def __init__(self, settings: AtariSettings) -> None:
        self.pictures = np.zeros((PICTURES, SIDE, SIDE), np.uint8)
        self._settings, self._ale = settings, _ale()
        self._ale.setFloat("repeat_action_probability", settings.sticky_actions)
        self._screens = [np.zeros(0, np.uint8)] * 2  # the last two frames

    def reset(self, seed: int) -> None:
        """Start a new episode."""
        ale_seed, no_ops = draw_start(seed, self._settings)
        self._ale.setInt("random_seed", ale_seed)
        _load(self._ale, self._settings.game)  # ALE reads the seed only here
        self._ale.reset_game()
        self._screens = [self._ale.getScreenGrayscale()] * 2
        presses = fire_presses(self._settings.game) if self._settings.fire_on_reset else ()
        for code in (NO_OP,) * no_ops + tuple(np.repeat(presses, FRAMES_PER_STEP).tolist()):
            self._play_frame(code)
        self.pictures[:] = 0
        self._take_picture()

    def step(self, code: int) -> tuple[float, bool]:
        """Take the action with this code for one control step; return the reward and whether the game ended."""
        reward = 0.0
        for _ in range(FRAMES_PER_STEP):
            reward += self._play_frame(code)
            if self._ale.game_over():
                break
        self._take_picture()
        return reward, self._ale.game_over()

    def _play_frame(self, code: int) -> float:
        reward = self._ale.act(code)
        self._screens = [self._screens[1], self._ale.getScreenGrayscale()]
        return float(reward)

    def _take_picture(self) -> None:
        self.pictures[:-1] = self.pictures[1:]
        self.pictures[-1] = resize_picture(np.maximum(*self._screens), SIDE, self._settings.resize)


def make_games(settings: AtariSettings, count: int) -> Games:
    """Return games in the vector environment if that can do what the settings say, otherwise single games."""
    single = settings.fire_on_reset or settings.at_least_one_no_op or settings.resize != "area"
    return SingleGames(settings, count) if single else VectorGames(settings, count)


def draw_start(seed: int, settings: AtariSettings) -> tuple[int, int]:
    """Return ALE's seed and the number of frames without action of a single game's episode."""
    generator = generator_from_seed(seed)
    ale_seed = int(generator.integers(_LARGEST_SEED))
    if settings.no_ops == 0:
        return ale_seed, 0
    return ale_seed, int(generator.integers(settings.no_ops)) + settings.at_least_one_no_op


def minimal_actions(game: str) -> tuple[int, ...]:
    """Return the codes of ALE's minimal action set of a game."""
    return _action_sets(game)[1]


def fire_presses(game: str) -> tuple[int, ...]:
    """Return the codes of the minimal set's second and third action if the second is FIRE, otherwise nothing.

    No game of ALE ends within 30 frames without action and these presses.
    """
    actions = minimal_actions(game)
    return actions[1:3] if actions[1] == FIRE else ()


def _fill(actions: tuple[int, ...]) -> tuple[int, ...]:
    """Return 18 codes; a few games, such as Skiing, have fewer actions."""
    return actions + (NO_OP,) * (ALL_ACTIONS - len(actions))


@cache
def _action_sets(game: str) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Return the codes of a game's full and minimal action set."""
    ale = _ale()
    _load(ale, game)
    full, minimal = ale.getLegalActionSet(), ale.getMinimalActionSet()
    return tuple(action.value for action in full), tuple(action.value for action in minimal)


def _ale() -> "ALEInterface":
    from ale_py import ALEInterface, LoggerMode

    ALEInterface.setLoggerMode(LoggerMode.Error)
    return ALEInterface()


def _load(ale: "ALEInterface", game: str) -> None:
    from ale_py import roms

    ale.loadROM(str(roms.get_rom_path(game)))
