"""Lineages and the decoded genomes."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from qdrl.genomes.ancestry import NO_PARENT, Ancestry, Lineage
from qdrl.genomes.lineage_weights import Decoder, Offspring
from qdrl.genomes.noise import KeyedNoise

PARAMETERS = 50


def initial(generator: np.random.Generator) -> np.ndarray:
    return generator.standard_normal(PARAMETERS, np.float32)


def decoder_of(ancestry: Ancestry) -> Decoder:
    return Decoder(ancestry, initial, KeyedNoise().source())


def grown(seed: int, nodes: int = 40, founders: int = 3) -> Ancestry:
    """Return a tree in which each node has a parent drawn from all earlier nodes."""
    draw, ancestry = np.random.default_rng(seed), Ancestry()
    ancestry.add([NO_PARENT] * founders, draw.integers(2**32, size=founders).tolist(), [0.0] * founders)
    for node in range(founders, nodes):
        ancestry.add([int(draw.integers(node))], [int(draw.integers(2**32))], [0.1 / (1 + node)])
    return ancestry


def by_hand(lineage: Lineage) -> np.ndarray:
    """Compute a genome by its definition."""
    words = np.random.SeedSequence(int(lineage.seeds[0]))
    genome = initial(np.random.Generator(np.random.PCG64(words)))
    for seed, sigma in zip(lineage.seeds[1:], lineage.sigmas[1:], strict=True):
        noise = np.random.Generator(np.random.SFC64(int(seed))).standard_normal(PARAMETERS, np.float32)
        genome = genome + sigma * noise
    return genome


@settings(max_examples=25)
@given(seed=st.integers(0, 1000), held=st.lists(st.integers(0, 39), max_size=6))
def test_the_bits_of_a_genome_do_not_depend_on_which_ancestors_are_kept(seed: int, held: list[int]) -> None:
    ancestry = grown(seed)
    decoder = decoder_of(ancestry)
    decoder.hold(held)
    for node in range(len(ancestry)):
        assert decoder.genome(node).tobytes() == by_hand(ancestry.lineage(node)).tobytes()


def test_children_are_their_parents_and_one_mutation() -> None:
    ancestry = grown(1)
    decoder = decoder_of(ancestry)
    decoder.hold([20])
    children = Offspring(decoder, [20, NO_PARENT, 20], [7, 8, 0], [0.5, 0.0, 0.0])
    node = ancestry.add([20], [7], [0.5])[0]
    founder = ancestry.add([NO_PARENT], [8], [0.0])[0]
    expected = [decoder.genome(node), decoder.genome(founder), decoder.genome(20)]
    assert np.array_equal(children[0:3].numpy(), expected)
    assert np.array_equal(children.take([2, 0])[0:2].numpy(), [expected[2], expected[0]])
    assert len(children) == 3


def test_a_child_of_a_kept_genome_costs_one_mutation(monkeypatch: pytest.MonkeyPatch) -> None:
    ancestry, calls = grown(2, founders=1, nodes=30), []
    noise = KeyedNoise().source()
    monkeypatch.setattr(KeyedNoise, "add", lambda self, genome, number, sigma: calls.append(number))
    decoder = Decoder(ancestry, initial, noise)
    deepest = max(range(30), key=lambda node: len(ancestry.path(node)))
    decoder.hold([deepest])
    calls.clear()
    Offspring(decoder, [deepest] * 4, [1, 2, 3, 4], [0.1] * 4)[0:4]
    assert calls == [1, 2, 3, 4]


@settings(max_examples=25)
@given(seed=st.integers(0, 1000), keep=st.lists(st.integers(0, 39), min_size=1, max_size=8))
def test_pruning_removes_unused_nodes_only(seed: int, keep: list[int]) -> None:
    ancestry = grown(seed)
    before = {node: ancestry.lineage(node) for node in keep}
    needed = {node for kept in keep for node in ancestry.path(kept)}
    decoder = decoder_of(ancestry)
    decoder.hold(keep)
    numbers = ancestry.prune(keep)
    decoder.renumber(numbers)
    assert len(ancestry) == len(needed)
    for node, lineage in before.items():
        after = ancestry.lineage(int(numbers[node]))
        assert np.array_equal(after.seeds, lineage.seeds)
        assert np.array_equal(after.sigmas, lineage.sigmas)
        assert np.array_equal(decoder.genome(int(numbers[node])), by_hand(lineage))


def test_the_last_common_ancestor() -> None:
    ancestry = Ancestry()
    ancestry.add([NO_PARENT, 0, 1, 1, 2, 3, NO_PARENT], [1] * 7, [0.0] * 7)
    assert ancestry.common_ancestor([4, 5]) == 1
    assert ancestry.common_ancestor([4, 2]) == 2
    assert ancestry.common_ancestor([4]) == 4
    assert ancestry.common_ancestor([4, 6]) is None
    assert ancestry.common_ancestor([]) is None


def test_a_rebased_lineage_is_shorter_and_decodes_to_the_same_bits() -> None:
    ancestry = grown(3, founders=1)
    node = max(range(len(ancestry)), key=lambda node: len(ancestry.path(node)))
    path, genome = ancestry.path(node), by_hand(ancestry.lineage(node))
    middle = path[len(path) // 2]
    ancestry.rebase(middle, decoder_of(ancestry).genome(middle))
    lineage = ancestry.lineage(node)
    assert lineage.keyframe == 0
    assert len(lineage) == len(path) - len(path) // 2
    numbers = ancestry.prune([node])
    assert len(ancestry) == len(lineage)
    assert decoder_of(ancestry).genome(int(numbers[node])).tobytes() == genome.tobytes()
    again = Ancestry()
    again.load_state_dict(ancestry.state_dict())
    assert decoder_of(again).genome(int(numbers[node])).tobytes() == genome.tobytes()
    ancestry.prune([])
    assert ancestry.keyframes == {}


def test_lineages_can_be_inserted_into_another_tree() -> None:
    ancestry, other = grown(4), grown(5)
    node = other.insert(ancestry.lineage(30))
    assert np.array_equal(decoder_of(other).genome(node), decoder_of(ancestry).genome(30))


def test_lineages_that_do_not_fit_are_errors() -> None:
    with pytest.raises(ValueError, match="a lineage has at least a first genome"):
        Ancestry().insert(Lineage(np.empty(0, np.uint32), np.empty(0, np.float32)))
    with pytest.raises(ValueError, match="keyframe 4 is missing"):
        Ancestry().insert(Lineage(np.array([4], np.uint32), np.array([np.nan], np.float32)))


def test_a_lineage_takes_eight_bytes_a_mutation() -> None:
    ancestry = Ancestry()
    for depth in range(140):
        ancestry.add([depth - 1], [depth], [0.002])
    assert ancestry.lineage(139).nbytes == 8 * 140


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"parent": np.array([-1, 5, 0])}, "node 1 has parent 5; parents come before their children"),
        ({"parent": np.array([-1, 0, 2])}, "node 2 has parent 2"),
        ({"parent": np.array([-7, 0, 1])}, "node 0 has parent -7"),
        ({"seed": np.zeros(2, np.uint32)}, "must have one length"),
        ({"sigma": np.array([0, np.inf, 0], np.float32)}, "not finite"),
        ({"parent": np.array([-2, 0, 1]), "seed": np.array([4, 0, 0], np.uint32)}, "keyframe 4 is missing"),
        ({"keyframes": {"0": np.array([np.nan])}}, "not finite"),
    ],
)
def test_a_state_that_is_not_a_tree_is_an_error_and_changes_nothing(change: dict, message: str) -> None:
    ancestry = grown(6)
    good = {"parent": [-1, 0, 1], "seed": [3, 4, 5], "sigma": [0.0, 0.1, 0.1], "keyframes": {}}
    with pytest.raises(ValueError, match=message):
        ancestry.load_state_dict(good | change)
    assert np.array_equal(ancestry.parent, grown(6).parent)
    ancestry.load_state_dict(good)
    assert len(ancestry) == 3
