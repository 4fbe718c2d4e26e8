"""Multi-layer perceptrons for a whole population at once, straight from flat genome rows.

Order of the flat row: for each layer its kernel, `(inputs, outputs)` row-major, then its bias `(outputs,)`.

A row's actions never depend on its neighbours or on how many there are. On the CPU the products therefore go
through numpy, which calls BLAS once a row: torch's batched product was measured to change the last bits of
128 -> 6 and 128 -> 17 layers with the batch, and is no faster (124 against 64 microseconds for 64 rows of
128 x 128). On other devices it is torch's.
"""

from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Annotated, Any, Literal

import numpy as np
import torch
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor

from qdrl.arrays import native

_ACTIVATIONS = {"relu": torch.relu_, "tanh": torch.tanh_}
_SQUASHES = {"tanh": torch.tanh_, "clip": lambda values: values.clamp_(-1.0, 1.0), "linear": lambda values: values}


class MlpSettings(BaseModel):
    """Shape of every policy in a run.

    Attributes:
        kind: "mlp".
        hidden_sizes: units of each hidden layer; empty for a linear policy.
        activation: of the hidden layers.
        output: squashes the last layer into [-1, 1]: "tanh" smoothly, "clip" by cutting; "linear" leaves it.
        normalize_observations: subtract the running mean and divide by the running deviation of what policies see.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    kind: Literal["mlp"] = "mlp"
    hidden_sizes: tuple[Annotated[int, Field(ge=1, le=65536)], ...] = (128, 128)
    activation: Literal["relu", "tanh"] = "relu"
    output: Literal["tanh", "clip", "linear"] = "tanh"
    normalize_observations: bool = False


class Mlp:
    """The shape of one network: how a flat row is cut into layers, and how a first row is drawn.

    Args:
        observation_size: inputs.
        action_size: outputs.
        settings: layers and squashing.
    """

    def __init__(self, observation_size: int, action_size: int, settings: MlpSettings) -> None:
        self.settings = settings
        self.sizes = (observation_size, *settings.hidden_sizes, action_size)
        self.observation_size, self.action_size = observation_size, action_size
        self.parameters = sum(inputs * outputs + outputs for inputs, outputs in pairwise(self.sizes))

    def initial(self, generator: np.random.Generator) -> np.ndarray:
        """A random genome, `(parameters,)` float32.

        Kernels are uniform in +-sqrt(3 / inputs), so that their variance is 1 / inputs (LeCun et al. 1998,
        "Efficient BackProp", section 4.6), biases zero: the initialisation of the QDax family of papers.
        """
        row = np.zeros(self.parameters, np.float32)
        for kernel, _ in self.split(row[None]):
            bound = np.sqrt(3.0 / kernel.shape[1])
            kernel[0] = generator.uniform(-bound, bound, kernel.shape[1:])
        return row

    def split(self, genomes: Any) -> list[tuple[Any, Any]]:
        """Views of flat rows as layers.

        Args:
            genomes: `(rows, parameters)`, torch or numpy.

        Returns:
            for each layer, kernels `(rows, inputs, outputs)` and biases `(rows, outputs)`.
        """
        layers, start = [], 0
        for inputs, outputs in pairwise(self.sizes):
            middle, end = start + inputs * outputs, start + inputs * outputs + outputs
            layers.append((genomes[:, start:middle].reshape(-1, inputs, outputs), genomes[:, middle:end]))
            start = end
        return layers

    def population(self, slots: int, device: str | torch.device = "cpu") -> "Population":
        """Networks that act side by side."""
        return Population(self, slots, device)

    def describe(self) -> dict[str, Any]:
        """What a stored file says about its genomes."""
        return {
            "kind": "mlp",
            "layers": list(self.sizes),
            "activation": self.settings.activation,
            "output": self.settings.output,
            "normalize_observations": self.settings.normalize_observations,
            "order": "per layer: kernel (inputs, outputs) row-major, then bias (outputs)",
            "parameters": self.parameters,
        }


class Population:
    """Networks of a fixed number of slots; slot i computes the genome last loaded into it.

    Args:
        mlp: the shape of the networks.
        slots: how many.
        device: where they compute.
    """

    def __init__(self, mlp: Mlp, slots: int, device: str | torch.device = "cpu") -> None:
        self.genomes = torch.zeros(slots, mlp.parameters, device=device)
        hidden = [_ACTIVATIONS[mlp.settings.activation]] * len(mlp.settings.hidden_sizes)
        self._activations = [*hidden, _SQUASHES[mlp.settings.output]]
        self._layers = mlp.split(self.genomes)
        self._outputs = [torch.zeros(slots, size, device=device) for size in mlp.sizes[1:]]
        self._make_affine = _numpy_affine if isinstance(native(self.genomes), np.ndarray) else _torch_affine
        self._count, self._steps = -1, []

    def load(self, slots: Sequence[int], genomes: Tensor) -> None:
        """Put genomes `(len(slots), parameters)` into slots."""
        if isinstance(slots, range) and slots.step == 1:
            self.genomes[slots.start : slots.stop] = genomes
            return
        for slot, genome in zip(slots, genomes, strict=True):  # a list as index costs as much as several copies
            self.genomes[slot] = genome

    def move(self, source: int, target: int) -> None:
        """Let slot `target` compute what slot `source` computes."""
        self.genomes[target] = self.genomes[source]

    def act(self, observations: Tensor) -> Tensor:
        """Actions of the first slots.

        Args:
            observations: `(n, observation_size)` float32 of slots 0..n-1.

        Returns:
            `(n, action_size)` float32, a view that the next call overwrites.
        """
        if len(observations) != self._count:
            self._prepare(len(observations))
        values = observations
        for affine, activation, output in self._steps:
            affine(values)
            values = activation(output)
        return values

    def _prepare(self, count: int) -> None:
        """Cut views for this many slots; making them at every call took longer than the products of a few slots."""
        self._count = count
        layers = zip(self._layers, self._activations, self._outputs, strict=True)
        self._steps = [
            (self._make_affine(kernels[:count], biases[:count], output[:count]), activation, output[:count])
            for (kernels, biases), activation, output in layers
        ]


def _numpy_affine(kernels: Tensor, biases: Tensor, output: Tensor) -> Callable[[Tensor], None]:
    """A function from values to `values @ kernels + biases` in `output`, a row at a time: no row depends on another."""
    weights, offset, result = kernels.numpy(), biases.numpy(), output.numpy()
    rows, matmul, add = result[:, None, :], np.matmul, np.add

    def affine(values: Tensor) -> None:
        matmul(values.numpy()[:, None, :], weights, out=rows)
        add(result, offset, out=result)

    return affine


def _torch_affine(kernels: Tensor, biases: Tensor, output: Tensor) -> Callable[[Tensor], None]:
    rows, offset = output[:, None, :], biases[:, None, :]

    def affine(values: Tensor) -> None:
        torch.baddbmm(offset, values[:, None, :], kernels, out=rows)

    return affine
