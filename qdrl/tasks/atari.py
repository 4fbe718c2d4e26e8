"""Atari games on the Arcade Learning Environment (Bellemare et al. 2013, https://arxiv.org/abs/1207.4708).

A control step is four frames. Its image is the maximum of the last two frames, in grey, 84 x 84 pixels. The observation
is the last four images as channels, divided by 255. An episode begins with frames without action; their number is drawn
from the episode's seed. It ends with the game, not with the loss of a life. Rewards are changes of the game's score,
not clipped. The action is the index of the largest of a policy's outputs.

By default an image is resized by area, an episode begins with 0 to 29 frames without action, and a policy has 18
outputs. Mnih et al. 2015 and Such et al. 2017 differ from this; `minimal_actions`, `fire_on_reset`,
`at_least_one_no_op` and `resize` set what the latter did. Pictures are rounded to 8 bits, theirs are not.
"""

from collections.abc import Sequence
from functools import partial

import numpy as np
import torch
from torch import Tensor

from qdrl.archives.axes import Axis
from qdrl.errors import UserError
from qdrl.naming import suggest
from qdrl.tasks.atari_games import (
    ALL_ACTIONS,
    FRAMES_PER_STEP,
    PICTURES,
    SIDE,
    fire_presses,
    make_games,
    minimal_actions,
)
from qdrl.tasks.base import TaskSetup, TaskSpec
from qdrl.tasks.episodes.worlds import EpisodeWorlds
from qdrl.tasks.episodic import EpisodicTask
from qdrl.tasks.settings import AtariSettings

_FIRES = np.array([1, 10, 11, 12, 13, 14, 15, 16, 17])  # codes of actions that press the fire button


class AtariWorlds(EpisodeWorlds):
    """Games; see `qdrl.tasks.episodes.worlds.EpisodeWorlds`.

    Args:
        settings: Settings of the game.
        count: Number of games.
    """

    def __init__(self, settings: AtariSettings, count: int) -> None:
        self.count, self._episode_length = count, settings.episode_length
        self._games = make_games(settings, count)
        self._presses_fire = np.isin(self._games.codes, _FIRES)  # of each output
        self._game = np.arange(count)  # index of the game of each slot
        self._fires = np.zeros(count, np.int64)
        self._pictures = np.zeros((count, PICTURES, SIDE, SIDE), np.uint8)

    def reset(self, slots: Sequence[int], seeds: Sequence[int]) -> None:
        """Start a new episode in each of these worlds."""
        order = np.argsort(self._game[list(slots)])  # ALE expects seeds in the order of games
        games = self._game[list(slots)][order]
        self._pictures[games] = self._games.reset(games, [seeds[row] for row in order])
        self._fires[games] = 0

    def observe(self, ages: Tensor) -> Tensor:
        """Return the observations of the first worlds."""
        pictures = self._pictures[self._game[: len(ages)]].reshape(len(ages), -1)
        return torch.from_numpy(pictures.astype(np.float32) / np.float32(255))

    def step(self, actions: Tensor) -> tuple[Tensor, Tensor]:
        """Apply actions; return rewards and terminated."""
        games = self._game[: len(actions)]
        chosen = actions.numpy().argmax(axis=1)
        self._pictures[games], rewards, ended = self._games.step(games, chosen)
        self._fires[games] += self._presses_fire[chosen]
        return torch.from_numpy(rewards), torch.from_numpy(ended)

    def descriptor(self, slot: int, steps: int) -> Tensor:
        """Return the descriptor of an ended episode."""
        shares = steps / self._episode_length, self._fires[self._game[slot]] / max(steps, 1)
        return torch.tensor(shares, dtype=torch.float64)

    def move(self, source: int, target: int) -> None:
        """Copy the state of world `source` into world `target`."""
        self._game[[source, target]] = self._game[[target, source]]


def make_atari_task(settings: AtariSettings, setup: TaskSetup) -> EpisodicTask:
    """Return the task that settings describe.

    Args:
        settings: Settings of the task.
        setup: How the task computes.

    Raises:
        UserError: There is no such game, or ale-py is not installed.
    """
    game = settings.game
    try:
        from ale_py import roms
    except ImportError as error:
        raise UserError(f"task.name: {settings.name} needs ale-py: pip install 'qdrl[atari]'") from error
    if game not in (known := roms.get_all_rom_ids()):
        raise UserError(f"task.name: no game '{game}'{suggest(game, known)}")
    spec = TaskSpec(
        name=settings.name,
        summary=f"The Atari game {game}, {FRAMES_PER_STEP} frames a step.",
        axes=(
            Axis("share of the longest episode", "1", 0.0, 1.0),
            Axis("share of steps with the button held", "1", 0.0, 1.0),
        ),
        fitness_name=f"score of {game}",
        episode_length=settings.episode_length,
        qd_offset=settings.qd_offset,
        reward_offset=None,
        observation=f"the last {PICTURES} pictures, grey, {SIDE} x {SIDE}, in [0, 1]",
        observation_size=PICTURES * SIDE * SIDE,
        action_size=len(minimal_actions(game)) if settings.minimal_actions else ALL_ACTIONS,
        discrete=True,
        image=(PICTURES, SIDE, SIDE),
        frames_per_step=FRAMES_PER_STEP,
        initial_noise=_start(settings),
        options=settings.model_dump(),
        arithmetic=setup.arithmetic,
    )
    return EpisodicTask(
        spec, partial(AtariWorlds, settings), policy=setup.policy_of(discrete=True), worlds=setup.worlds
    )


def _start(settings: AtariSettings) -> str:
    """Describe the frames before a policy's first step."""
    first = "1 to" if settings.at_least_one_no_op else "up to"
    fires = settings.fire_on_reset and fire_presses(settings.game)
    return f"{first} {settings.no_ops} frames of doing nothing{', then FIRE' if fires else ''}"
