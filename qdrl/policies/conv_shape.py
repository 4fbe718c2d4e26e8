"""The layers of convolutional networks, and their order in a flat genome row.

A flat row holds, for each convolution, its kernel `(filters, channels, height, width)` row-major and its bias
`(filters,)`; then, for each dense layer, its kernel `(inputs, outputs)` row-major and its bias. With virtual batch
normalisation, each hidden layer's scale and offset, one per channel, follow its bias.
"""

from itertools import pairwise
from math import prod

from torch import Tensor

from qdrl.policies.settings import ConvSettings


class ConvShape:
    """Sizes of all layers of one network.

    Args:
        image: Channels, height and width of an observation.
        action_size: Number of outputs.
        settings: Layers.

    Attributes:
        images: Channels, height and width before each convolution, and after the last.
        parameters: Length of a flat row.

    Raises:
        ValueError: A kernel is larger than its input.
    """

    def __init__(self, image: tuple[int, int, int], action_size: int, settings: ConvSettings) -> None:
        self.image, self.settings, self.action_size = image, settings, action_size
        self.observation_size = prod(image)
        self.images = _images(image, settings)
        dense = [prod(self.images[-1]), *settings.hidden_sizes, action_size]
        self._convolutions = [
            (layer.filters, inputs[0], layer.size, layer.size)
            for layer, inputs in zip(settings.convolutions, self.images, strict=False)
        ]
        self._dense = list(pairwise(dense))
        self.parameters = sum(prod(shape) for layer in self.shapes() for shape in layer)

    def shapes(self) -> list[list[tuple[int, ...]]]:
        """Return, for each layer, the shapes of kernel, bias and, if normalised, scale and offset, in row order."""
        kernels = [*self._convolutions, *self._dense]
        layers = []
        for index, kernel in enumerate(kernels):
            units = (kernel[0] if len(kernel) == 4 else kernel[1],)
            normalised = self.settings.virtual_batch_norm > 0 and index < len(kernels) - 1
            layers.append([kernel, units, units, units] if normalised else [kernel, units])
        return layers

    def split(self, genomes: Tensor) -> list[list[Tensor]]:
        """Return views of flat rows `(rows, parameters)` as each layer's parts, `(rows, *shape)`."""
        layers, start = [], 0
        for shapes in self.shapes():
            parts = []
            for shape in shapes:
                end = start + prod(shape)
                parts.append(genomes[:, start:end].view(-1, *shape))
                start = end
            layers.append(parts)
        return layers

    def margins(self, index: int, *, before: bool = True) -> tuple[int, int]:
        """Return the rows and columns of zeros before, or after, the input of convolution `index`."""
        layer, (_, *sides) = self.settings.convolutions[index], self.images[index]
        if self.settings.padding == "valid":
            return 0, 0
        height, width = (_same_padding(side, layer.size, layer.stride)[0 if before else 1] for side in sides)
        return height, width


def _images(image: tuple[int, int, int], settings: ConvSettings) -> list[tuple[int, int, int]]:
    """Return channels, height and width before each convolution, and after the last."""
    images = [image]
    for layer in settings.convolutions:
        _, *size = images[-1]
        if settings.padding == "same":
            sides = [-(-side // layer.stride) for side in size]
        else:
            sides = [(side - layer.size) // layer.stride + 1 for side in size]
            if min(side - layer.size for side in size) < 0:
                raise ValueError(f"a kernel of size {layer.size} does not fit an input of {size[0]} x {size[1]} pixels")
        images.append((layer.filters, sides[0], sides[1]))
    return images


def _same_padding(side: int, kernel: int, stride: int) -> tuple[int, int]:
    """Return the zeros before and after a side, as TensorFlow's SAME padding places them."""
    total = max((-(-side // stride) - 1) * stride + kernel - side, 0)
    return total // 2, total - total // 2
