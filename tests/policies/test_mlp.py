"""Populations of networks compared with torch's layers, one network at a time."""

from hashlib import sha256
from itertools import pairwise
from typing import Literal

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError
from torch import Tensor
from torch.nn import functional

from qdrl.compute.arithmetic import BLAS
from qdrl.policies.mlp import Mlp, MlpSettings
from qdrl.streams import Purpose, Streams

Activation = Literal["relu", "tanh"]
Output = Literal["tanh", "clip", "linear"]
ACTIVATIONS: tuple[Activation, ...] = ("relu", "tanh")
OUTPUTS: tuple[Output, ...] = ("tanh", "clip", "linear")


def network(
    inputs: int, hidden: tuple[int, ...], outputs: int, activation: Activation = "relu", output: Output = "tanh"
) -> Mlp:
    return Mlp(inputs, outputs, MlpSettings(hidden_sizes=hidden, activation=activation, output=output))


def by_hand(mlp: Mlp, genome: Tensor, observation: Tensor) -> Tensor:
    """Compute the network of one row in float64; parameters are sliced from the row by position."""
    values, start = observation.double(), 0
    layers = list(pairwise(mlp.sizes))
    for number, (inputs, outputs) in enumerate(layers, 1):
        kernel = genome[start : start + inputs * outputs].double().view(inputs, outputs)
        bias = genome[start + inputs * outputs : start + inputs * outputs + outputs].double()
        values = functional.linear(values, kernel.T, bias)
        if number < len(layers):
            values = functional.relu(values) if mlp.settings.activation == "relu" else torch.tanh(values)
        start += inputs * outputs + outputs
    assert start == len(genome)
    squash = {"tanh": torch.tanh, "clip": lambda v: v.clamp(-1, 1), "linear": lambda v: v}
    return squash[mlp.settings.output](values)


def drawn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("output", OUTPUTS)
@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize("hidden", [(), (7,), (16, 5), (128, 128)])
def test_a_population_equals_torchs_networks_one_by_one(
    hidden: tuple[int, ...], activation: Activation, output: Output
) -> None:
    mlp = network(17, hidden, 6, activation, output)
    genomes, observations = 0.3 * drawn(9, mlp.parameters), drawn(9, 17, seed=1)
    population = mlp.population(9)
    population.load(range(9), genomes)
    expected = torch.stack([by_hand(mlp, *row) for row in zip(genomes, observations, strict=True)])
    torch.testing.assert_close(population.act(observations).double(), expected, rtol=2e-5, atol=2e-6)


@pytest.mark.parametrize("hidden", [(), (7,), (128, 128)])
def test_files_without_an_arithmetic_use_blas(hidden: tuple[int, ...]) -> None:
    mlp = Mlp(17, 6, MlpSettings(hidden_sizes=hidden, output="clip"), BLAS)
    genomes, observations = 0.3 * drawn(5, mlp.parameters), drawn(5, 17, seed=1)
    population = mlp.population(5)
    population.load(range(5), genomes)
    values = observations.numpy()
    for number, (kernel, bias) in enumerate(mlp.split(genomes.numpy()), 1):
        values = np.matmul(values[:, None, :], kernel)[:, 0, :] + bias
        values = np.maximum(values, 0) if number <= len(hidden) else values.clip(-1, 1)
    np.testing.assert_array_equal(population.act(observations).numpy(), values)
    assert mlp.describe()["arithmetic"] == "blas"


def test_the_flat_row_is_kernel_inputs_by_outputs_row_major_then_bias() -> None:
    mlp = network(2, (3,), 1, output="linear")
    row = torch.arange(1.0, mlp.parameters + 1)
    (first, bias), (second, last) = mlp.split(row[None])
    assert first[0].tolist() == [[1, 2, 3], [4, 5, 6]]
    assert bias[0].tolist() == [7, 8, 9]
    assert second[0].tolist() == [[10], [11], [12]]
    assert last[0].tolist() == [13]
    population = mlp.population(1)
    population.load([0], row[None])
    hidden = [1 * 1 - 1 * 4 + 7, 1 * 2 - 1 * 5 + 8, 1 * 3 - 1 * 6 + 9]  # observation (1, -1)
    expected = 10 * hidden[0] + 11 * hidden[1] + 12 * hidden[2] + 13
    assert population.act(torch.tensor([[1.0, -1.0]])).item() == expected


@pytest.mark.parametrize(
    ("sizes", "parameters"),
    [((17, (128, 128), 6), 19_590), ((87, (128, 128), 8), 28_808), ((5, (), 2), 12), ((1, (1,), 1), 4)],
)
def test_parameters_are_counted_as_layers_add_up(sizes: tuple[int, tuple[int, ...], int], parameters: int) -> None:
    mlp = network(*sizes)
    assert mlp.parameters == parameters == mlp.describe()["parameters"]
    assert len(mlp.initial(np.random.default_rng(0))) == parameters


def test_first_networks_have_lecun_uniform_kernels_and_zero_biases() -> None:
    mlp = network(17, (128, 128), 6)
    rows = torch.from_numpy(np.stack([mlp.initial(np.random.default_rng(seed)) for seed in range(30)]))
    assert rows.dtype == torch.float32
    for (kernels, biases), inputs in zip(mlp.split(rows), (17, 128, 128), strict=True):
        bound = (3 / inputs) ** 0.5
        assert not biases.any()
        assert 0.99 * bound < kernels.max() <= np.float32(bound)
        assert -np.float32(bound) <= kernels.min() < -0.99 * bound
        assert kernels.var().item() == pytest.approx(1 / inputs, rel=0.03)
        assert abs(kernels.mean().item()) < 0.03 * bound


@pytest.mark.parametrize(("hidden", "norms"), [((32, 1), (1.0, 1.0, 0.01)), ((), (0.01,))])
def test_normalized_columns_have_norm_1_and_those_of_the_output_layer_0_01(
    hidden: tuple[int, ...], norms: tuple[float, ...]
) -> None:
    mlp = Mlp(17, 6, MlpSettings(hidden_sizes=hidden, initialization="normalized_columns"))
    row = mlp.initial(np.random.default_rng(1))
    assert row.dtype == np.float32
    assert mlp.describe()["initialization"] == "normalized_columns"
    for (kernels, biases), norm in zip(mlp.split(row[None]), norms, strict=True):
        assert not biases.any()
        np.testing.assert_allclose(np.linalg.norm(kernels[0], axis=0), norm, rtol=1e-6)
    first = np.random.default_rng(1).standard_normal((17, (*hidden, 6)[0]), np.float32)
    direction = first[:, 0] / np.linalg.norm(first[:, 0])
    np.testing.assert_allclose(mlp.split(row[None])[0][0][0, :, 0], norms[0] * direction, rtol=1e-5)


def test_the_initial_network_of_a_stream_never_changes_between_versions() -> None:
    """Stored archives cannot be replayed without this property."""
    row = network(4, (3,), 2).initial(Streams(7).generator(Purpose.INITIAL, 0, 5))
    assert row[:3].tolist() == [-0.7445807456970215, 0.7988957762718201, -0.41175028681755066]
    assert sha256(row.tobytes()).hexdigest()[:16] == "e4b3c8ef5f35db5c"


sizes = st.integers(1, 40)


@given(
    inputs=sizes,
    hidden=st.lists(st.one_of(sizes, st.sampled_from((64, 128))), max_size=3).map(tuple),
    outputs=sizes,
    activation=st.sampled_from(ACTIVATIONS),
    output=st.sampled_from(OUTPUTS),
    slots=st.integers(1, 70),
    data=st.data(),
)
def test_the_bits_of_a_rows_actions_do_not_depend_on_other_rows(
    inputs: int,
    hidden: tuple[int, ...],
    outputs: int,
    activation: Activation,
    output: Output,
    slots: int,
    data: st.DataObject,
) -> None:
    mlp = network(inputs, hidden, outputs, activation, output)
    genome, observation = drawn(mlp.parameters) / 3, drawn(inputs, seed=1)
    alone = mlp.population(1)
    alone.load([0], genome[None])
    expected = alone.act(observation[None])[0].clone()
    many = mlp.population(slots)
    count = data.draw(st.integers(1, slots), "rows")
    places = data.draw(st.sets(st.integers(0, count - 1), min_size=1, max_size=4), "places")
    shift = data.draw(st.integers(0, 17), "shift")
    memory = torch.full((shift + count * inputs,), torch.nan)
    observations = memory[shift:].view(count, inputs)
    observations.copy_(10 * drawn(count, inputs, seed=2))
    many.load(range(slots), drawn(slots, mlp.parameters, seed=3))
    for place in places:
        many.load([place], genome[None])
        observations[place] = observation
    actions = many.act(observations)
    for place in places:
        assert torch.equal(actions[place], expected)


@pytest.mark.parametrize("outputs", [3, 6, 8, 17])
def test_the_policies_of_the_robots_give_the_same_bits_in_every_slot_and_batch(outputs: int) -> None:
    mlp = network(27, (128, 128), outputs)
    genome, observation = drawn(mlp.parameters) / 8, drawn(27, seed=1)
    population = mlp.population(70)
    population.load(range(70), genome.expand(70, -1))
    expected = population.act(observation[None]).clone()
    assert expected.abs().max() > 0.1
    for count in range(1, 71):
        assert torch.equal(population.act(observation.repeat(count, 1)), expected.expand(count, -1)), count


def test_a_row_that_is_not_finite_does_not_affect_others() -> None:
    mlp = network(4, (8,), 2)
    population = mlp.population(3)
    population.load(range(3), drawn(3, mlp.parameters))
    observations = drawn(3, 4, seed=1)
    before = population.act(observations).clone()
    population.load([1], torch.full((1, mlp.parameters), torch.nan))
    after = population.act(observations)
    assert torch.equal(after[[0, 2]], before[[0, 2]])
    assert after[1].isnan().all()


def test_a_moved_network_acts_from_its_new_slot() -> None:
    mlp = network(4, (8,), 2)
    population = mlp.population(4)
    population.load([1, 3], drawn(2, mlp.parameters))
    observations = drawn(1, 4, seed=1).repeat(4, 1)
    expected = population.act(observations)[3].clone()
    population.move(3, 0)
    assert torch.equal(population.act(observations[:1])[0], expected)


def test_observations_are_not_modified() -> None:
    mlp = network(4, (), 4, output="tanh")
    population, observations = mlp.population(2), drawn(2, 4)
    before = observations.clone()
    population.load(range(2), drawn(2, mlp.parameters))
    population.act(observations)
    assert torch.equal(observations, before)


@pytest.mark.parametrize(
    "options", [{"hidden_sizes": (0,)}, {"activation": "rely"}, {"output": "softmax"}, {"layers": (8,)}]
)
def test_invalid_shapes_are_errors(options: dict) -> None:
    with pytest.raises(ValidationError):
        MlpSettings(**options)


def test_the_description_makes_the_same_network_again() -> None:
    mlp = network(4, (8, 3), 2, "tanh", "clip")
    description = mlp.describe()
    inputs, *hidden, outputs = description["layers"]
    again = network(inputs, tuple(hidden), outputs, description["activation"], description["output"])
    assert again.describe() == description
