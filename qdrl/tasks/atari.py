"""Atari games on the Arcade Learning Environment (Bellemare et al. 2013, https://arxiv.org/abs/1207.4708).

Preprocessing is that of Mnih et al. 2015 and Such et al. 2017. A control step is four frames. Its image is the maximum
of the last two frames, in grey, 84 x 84 pixels. The observation is the last four images as channels, divided by 255. An
episode begins with up to 30 frames without action; their number is drawn from the episode's seed. It ends with the
game, not with the loss of a life. Rewards are changes of the game's score, not clipped. The action is the index of the
largest of a policy's 18 outputs.
"""

from collections.abc import Sequence
from functools import partial

import numpy as np
import torch
from torch import Tensor

from qdrl.archives.axes import Axis
from qdrl.errors import UserError
from qdrl.naming import suggest
from qdrl.streams import generator_from_seed
from qdrl.tasks.base import TaskSetup, TaskSpec
from qdrl.tasks.episodes.worlds import EpisodeWorlds
from qdrl.tasks.episodic import EpisodicTask
from qdrl.tasks.settings import AtariSettings

FRAMES_PER_STEP = 4
_SIDE, _STACK, _ACTIONS = 84, 4, 18
_FIRES = np.array([1, 10, 11, 12, 13, 14, 15, 16, 17])  # actions of ALE's full set that press the fire button
_NO_FRAME_LIMIT = 2**31 - 1


class AtariWorlds(EpisodeWorlds):
    """Games; see `qdrl.tasks.episodes.worlds.EpisodeWorlds`.

    Args:
        settings: Settings of the game.
        count: Number of games.
    """

    def __init__(self, settings: AtariSettings, count: int) -> None:
        from ale_py.vector_env import AtariVectorEnv

        self.count, self._episode_length = count, settings.episode_length
        self._games = AtariVectorEnv(
            settings.name.removeprefix("atari:"),
            count,
            num_threads=1,
            max_num_frames_per_episode=_NO_FRAME_LIMIT,
            repeat_action_probability=settings.sticky_actions,
            full_action_space=True,
            noop_max=settings.no_ops,
            reward_clipping=False,
            use_fire_reset=False,
            frameskip=FRAMES_PER_STEP,
            stack_num=_STACK,
        )
        self._game = np.arange(count)  # index of the game of each slot
        self._fires, self._started = np.zeros(count, np.int64), False
        self._pictures = np.zeros((count, _STACK, _SIDE, _SIDE), np.uint8)

    def reset(self, slots: Sequence[int], seeds: Sequence[int]) -> None:
        """Start a new episode in each of these worlds."""
        if not self._started:  # ALE requires a first reset of all games
            self._games.reset(seed=np.arange(self.count))
            self._started = True
        order = np.argsort(self._game[list(slots)])  # ALE expects seeds in the order of games
        games = self._game[list(slots)][order]
        mask = np.zeros(self.count, bool)
        mask[games] = True
        drawn = np.array([generator_from_seed(seed).integers(2**31 - 1) for seed in seeds])
        pictures, _ = self._games.reset(seed=drawn[order].astype(np.int32), options={"reset_mask": mask})
        self._pictures[games] = pictures[games]
        self._fires[games] = 0

    def observe(self, ages: Tensor) -> Tensor:
        """Return the observations of the first worlds."""
        pictures = self._pictures[self._game[: len(ages)]].reshape(len(ages), -1)
        return torch.from_numpy(pictures.astype(np.float32) / np.float32(255))

    def step(self, actions: Tensor) -> tuple[Tensor, Tensor]:
        """Apply actions; return rewards and terminated."""
        games = self._game[: len(actions)]
        chosen = np.zeros(self.count, np.int32)  # idle games receive no action
        chosen[games] = actions.numpy().argmax(axis=1)
        pictures, rewards, terminated, truncated, _ = self._games.step(chosen)
        self._pictures[games] = pictures[games]
        self._fires[games] += np.isin(chosen[games], _FIRES)
        ended = terminated | truncated
        return torch.from_numpy(rewards[games].astype(np.float64)), torch.from_numpy(ended[games])

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
    game = settings.name.removeprefix("atari:")
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
        observation=f"the last {_STACK} pictures, grey, {_SIDE} x {_SIDE}, in [0, 1]",
        observation_size=_STACK * _SIDE * _SIDE,
        action_size=_ACTIONS,
        discrete=True,
        image=(_STACK, _SIDE, _SIDE),
        frames_per_step=FRAMES_PER_STEP,
        initial_noise=f"up to {settings.no_ops} frames of doing nothing",
        options=settings.model_dump(),
        arithmetic=setup.arithmetic,
    )
    return EpisodicTask(
        spec, partial(AtariWorlds, settings), policy=setup.policy_of(discrete=True), worlds=setup.worlds
    )
