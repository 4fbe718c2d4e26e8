"""Random streams."""

import pickle
import random

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from qdrl.streams import Purpose, Streams, UserPurpose, generator_from_seed

GOLDEN_UNIFORM = [0.4182893874385728, 0.9211622597770266]
GOLDEN_RAW = [7716077278828093195]
GOLDEN_SEEDS = [467200521626984909, 8710258786363557387]
GOLDEN_FROM_SEED = [4220174691, 1785491605]

keys = st.tuples(st.sampled_from([*Purpose, UserPurpose("reset")]), st.integers(0, 2**31), st.integers(0, 2**31))


NAMES = (
    "admission centroids critic evaluation initial mean mutation negative perturbation reevaluation searcher states"
    " target test training variation"
)


def test_purposes_are_distinct_and_keep_their_names():
    assert sorted(purpose.value for purpose in Purpose) == NAMES.split()
    for purpose in Purpose:
        assert purpose.name == purpose.value.upper()


def test_a_users_purpose_differs_from_all_of_qdrl_and_a_string_is_an_error():
    streams = Streams(3)
    for purpose in Purpose:
        own = UserPurpose(purpose.value)
        assert streams.generator(own).random() != streams.generator(purpose).random()
        assert streams.generator(own).random() == streams.generator(UserPurpose(purpose.value)).random()
    for wrong in ("variation", "variatoin", None):
        with pytest.raises(TypeError, match=r"use a member of Purpose, or UserPurpose\(name\)"):
            streams.generator(wrong)  # pyright: ignore[reportArgumentType]
        with pytest.raises(TypeError, match="use a member of Purpose"):
            streams.seeds(wrong, 0, range(2))  # pyright: ignore[reportArgumentType]
    with pytest.raises(ValueError, match="is empty"):
        UserPurpose("")


def test_numbers_stay_the_same_from_version_to_version():
    # Computed once with numpy 2.4.6; numpy promises that SeedSequence and PCG64 never change. A run that is resumed
    # with another version, or an elite that is replayed years later, depends on them.
    streams = Streams(42)
    assert streams.generator(Purpose.VARIATION, 3, 7).random(2).tolist() == GOLDEN_UNIFORM
    assert streams.generator(Purpose.VARIATION, 3, 7).bit_generator.random_raw(1).tolist() == GOLDEN_RAW
    assert streams.seeds(Purpose.EVALUATION, 3, [0, 7]).tolist() == GOLDEN_SEEDS
    assert generator_from_seed(GOLDEN_SEEDS[0]).integers(0, 2**32, 2).tolist() == GOLDEN_FROM_SEED


@given(st.integers(0, 2**63), st.lists(keys, min_size=2, max_size=6), st.randoms(use_true_random=False))
def test_a_rows_numbers_do_not_depend_on_what_was_drawn_before(run_seed: int, wanted: list, shuffle: random.Random):
    def drawn(order: list) -> dict:
        streams = Streams(run_seed)
        return {key: streams.generator(*key).random(3).tolist() for key in order}

    shuffled = wanted.copy()
    shuffle.shuffle(shuffled)
    assert drawn(wanted) == drawn(shuffled)


@given(st.integers(0, 2**31), keys)
def test_every_part_of_the_key_changes_the_numbers(run_seed: int, key: tuple[Purpose | UserPurpose, int, int]):
    purpose, generation, row = key
    variants = {
        (run_seed, purpose, generation, row),
        (run_seed + 1, purpose, generation, row),
        (run_seed, UserPurpose(purpose.value), generation, row),
        (run_seed, purpose, generation + 1, row),
        (run_seed, purpose, generation, row + 1),
        (run_seed, purpose, row, generation),
    }
    numbers = [Streams(variant[0]).generator(*variant[1:]).random(4) for variant in variants]
    assert len(np.unique(numbers)) == 4 * len(variants)


@given(st.integers(0, 2**63), st.integers(0, 1000), st.lists(st.integers(0, 10**6), max_size=8))
def test_a_rows_seed_does_not_depend_on_the_rows_beside_it(run_seed: int, generation: int, rows: list[int]):
    seeds = Streams(run_seed).seeds(Purpose.EVALUATION, generation, rows)
    assert seeds.dtype == np.int64
    assert seeds.shape == (len(rows),)
    assert (seeds >= 0).all()
    alone = [int(Streams(run_seed).seeds(Purpose.EVALUATION, generation, [row])[0]) for row in rows]
    assert seeds.tolist() == alone


def test_seeds_of_many_rows_are_all_different():
    seeds = np.concatenate([Streams(0).seeds(Purpose.EVALUATION, generation, range(2000)) for generation in range(5)])
    assert len(np.unique(seeds)) == len(seeds)


def test_first_numbers_of_neighbouring_rows_are_uniform_and_uncorrelated():
    first = np.array([Streams(0).generator(Purpose.VARIATION, 0, row).random() for row in range(4000)])
    counts = np.histogram(first, bins=20, range=(0, 1))[0]
    assert ((counts - 200) ** 2 / 200).sum() < 43.8  # chi-square with 19 degrees of freedom, p = 0.001
    assert abs(np.corrcoef(first[1:], first[:-1])[0, 1]) < 3.3 / np.sqrt(4000)


def test_a_stored_seed_rebuilds_the_stream_without_the_run_seed():
    seed = Streams(9).seeds(Purpose.EVALUATION, 2, [5])[0]
    assert np.array_equal(generator_from_seed(seed).random(3), generator_from_seed(int(seed)).random(3))


def test_no_global_generator_is_touched():
    def states() -> list[bytes]:
        return [
            *(pickle.dumps(state()) for state in (random.getstate, np.random.get_state)),
            bytes(torch.get_rng_state()),
        ]

    before = states()
    Streams(1).generator(Purpose.VARIATION).normal(size=5)
    Streams(1).seeds(Purpose.EVALUATION, 0, range(5))
    generator_from_seed(3).random()
    assert states() == before


def test_a_negative_run_seed_is_refused():
    with pytest.raises(ValueError, match="run_seed is -1: it must be 0 or larger"):
        Streams(-1)
