"""An environment and descriptor functions with one fault each, in episodes whose seed is 1 modulo 3."""

import ctypes
import os
import time
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
from gymnasium.spaces import Box

from qdrl.tasks.environments.trajectory import Trajectory


class NotAnException(BaseException):
    """Not a subclass of Exception, so `except Exception` does not catch it."""


def _raise(error: BaseException) -> Any:
    raise error


RESET = {
    "reset raises": lambda seen: _raise(RuntimeError("cannot begin")),
    "reset returns the observation alone": lambda seen: np.array(seen),
    "reset returns three values": lambda seen: (seen, {}, 0),
}
STEP = {
    "step raises": lambda answer: _raise(RuntimeError("cannot continue")),
    "step raises SystemExit": lambda answer: _raise(SystemExit(0)),
    "step raises GeneratorExit": lambda answer: _raise(GeneratorExit()),
    "step raises a BaseException": lambda answer: _raise(NotAnException("never seen")),
    "step returns four values": lambda answer: answer[:4],
    "step returns None": lambda answer: None,
    "reward is NaN": lambda answer: (answer[0], np.nan, *answer[2:]),
    "reward is infinite": lambda answer: (answer[0], -np.inf, *answer[2:]),
    "reward is 1e308": lambda answer: (answer[0], 1e308, *answer[2:]),
    "reward is text": lambda answer: (answer[0], "1.0", *answer[2:]),
    "reward is None": lambda answer: (answer[0], None, *answer[2:]),
    "reward is complex": lambda answer: (answer[0], 1 + 0j, *answer[2:]),
    "reward is two numbers": lambda answer: (answer[0], np.ones(2), *answer[2:]),
    "terminated is two flags": lambda answer: (*answer[:2], np.zeros(2, bool), *answer[3:]),
    "truncated is text": lambda answer: (*answer[:3], "no", *answer[4:]),
    "info is None": lambda answer: (*answer[:4], None),
    "observation is longer": lambda answer: (np.zeros(5), *answer[1:]),
    "observation is transposed": lambda answer: (np.zeros((2, 2)), *answer[1:]),
    "observation is text": lambda answer: (np.array(["a", "b"]), *answer[1:]),
    "observation is NaN": lambda answer: (np.array([np.nan, 0.0]), *answer[1:]),
    "observation is beyond float32": lambda answer: (np.array([1e300, 0.0]), *answer[1:]),
}
DESCRIPTOR = {
    "descriptor raises": lambda: _raise(RuntimeError("indescribable")),
    "descriptor raises SystemExit": lambda: _raise(SystemExit("enough")),
    "descriptor is None": lambda: None,
    "descriptor is text": lambda: ["0.1", "0.2"],
    "descriptor is complex": lambda: [0.1, 0.2j],
    "descriptor is nested": lambda: [[0.1, 0.2]],
    "descriptor is nested unevenly": lambda: [0.1, [0.2, 0.3]],
    "descriptor is longer": lambda: [0.1, 0.2, 0.3],
    "descriptor is NaN": lambda: [0.1, np.nan],
    "descriptor is 1e308": lambda: [0.1, 1e308],
}
FATAL = {
    "exit": lambda: os._exit(3),
    "abort": os.abort,
    "crash": lambda: ctypes.string_at(0),
    "hang": lambda: time.sleep(1000),
}
ODD_BUT_FINE = {
    "reward is an array of one": lambda answer: (answer[0], np.array([answer[1]]), *answer[2:]),
    "reward has no dimensions": lambda answer: (answer[0], np.array(answer[1]), *answer[2:]),
    "flags are arrays of one": lambda answer: (*answer[:2], np.array([False]), np.bool_(False), answer[4]),
    "observation is a list": lambda answer: (answer[0].tolist(), *answer[1:]),
    "observation is a column": lambda answer: (answer[0][:, None], *answer[1:]),
    "step returns a list": list,
}


class Misbehaving(gymnasium.Env):
    """A point whose faulty episodes fail at their reset, third step or end.

    Args:
        fault: name of the fault, a key above; "" for none. "by seed" uses the faults of FATAL in turn.
        pids: a folder in which each process that makes an environment creates a file named after its process id.
    """

    observation_space = Box(-np.inf, np.inf, (2,), np.float64)
    action_space = Box(-1, 1, (1,), np.float64)

    def __init__(self, fault: str = "", pids: str = "") -> None:
        self.fault = fault
        if pids:
            (Path(pids) / str(os.getpid())).touch()

    def reset(self, *, seed: int | None = None, options: Any = None) -> Any:
        super().reset(seed=seed)
        self.seed = seed or 0
        self.faulty, self.steps = self.seed % 3 == 1, 0
        self.place = self.np_random.uniform(-1, 1, 2)
        return RESET[self.fault](self.place) if self.faulty and self.fault in RESET else (self.place, {})

    def step(self, action: Any) -> Any:
        self.steps += 1
        self.place[0] += 0.1 * action[0]
        answer = (self.place, float(self.place[0]), False, False, {})
        if self.fault in ODD_BUT_FINE:
            return ODD_BUT_FINE[self.fault](answer)
        if not self.faulty or self.steps != 3:
            return answer
        if self.fault == "by seed":
            list(FATAL.values())[self.seed // 3 % len(FATAL)]()
        if self.fault in FATAL:
            FATAL[self.fault]()
        return STEP[self.fault](answer) if self.fault in STEP else answer


gymnasium.register("Misbehaving-v0", entry_point=f"{__name__}:Misbehaving", disable_env_checker=True)


def described(trajectory: Trajectory) -> Any:
    """Return the last place, or the result of the environment's fault."""
    environment = trajectory.env.unwrapped
    if environment.faulty and environment.fault in DESCRIPTOR:
        return DESCRIPTOR[environment.fault]()
    if environment.faulty and environment.fault == "descriptor exits":
        os._exit(5)
    return trajectory.observations[-1]
