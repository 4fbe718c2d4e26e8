"""Compilation of kernels: one thread, no fast math, no fused multiply-add, machine code cached on disk."""

import os
from collections.abc import Callable
from contextlib import suppress
from typing import Any, TypeVar

# With colours numba imports the colorama that Ray ships, which prints escape codes when the process ends.
os.environ.setdefault("NUMBA_DISABLE_ERROR_MESSAGE_HIGHLIGHTING", "1")

import numba
from numba.core.caching import FunctionCache

Function = TypeVar("Function", bound=Callable[..., Any])


def kernel(function: Function) -> Function:
    """Return the function, compiled at its first call.

    Machine code is cached beside the source or, where that folder is read-only, in the user's cache folder or in
    `NUMBA_CACHE_DIR`. The cache is keyed by processor. Where no folder can be written, every process compiles again.
    """
    # Without fast math LLVM neither reorders sums nor contracts a product and a sum into one operation.
    compiled: Any = numba.njit(fastmath=False, error_model="numpy", nogil=True)(function)
    with suppress(RuntimeError):  # no folder is writable
        compiled._cache = _Cache(function)  # `cache=True` would raise when the disk is full
    return compiled


class _Cache(FunctionCache):
    """Numba's cache with failures ignored: they only cost a compilation."""

    def load_overload(self, sig: Any, target_context: Any) -> Any:
        """Return the stored machine code; None where there is none or it cannot be read."""
        try:
            return super().load_overload(sig, target_context)
        except Exception:  # a truncated file raises whatever unpickling raises
            return None

    def save_overload(self, sig: Any, data: Any) -> None:
        """Store machine code; do nothing when the disk is full."""
        with suppress(OSError):
            super().save_overload(sig, data)
