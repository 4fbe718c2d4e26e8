"""Convolutional policies compared with torch's layers."""

import numpy as np
import pytest
import torch
from torch import nn

from qdrl.compute.arithmetic import BLAS, PORTABLE, Arithmetic
from qdrl.config import parse_experiment
from qdrl.errors import UserError
from qdrl.policies.base import make_policy
from qdrl.policies.conv import Conv
from qdrl.policies.settings import Convolution, ConvSettings
from qdrl.run.build import build

SMALL = ConvSettings(
    kind="conv",
    convolutions=(Convolution(filters=5, size=4, stride=2), Convolution(filters=3, size=3)),
    hidden_sizes=(7,),
    padding="valid",
)
IMAGE = (2, 11, 9)


def conv(**changes: object) -> Conv:
    return Conv(IMAGE, 3, SMALL.model_copy(update=changes))


def rows(shape: Conv, count: int) -> torch.Tensor:
    return torch.from_numpy(np.random.default_rng(0).standard_normal((count, shape.parameters), np.float32) * 0.3)


def images(shape: Conv, count: int, seed: int = 1) -> torch.Tensor:
    return torch.from_numpy(np.random.default_rng(seed).random((count, shape.observation_size), np.float32))


def torchs_own(shape: Conv, genome: torch.Tensor) -> nn.Sequential:
    """Return the network with valid padding as torch modules; parameters are sliced from the row by position."""
    modules, start = [], 0
    layers = [nn.Conv2d(2, 5, 4, 2), nn.Conv2d(5, 3, 3), nn.Linear(3 * 2 * 1, 7), nn.Linear(7, 3)]
    for layer in layers:
        count, units = layer.weight.numel(), layer.weight.shape[0]
        kernel = genome[start : start + count]
        linear = isinstance(layer, nn.Linear)
        layer.weight.data = kernel.view(-1, units).T.clone() if linear else kernel.view(layer.weight.shape).clone()
        layer.bias.data = genome[start + count : start + count + units].clone()
        start += count + units
        modules += [nn.Flatten()] * (linear and start == count + units) + [layer, nn.ReLU()]
    assert start == shape.parameters
    return nn.Sequential(*modules[:4], nn.Flatten(), *modules[4:-1], nn.Tanh())


def test_the_default_network_has_the_published_number_of_parameters() -> None:
    shape = Conv((4, 84, 84), 18, ConvSettings(kind="conv"))
    assert shape.parameters == 4_052_658
    assert shape.images == [(4, 84, 84), (32, 21, 21), (64, 11, 11), (64, 11, 11)]


@pytest.mark.parametrize("arithmetic", ["portable-1", "blas"])
def test_networks_compute_what_torchs_layers_do_each_with_its_own_weights(arithmetic: Arithmetic) -> None:
    shape = Conv(IMAGE, 3, SMALL, arithmetic)
    genomes, seen = rows(shape, 4), images(shape, 3)
    population = shape.population(4)
    population.load([2, 0, 1], genomes[:3])
    population.load([3], genomes[3:])
    population.move(3, 1)
    found = population.act(seen)
    for slot, row in ((0, 1), (1, 3), (2, 0)):
        expected = torchs_own(shape, genomes[row])(seen[slot].view(1, *IMAGE))[0]
        torch.testing.assert_close(found[slot], expected.detach(), atol=1e-6, rtol=1e-5)


def test_same_padding_puts_the_odd_zero_last() -> None:
    settings = {"convolutions": (Convolution(filters=1, size=4, stride=2),), "hidden_sizes": (), "output": "linear"}
    shape = Conv((1, 5, 5), 1, SMALL.model_copy(update={**settings, "padding": "same"}))
    assert shape.images[-1] == (1, 3, 3)  # ceil(5 / 2); 3 * 2 + 2 - 5 = 3 zeros, 1 before and 2 after
    genome = torch.zeros(1, shape.parameters)
    genome[0, 0] = 1.0  # the first value of the kernel
    genome[0, 17] = 1.0  # the first pixel of the image
    population = shape.population(1)
    population.load([0], genome)
    image = torch.arange(25.0)
    assert population.act(image[None]).item() == 0.0  # it reads the zero before the image
    genome[0, 17], genome[0, 17 + 4] = 0.0, 1.0  # the middle pixel: the first value of the kernel is at (1, 1)
    population.load([0], genome)
    assert population.act(image[None]).item() == 6.0


@pytest.mark.parametrize("normalised", [0, 30])
def test_the_bits_of_a_row_do_not_depend_on_other_rows(normalised: int) -> None:
    shape = conv(virtual_batch_norm=normalised)
    genomes, seen = rows(shape, 5), images(shape, 5)
    many, one = shape.population(5), shape.population(1)
    for population in (many, one):
        population.set_reference(images(shape, 30, seed=9))
    many.load(range(5), genomes)
    found = many.act(seen).clone()
    for row in range(5):
        one.load([0], genomes[row : row + 1])
        assert torch.equal(one.act(seen[row : row + 1])[0], found[row])


@pytest.mark.parametrize("padding", ["same", "valid"])
@pytest.mark.parametrize("normalised", [0, 12])
def test_both_arithmetics_compute_the_same_network(padding: str, normalised: int) -> None:
    changed = SMALL.model_copy(update={"padding": padding, "virtual_batch_norm": normalised, "activation": "tanh"})
    found = []
    for arithmetic in (PORTABLE, BLAS):
        shape = Conv(IMAGE, 3, changed, arithmetic)
        population = shape.population(2)
        population.set_reference(images(shape, 12, seed=9))
        population.load([0, 1], rows(shape, 2))
        found.append(population.act(images(shape, 2)).clone())
    torch.testing.assert_close(*found, atol=1e-5, rtol=1e-4)


def test_virtual_batch_norm_is_batch_norm_over_the_reference() -> None:
    shape = conv(virtual_batch_norm=40)
    genome, reference = torch.from_numpy(shape.initial(np.random.default_rng(3)))[None], images(shape, 40, seed=5)
    population = shape.population(1)
    with pytest.raises(RuntimeError, match="set the reference observations"):
        population.load([0], genome)
    population.set_reference(reference)
    population.load([0], genome)
    values = reference.view(-1, *IMAGE)
    parts = [[part[0] for part in layer] for layer in shape.split(genome)]
    for index, (kernel, bias, *_) in enumerate(parts[:-1]):
        stride = [2, 1, 1][index]
        linear = kernel.ndim == 2
        values = values.flatten(1) @ kernel + bias if linear else nn.functional.conv2d(values, kernel, bias, stride)
        values = nn.functional.batch_norm(values, None, None, training=True, eps=1e-3).relu()
    expected = (values @ parts[-1][0] + parts[-1][1]).tanh()
    for row in range(40):
        torch.testing.assert_close(population.act(reference[row : row + 1])[0], expected[row], atol=1e-5, rtol=1e-4)


def test_first_genomes_have_the_published_spread() -> None:
    shape = Conv((4, 84, 84), 18, ConvSettings(kind="conv", virtual_batch_norm=1))
    genome = torch.from_numpy(shape.initial(np.random.default_rng(0)))[None]
    for index, (kernel, bias, *normal) in enumerate(shape.split(genome)):
        inputs = kernel[0, 0].numel() if kernel.ndim == 5 else kernel.shape[1]
        assert kernel.std() == pytest.approx((0.1 if index == 4 else 1.0) / np.sqrt(inputs), rel=0.03)
        assert (bias == 0).all()
        assert [part.mean().item() for part in normal] == ([] if index == 4 else [1.0, 0.0])


def test_convolutions_without_an_image_or_larger_than_it_are_refused() -> None:
    with pytest.raises(UserError, match="convolutions need a task with image observations"):
        make_policy(SMALL, 11, 2)
    with pytest.raises(UserError, match=r"policy\.convolutions: a kernel of size 4 does not fit .* 3 x 3 pixels"):
        make_policy(SMALL, 18, 2, (2, 3, 3))
    point = {"task": {"name": "point_omni"}, "run": {"generations": 1}, "name": "x"}
    with pytest.raises(UserError, match="convolutions need a task with image observations"):
        build(parse_experiment(point | {"policy": {"kind": "conv"}}))
    with pytest.raises(UserError, match="no policy 'cnn'"):
        parse_experiment(point | {"policy": {"kind": "cnn"}})
