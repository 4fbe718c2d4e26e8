"""Matrix products on fixed buffers, each by the library that is fastest for its shape.

Measured on one core (AVX-512, OpenBLAS 0.3.31 in numpy, MKL 2024.2 in torch), GFLOP/s in float32:

| product | numpy | torch |
|---|---|---|
| (100, 256) @ (256, 256) | 100 | 99 |
| (100, 256) @ (256, 256) transposed | 85 | 100 |
| (100, 256) transposed @ (100, 256) | 101 | 98 |
| (100, 128) @ (128, 128) transposed | 82 | 95 |
| (100, 30) @ (30, 128) | 97 | 80 |
| (100, 128) @ (128, 8) | 64 | 13 |
| (100, 256) @ (8, 256) transposed | 84 | 32 |
| (100, 1) @ (1, 256) | 0.9 | 7, as a broadcast multiplication |
"""

from collections.abc import Callable
from functools import partial

import numpy as np
import torch
from torch import Tensor

from qdrl.compute.arrays import native

_LARGE_SIZE = 64  # least rows and columns of a transposed matrix that torch multiplies faster


def product(left: Tensor, right: Tensor, out: Tensor) -> Callable[[], object]:
    """Return a call that writes `left @ right` into `out` and reads the buffers when it is called.

    Args:
        left: `(networks, n, k)`, or `(n, k)` for the same matrix in all networks.
        right: `(networks, k, m)`.
        out: `(networks, n, m)`.
    """
    if right.shape[-2] == 1:
        return partial(torch.mul, left, right, out=out)
    transposed = right.stride(-1) != 1 and min(right.shape[-2:]) >= _LARGE_SIZE
    result = native(out)
    if isinstance(result, np.ndarray) and not transposed:
        return partial(np.matmul, native(left), native(right), out=result)
    return partial(torch.bmm, left.expand(len(right), *left.shape[-2:]), right, out=out)
