"""Processor and C library, with a fingerprint of the C library's mathematical functions.

MuJoCo and numpy's random numbers call libm. Its results depend on the version of the C library and on whether the
processor has fused multiply-add. A fingerprint of results shows more reliably than names whether two machines agree.
"""

import math
import platform
import struct
from functools import cache
from hashlib import sha256
from pathlib import Path

_FEATURES = (
    "avx",
    "avx2",
    "fma",
    "avx512f",
    "avx512bw",
    "avx512_bf16",
    "asimd",
)  # from which libraries choose their code
_PROBES = 256  # arguments of each function


@cache
def platform_fingerprint() -> dict[str, str]:
    """Return `processor`, `libc` and `libm`, the fingerprint: what results depend on besides packages."""
    return {"processor": _processor(), "libc": " ".join(platform.libc_ver()).strip() or "unknown", "libm": _libm()}


def _processor() -> str:
    """Return the processor's name and the vector extensions from which libraries choose their code."""
    fields: dict[str, str] = {}
    try:
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines():
            name, _, value = line.partition(":")
            fields.setdefault(name.strip(), value.strip())
    except OSError:  # not Linux
        return platform.processor() or platform.machine()
    features = fields.get("flags", fields.get("Features", "")).split()
    known = " ".join(name for name in _FEATURES if name in features)
    return f"{fields.get('model name', platform.machine())} ({known})"


def _libm() -> str:
    """Return 16 hexadecimal digits of sha256 over values of the functions that MuJoCo calls, at fixed arguments."""
    one, two = (math.exp, math.log, math.sin, math.cos, math.tan, math.atan, math.log1p), (math.pow, math.atan2)
    unit = (math.asin, math.acos)
    values = []
    for i in range(1, _PROBES + 1):
        share = i / (_PROBES + 1)
        values += [function(11.0 * share) for function in one]
        values += [function(7.0 * share, 1.7) for function in two]
        values += [function(share) for function in unit]
    return sha256(struct.pack(f"<{len(values)}d", *values)).hexdigest()[:16]
