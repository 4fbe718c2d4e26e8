"""Devices that tests run on; those marked `gpu` are skipped where there is no GPU."""

import pytest

CUDA = pytest.param("cuda", marks=pytest.mark.gpu)
WARP_DEVICES = ["warp-cpu", CUDA]
