"""Many MuJoCo worlds at once, behind one interface.

`cpu.py` steps them on the CPU in float64, `gpu.py` on a GPU in float32: state and controls are torch tensors on a
device, batched over worlds, and nothing in the interface asks for a world's Python object.
"""

from collections.abc import Sequence
from typing import Protocol

import torch
from torch import Tensor

STATE_FIELDS = ("qpos", "qvel", "sensordata", "xpos", "xipos", "cfrc_ext")


class Worlds(Protocol):
    """A batch of simulated worlds of one model.

    Attributes:
        count: how many worlds.
        device: where the tensors live.
        control: `(count, nu)`, what the next step applies.
        state: the asked fields of MjData by name, each `(count, ...)`, valid after `reset` and `step`.
    """

    count: int
    device: torch.device
    control: Tensor
    state: dict[str, Tensor]

    def reset(self, worlds: Sequence[int], qpos: Tensor, qvel: Tensor) -> None:
        """Start these worlds anew from positions `(len(worlds), nq)` and velocities `(len(worlds), nv)`."""
        ...

    def step(self, count: int) -> None:
        """Advance worlds 0..count-1 by one control step (`frame_skip` physics steps)."""
        ...

    def move(self, source: int, target: int) -> None:
        """Let world `target` go on as world `source`; `source` is then free."""
        ...

    def unstable(self, world: int) -> bool:
        """Whether MuJoCo found the world's state bad (NaN, infinite or huge) since its reset."""
        ...
