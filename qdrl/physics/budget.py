"""Numbers of contacts and constraints for which MuJoCo Warp allocates memory."""

import logging

import numpy as np

from qdrl.physics.cpu import keep_mujoco_from_logging
from qdrl.physics.library import mujoco

_LOGGER = logging.getLogger("qdrl")
_SAMPLED_STEPS, _SAMPLED_STATES = 200, 8
_MARGIN, _LEAST = 2.0, 8


class ContactBudget:
    """Numbers of contacts and constraints to allocate.

    They start at twice the numbers that random controls need in C MuJoCo.

    Args:
        model: Compiled model.

    Attributes:
        contacts: Contacts per world, in a pool that all worlds share.
        constraints: Rows of the constraint Jacobian of one world.
    """

    def __init__(self, model: mujoco.MjModel) -> None:
        self.contacts, self.constraints = (max(_LEAST, round(_MARGIN * number)) for number in _needed(model))

    def grow(self) -> None:
        """Double both numbers and log a warning."""
        self.contacts, self.constraints = 2 * self.contacts, 2 * self.constraints
        _LOGGER.warning(
            "contacts overflowed in a world; allocating %d contacts and %d constraints per world from now on",
            self.contacts,
            self.constraints,
        )


def _needed(model: mujoco.MjModel) -> tuple[int, int]:
    """Return the maximum contacts and constraints under random controls, upright and in any pose."""
    keep_mujoco_from_logging()
    generator, data = np.random.default_rng(0), mujoco.MjData(model)
    limits, most = model.actuator_ctrlrange, (0, 0)
    for state in range(_SAMPLED_STATES):
        mujoco.mj_resetData(model, data)
        data.qpos[:] += generator.uniform(-0.1, 0.1, model.nq) * state
        data.qvel[:] = generator.uniform(-1, 1, model.nv) * state
        for _ in range(_SAMPLED_STEPS):
            data.ctrl[:] = generator.uniform(limits[:, 0], limits[:, 1])
            mujoco.mj_step(model, data)
            most = max(most[0], data.ncon), max(most[1], data.nefc)
    return most
