"""Noise from seeds and from tables: reproducible, normal, inside the table."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from qdrl.errors import UserError
from qdrl.genomes.noise import KeyedNoise, TableNoise

LENGTHS = (1, 7, 1000, 2**16, 2**16 + 3, 200_001)


def noise_of(source: object, length: int, number: int = 5) -> np.ndarray:
    values = np.zeros(length, np.float32)
    source.add(values, number, 1.0)  # pyright: ignore[reportAttributeAccessIssue]
    return values


@pytest.mark.parametrize("length", LENGTHS)
def test_keyed_noise_is_drawn_from_the_stream_of_its_seed(length: int) -> None:
    generator = np.random.Generator(np.random.SFC64(5))
    np.testing.assert_array_equal(noise_of(KeyedNoise().source(), length), generator.standard_normal(length, "f4"))


@pytest.mark.parametrize("settings", [KeyedNoise(), TableNoise(size=300_000, seed=1)])
def test_noise_is_standard_normal_and_differs_between_seeds(settings: KeyedNoise | TableNoise) -> None:
    source = settings.source()
    one, other = noise_of(source, 50_000, 3), noise_of(source, 50_000, 200_000)
    for values in (one, other):
        assert stats.kstest(values, "norm").pvalue > 1e-3
    assert abs(np.corrcoef(one, other)[0, 1]) < 0.03


def test_the_noise_of_a_table_starts_at_its_index() -> None:
    settings = TableNoise(size=5000, seed=9)
    table = np.random.Generator(np.random.PCG64(9)).standard_normal(5000, np.float32)
    np.testing.assert_array_equal(noise_of(settings.source(), 100, 77), table[77:177])


@given(seed=st.integers(0, 2**32), parameters=st.integers(1, 100))
def test_indices_drawn_for_a_table_never_exceed_it(seed: int, parameters: int) -> None:
    source = TableNoise(size=100).source()
    number = source.draw(np.random.default_rng(seed), parameters)
    assert 0 <= number <= 100 - parameters


def test_mutations_add_sigma_times_noise_in_float32() -> None:
    for settings in (KeyedNoise(), TableNoise(size=5000)):
        source, genome = settings.source(), np.linspace(-1, 1, 999, dtype=np.float32)
        expected = genome + np.float32(0.02) * noise_of(source, 999)
        source.add(genome, 5, 0.02)
        np.testing.assert_array_equal(genome, expected)


def test_a_table_shorter_than_a_genome_is_refused() -> None:
    source = TableNoise(size=100).source()
    with pytest.raises(UserError, match=r"a noise table of 100 numbers is too short for 101: set algorithm"):
        source.draw(np.random.default_rng(0), 101)
    with pytest.raises(UserError, match="too short for 110"):
        source.add(np.zeros(10, np.float32), 100, 1.0)


def test_a_shared_table_equals_the_table_of_one_process() -> None:
    alone, shared = TableNoise(size=1000).source(), TableNoise(size=1000).source()

    def room(size, fill):
        numbers = np.full(size, np.nan, np.float32)
        fill(numbers)
        return numbers

    shared.share(room)
    np.testing.assert_array_equal(noise_of(alone, 500), noise_of(shared, 500))
