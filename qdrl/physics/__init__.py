"""Batches of MuJoCo worlds on CPU and GPU with one interface.

`cpu.py` steps them on the CPU in float64, `gpu.py` on a GPU in float32. State and controls are torch tensors batched
over worlds; the interface has no Python object per world. Physics is MuJoCo (Todorov, Erez and Tassa 2012,
https://doi.org/10.1109/IROS.2012.6386109).
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    import torch
    from torch import Tensor

STATE_FIELDS = (
    "qpos",
    "qvel",
    "sensordata",
    "xpos",
    "xquat",
    "xipos",
    "site_xpos",
    "subtree_com",
    "cvel",
    "actuator_force",
    "cfrc_ext",
)
"""Fields of MuJoCo's data that worlds can keep; see MuJoCo's documentation of `mjData`."""


class Worlds(Protocol):
    """A batch of simulated worlds of one model.

    Attributes:
        count: Number of worlds.
        device: Device of the tensors.
        control: `(count, nu)` controls that the next step applies.
        state: Requested fields of MjData by name, each `(count, ...)`, valid after `reset` and `step`.
    """

    count: int
    device: "torch.device"
    control: "Tensor"
    state: "dict[str, Tensor]"

    def reset(self, worlds: Sequence[int], qpos: "Tensor", qvel: "Tensor") -> None:
        """Reset these worlds to positions `(len(worlds), nq)` and velocities `(len(worlds), nv)`."""
        ...

    def step(self, count: int) -> None:
        """Advance worlds 0..count-1 by one control step (`frame_skip` physics steps)."""
        ...

    def move(self, source: int, target: int) -> None:
        """Copy world `source` into world `target`; the content of `source` is then undefined."""
        ...

    def unstable(self, world: int) -> bool:
        """Return whether MuJoCo reported a bad state (NaN, infinite or huge) since the world's reset."""
        ...
