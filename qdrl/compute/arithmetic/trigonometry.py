"""Sine and cosine in a named arithmetic."""

from collections.abc import Callable

import numpy as np

from qdrl.compute.arithmetic import PORTABLE, Arithmetic

Sines = Callable[[np.ndarray], tuple[np.ndarray, np.ndarray]]
"""A function that returns the sines and cosines of angles in rad, float64 of any shape."""


def sines_in(arithmetic: Arithmetic) -> Sines:
    """Return the function that computes sines and cosines in an arithmetic: numpy's unless it is portable."""
    return portable_sines if arithmetic == PORTABLE else _library_sines


def portable_sines(angles: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return sines and cosines of `angles` in rad, float64 of any shape; NaN beyond 1e6 rad."""
    from qdrl.compute.arithmetic.kernels import sines

    flat = np.ascontiguousarray(angles, np.float64).reshape(-1)
    sine, cosine = np.empty_like(flat), np.empty_like(flat)
    sines(flat, sine, cosine)
    return sine.reshape(angles.shape), cosine.reshape(angles.shape)


def _library_sines(angles: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    return np.sin(angles), np.cos(angles)
