"""The same bits for every code path that libraries choose for a processor, and every target of compiled kernels.

Each case is a separate process, because libraries choose at their import. The digests come from an AMD EPYC with AVX2
and fused multiply-add; every other processor must give the same ones.
"""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from qdrl.archives.hdf5 import open_archive
from qdrl.provenance.processor import platform_fingerprint

ROOT = Path(__file__).parents[2]
DIGESTS = {
    "perceptrons": "5387042ae850826a",
    "convolutions": "4aa678c712645e7d",
    "sines": "82515c9e48f5093e",
    "arm": "7d89d67bea6bfbfc",
    "rastrigin": "c4ff32c4ef1caed0",
    "hard_maze": "0149dff171f22f56",
    "point_omni": "6b43e31e6685c695",
    "image_hard_maze": "13509b1e1dd74422",
}
LOWEST = {
    "OPENBLAS_CORETYPE": "Sandybridge",
    "NPY_DISABLE_CPU_FEATURES": "X86_V3",
    "ATEN_CPU_CAPABILITY": "default",
    "ONEDNN_MAX_CPU_ISA": "SSE41",
    "MKL_ENABLE_INSTRUCTIONS": "SSE4_2",
}
WITHOUT_FMA = {"GLIBC_TUNABLES": "glibc.cpu.hwcaps=-AVX2,-FMA,-FMA4,-AVX512F"}
GENERIC = {"NUMBA_CPU_NAME": "generic", "NUMBA_CPU_FEATURES": ""}
ALONE = [
    *({"OPENBLAS_CORETYPE": core} for core in ("Haswell", "Zen", "SkylakeX")),
    *({name: value} for name, value in LOWEST.items()),
    {"NUMBA_CPU_NAME": "sandybridge"},
    {"NUMBA_CPU_NAME": "haswell", "NUMBA_CPU_FEATURES": "+avx,+avx2,+fma"},
]


def found_under(variables: dict[str, str], stride: int) -> dict[str, Any]:
    """Return the output of tests/programs/portable.py, which replays every `stride`-th elite of the references."""
    if variables.get("OPENBLAS_CORETYPE") == "SkylakeX" and "avx512f" not in platform_fingerprint()["processor"]:
        pytest.skip("needs a processor with AVX-512")
    command = [sys.executable, "-m", "tests.programs.portable", str(stride)]
    paths = os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])
    environment = os.environ | {"PYTHONPATH": paths} | variables
    done = subprocess.run(command, env=environment, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def refuse_another_libm() -> None:
    made = open_archive(ROOT / "archives" / "reference" / "walker2d_uni_portable.h5").meta["packages"]
    if made["libm"] != platform_fingerprint()["libm"]:
        pytest.skip("MuJoCo's physics is that of another C library here")


@pytest.mark.slow
def test_elites_and_digests_are_the_same_with_libraries_at_their_lowest() -> None:
    refuse_another_libm()
    found = found_under(LOWEST, stride=16)
    assert {name: found[name] for name in DIGESTS} == DIGESTS
    for name in ("walker2d_uni_portable", "ant_uni_portable"):
        same, count = found[name]
        assert same == count >= 4
    assert found["notes"] == []


@pytest.mark.slow
def test_digests_are_the_same_without_fma_and_reruns_note_the_other_libm() -> None:
    found = found_under(WITHOUT_FMA | GENERIC, stride=64)
    assert {name: found[name] for name in DIGESTS} == DIGESTS
    if "fma" in platform_fingerprint()["processor"]:  # then MuJoCo's sines change
        (note,) = found["notes"]
        assert "their sines differ in the last bit" in note


@pytest.mark.slow
@pytest.mark.parametrize("variables", ALONE, ids=lambda variables: " ".join(map("=".join, variables.items())))
def test_every_reference_elite_gives_the_stored_bits_under_each_setting(variables: dict[str, str]) -> None:
    refuse_another_libm()
    found = found_under(variables, stride=1)
    assert {name: found[name] for name in DIGESTS} == DIGESTS
    for name in ("walker2d_uni_portable", "ant_uni_portable"):
        same, count = found[name]
        assert same == count >= 50
