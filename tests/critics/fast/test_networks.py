"""Hand-written passes compared with torch's layers and autograd in float64."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from qdrl.critics.fast.networks import Gradient, Network, activations, matrices, with_ones
from qdrl.critics.fast.products import product
from qdrl.critics.reference import to_network, to_row
from qdrl.policies.mlp import Mlp, MlpSettings
from tests.critics.builders import normal

sizes = st.one_of(st.integers(1, 12), st.sampled_from((64, 70)))


def pieces(mlp: Mlp, networks: int, batch: int) -> tuple[torch.Tensor, Network]:
    rows = normal(networks, mlp.parameters)
    inputs = with_ones(batch, mlp.sizes[0], device=rows.device)
    inputs[:, :-1] = normal(batch, mlp.sizes[0], seed=1)
    return rows, Network(matrices(mlp, rows), activations(mlp.settings), inputs)


@given(
    inputs=sizes,
    hidden=st.lists(sizes, max_size=3).map(tuple),
    outputs=sizes,
    networks=st.integers(1, 3),
    batch=st.sampled_from((1, 2, 7, 100)),
    activation=st.sampled_from(("relu", "tanh")),
    output=st.sampled_from(("tanh", "clip", "linear")),
    data=st.data(),
)
def test_passes_are_those_of_torch(
    inputs: int, hidden: tuple[int, ...], outputs: int, networks: int, batch: int, activation, output, data
) -> None:
    mlp = Mlp(inputs, outputs, MlpSettings(hidden_sizes=hidden, activation=activation, output=output))
    rows, network = pieces(mlp, networks, batch)
    rows /= 4
    seen = data.draw(st.integers(1, inputs), "inputs with gradients")
    into_rows = torch.full_like(rows, torch.nan)
    into_inputs = torch.full((networks, batch, seen), torch.nan)
    gradient = Gradient(network, matrices(mlp, into_rows), into_inputs)
    gradient.outputs.copy_(normal(networks, batch, outputs, seed=2))
    for _ in range(2):  # the second pass reuses the buffers of the first
        found = network.forward().clone()
        gradient.backward()
    for index in range(networks):
        theirs = to_network(mlp, rows[index])
        values = network.inputs[:, :-1].double().requires_grad_()
        expected = theirs(values)
        expected.backward(gradient.outputs[index].double())
        assert values.grad is not None
        for ours, torchs in (
            (found[index], expected),
            (into_rows[index], to_row(theirs, gradient=True)),
            (into_inputs[index], values.grad[:, :seen]),
        ):
            torch.testing.assert_close(ours.double(), torchs, rtol=2e-4, atol=2e-4)


def test_an_offset_is_added_before_the_first_activation() -> None:
    mlp = Mlp(3, 2, MlpSettings(hidden_sizes=(5,), output="linear"))
    rows, network = pieces(mlp, 1, 4)
    offset = torch.zeros(1, 4, 6)
    offset[..., :5] = normal(4, 5, seed=3)
    found = network.forward(offset).clone()
    first, last = to_network(mlp, rows[0])[0], to_network(mlp, rows[0])[2]
    hidden = torch.relu(first(network.inputs[:, :-1].double()) + offset[0, :, :5].double())
    torch.testing.assert_close(found[0].double(), last(hidden), rtol=1e-5, atol=1e-5)


def test_networks_write_into_a_given_buffer() -> None:
    mlp = Mlp(3, 2, MlpSettings(hidden_sizes=(5,)))
    rows = normal(1, mlp.parameters)
    inputs = with_ones(4, 3, device=rows.device)
    wide = torch.full((4, 7), torch.nan)
    network = Network(matrices(mlp, rows), activations(mlp.settings), inputs, into=wide[None, :, 1:3])
    network.forward()
    assert wide.isnan().all(0).tolist() == [True, False, False, True, True, True, True]
    expected = to_network(mlp, rows[0])(torch.zeros(4, 3).double())
    torch.testing.assert_close(wide[:, 1:3].double(), expected, rtol=1e-5, atol=1e-6)


def test_a_backward_pass_does_not_change_its_output_gradient() -> None:
    mlp = Mlp(3, 2, MlpSettings(hidden_sizes=(5,)))
    rows, network = pieces(mlp, 1, 4)
    gradient = Gradient(network, matrices(mlp, torch.zeros_like(rows)))
    gradient.outputs.fill_(0.5)
    network.forward()
    gradient.backward()
    assert (gradient.outputs == 0.5).all()


def test_a_unit_at_exactly_zero_passes_no_gradient_as_in_torch() -> None:
    mlp = Mlp(1, 1, MlpSettings(hidden_sizes=(1,), output="linear"))
    rows = torch.tensor([[1.0, 0.0, 1.0, 0.0]])
    network = Network(matrices(mlp, rows), activations(mlp.settings), with_ones(1, 1, device=rows.device))
    into = torch.full_like(rows, torch.nan)
    gradient = Gradient(network, matrices(mlp, into))
    gradient.outputs.fill_(1)
    network.forward()
    gradient.backward()
    assert into.tolist() == [[0.0, 0.0, 0.0, 1.0]]


def test_matrices_are_views_of_the_kernels_and_biases_of_a_genome() -> None:
    mlp = Mlp(3, 2, MlpSettings(hidden_sizes=(4,)))
    rows = normal(2, mlp.parameters)
    for matrix, (kernel, bias) in zip(matrices(mlp, rows), mlp.split(rows), strict=True):
        assert torch.equal(matrix[:, :-1], kernel)
        assert torch.equal(matrix[:, -1], bias)
        matrix += 1
        assert torch.equal(matrix[:, -1], bias)


@pytest.mark.parametrize("shape", [(100, 64, 64), (100, 64, 8), (5, 1, 9), (1, 3, 3)])
@pytest.mark.parametrize("transposed", [False, True])
def test_every_way_to_multiply_gives_the_product(shape: tuple[int, int, int], transposed: bool) -> None:
    n, k, m = shape
    right = normal(2, m, k).transpose(1, 2) if transposed else normal(2, k, m)
    for left in (normal(2, n, k, seed=1), normal(n, k, seed=2), normal(n, k + 3, seed=3)[:, 1 : k + 1]):
        out = torch.full((2, n, m + 1), torch.nan)
        product(left, right, out[..., :m])()
        torch.testing.assert_close(out[..., :m], left @ right)
        assert out[..., m].isnan().all()
