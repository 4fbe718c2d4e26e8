"""Putting stored arrays back into tensors that were made before."""

from typing import Any

import numpy as np
import torch
from torch import Tensor


def load_array(tensor: Tensor, stored: Any, what: str) -> None:
    """Copy a stored array into a tensor.

    Raises:
        ValueError: it is of another shape, as when a state is loaded under other settings.
    """
    array = np.asarray(stored, np.float32)
    if array.shape != tuple(tensor.shape):
        raise ValueError(
            f"{what} is stored as {array.shape}, expected {tuple(tensor.shape)}: load it under the settings it was "
            "saved with"
        )
    tensor.copy_(torch.from_numpy(array))
