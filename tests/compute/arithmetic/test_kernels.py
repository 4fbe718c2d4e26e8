"""Elementary functions compared with exact arithmetic, the order of products, and the cache of machine code."""

import errno
from typing import Any

import mpmath
import numpy as np
import pytest
from numba.core.caching import FunctionCache

from qdrl.compute.arithmetic import kernels
from qdrl.compute.arithmetic.compiling import kernel
from qdrl.compute.arithmetic.trigonometry import portable_sines


def activated(values: Any, name: str) -> np.ndarray:
    found = np.array(values, np.float32)
    kernels.activate(found, kernels.ACTIVATIONS[name])
    return found


def drawn(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).uniform(-1, 1, shape).astype(np.float32)


def test_tanh_is_within_half_a_unit_in_the_last_place() -> None:
    generator = np.random.default_rng(0)
    small = generator.choice([-1, 1], 40_000) * 10.0 ** generator.uniform(-38, 1.3, 40_000)
    values = np.concatenate([generator.uniform(-10, 10, 40_000), small]).astype(np.float32)
    exact = np.tanh(values.astype(np.longdouble))
    unit = np.spacing(np.abs(exact.astype(np.float32))).astype(np.longdouble)
    assert (np.abs(activated(values, "tanh") - exact) / unit).max() <= 0.51
    np.testing.assert_array_equal(activated(-values, "tanh"), -activated(values, "tanh"))


def test_activations_have_their_limits_and_keep_nan() -> None:
    inf, nan = np.inf, np.nan
    np.testing.assert_array_equal(activated([inf, -inf, 0, nan, 9.2], "tanh"), [1, -1, 0, nan, 1])
    np.testing.assert_array_equal(activated([inf, -inf, 0, nan, -2], "relu"), [inf, 0, 0, nan, 0])
    np.testing.assert_array_equal(activated([inf, -inf, 0.5, nan, -2], "clip"), [1, -1, 0.5, nan, -1])
    np.testing.assert_array_equal(activated([inf, -inf, 0.5, nan], "linear"), [inf, -inf, 0.5, nan])


def test_sines_are_within_their_stated_error() -> None:
    generator = np.random.default_rng(0)
    angles = np.concatenate([
        generator.uniform(-10, 10, 2000),
        generator.uniform(-1e6, 1e6, 2000),
        np.arange(-100, 101) * (np.pi / 4),
        [0.0, 1e6, -1e6, 1e-300],
    ])  # fmt: skip
    with mpmath.workprec(200):
        for found, exact in zip(portable_sines(angles), (mpmath.sin, mpmath.cos), strict=True):
            errors = [
                abs(mpmath.mpf(float(f)) - exact(mpmath.mpf(float(a)))) for f, a in zip(found, angles, strict=True)
            ]
            assert max(errors) <= 2.3e-16
    for found in portable_sines(np.array([[np.nan, np.inf], [-np.inf, 1.1e6]])):
        assert found.shape == (2, 2)
        assert np.isnan(found).all()


@pytest.mark.parametrize(("inputs", "outputs"), [(1, 1), (7, 3), (8, 32), (27, 17), (130, 128)])
def test_a_layer_adds_rounded_products_in_the_order_of_its_inputs(inputs: int, outputs: int) -> None:
    values, weights = drawn(2, inputs), drawn(inputs * outputs + outputs, seed=1)
    found = np.full((2, outputs), np.nan, np.float32)
    kernels.dense(values, weights, found)
    layer = weights[: inputs * outputs].reshape(inputs, outputs)
    for row in range(2):
        total = weights[inputs * outputs :].copy()
        for value, products in zip(values[row], layer, strict=True):
            total = total + value * products
        np.testing.assert_array_equal(found[row], total)


def times_three(value: float) -> float:
    return 3.0 * value


@pytest.mark.parametrize("broken", ["full", "truncated", "read-only"])
def test_a_kernel_works_where_machine_code_cannot_be_cached(broken: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(error: Exception) -> Any:
        def fail(*arguments: object) -> None:
            raise error

        return fail

    name, error = {
        "full": ("save_overload", OSError(errno.ENOSPC, "No space left on device")),
        "truncated": ("load_overload", EOFError("Ran out of input")),
        "read-only": ("__init__", RuntimeError("cannot cache function: no locator available")),
    }[broken]
    monkeypatch.setattr(FunctionCache, name, fails(error))
    assert kernel(times_three)(2.0) == 6.0
