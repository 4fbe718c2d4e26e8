"""The compiled kernels of portable arithmetic.

They share one module because numba's cache of a kernel does not notice changes in other modules.
"""

import numpy as np

from qdrl.compute.arithmetic.compiling import kernel

RELU, TANH, CLIP, LINEAR = 0, 1, 2, 3
ACTIVATIONS = {"relu": RELU, "tanh": TANH, "clip": CLIP, "linear": LINEAR}
"""Activation codes by name."""

# pi/2 as a sum of 33, 33 and 53 bits: a product with an integer below 2**20 is exact for the first two.
_HALF_PI = (1.5707963267341256, 6.077100506303966e-11, 2.0222662487959506e-21)
_TWO_OVER_PI = 0.6366197723675814
_ROUNDER = 6755399441055744.0  # 1.5 * 2**52: adding and subtracting it rounds to an integer
_LARGEST_ANGLE = 1e6  # rad
_TANH_SATURATION = 9.1  # tanh of anything larger rounds to 1 in float32


@kernel
def _tanh(x):
    """Return tanh of a float64 to 3e-10 relative: float32 results are within 0.51 units in the last place.

    -m / (m + 2) with m = exp(-2|x|) - 1. The Taylor series of exp(u) - 1 at u = -2|x| / 64 is squared up six times:
    exp(2u) - 1 = m (m + 2), which keeps the relative error of m.
    """
    size = abs(x)
    if size > _TANH_SATURATION:
        size = _TANH_SATURATION
    u = size * -0.03125
    m = 1.0 / 40320.0
    m = m * u + 1.0 / 5040.0
    m = m * u + 1.0 / 720.0
    m = m * u + 1.0 / 120.0
    m = m * u + 1.0 / 24.0
    m = m * u + 1.0 / 6.0
    m = m * u + 0.5
    m = m * u + 1.0
    m = m * u
    m = m * (m + 2.0)
    m = m * (m + 2.0)
    m = m * (m + 2.0)
    m = m * (m + 2.0)
    m = m * (m + 2.0)
    m = m * (m + 2.0)
    t = m / (m + 2.0)
    return t if x < 0.0 else -t


@kernel
def _affine(values, weights, outputs):
    """Set `outputs` (o,) to the bias plus values (i,) times the kernel, added in the order of the inputs.

    `weights` is a layer's part of a flat row: kernel `(i, o)` row-major, then bias `(o,)`.
    """
    inputs, count = len(values), len(outputs)
    kernel_size = inputs * count
    w, bias = weights[:kernel_size].reshape((inputs, count)), weights[kernel_size:]
    for o in range(count):
        outputs[o] = bias[o]
    last = inputs - inputs % 8
    for i in range(0, last, 8):  # eight inputs a pass save loads and stores of the sums without changing their order
        a, b, c, d = values[i], values[i + 1], values[i + 2], values[i + 3]
        e, f, g, h = values[i + 4], values[i + 5], values[i + 6], values[i + 7]
        for o in range(count):
            total = outputs[o] + a * w[i, o]
            total = total + b * w[i + 1, o]
            total = total + c * w[i + 2, o]
            total = total + d * w[i + 3, o]
            total = total + e * w[i + 4, o]
            total = total + f * w[i + 5, o]
            total = total + g * w[i + 6, o]
            outputs[o] = total + h * w[i + 7, o]
    for i in range(last, inputs):
        value = values[i]
        for o in range(count):
            outputs[o] = outputs[o] + value * w[i, o]


@kernel
def _activate(values, activation):
    """Apply an activation in place; NaN stays NaN."""
    if activation == RELU:
        for i in range(len(values)):
            values[i] = np.float32(0.0) if values[i] < np.float32(0.0) else values[i]
    elif activation == TANH:
        for i in range(len(values)):
            values[i] = np.float32(_tanh(np.float64(values[i])))
    elif activation == CLIP:
        one = np.float32(1.0)
        for i in range(len(values)):
            value = values[i]
            value = one if value > one else value
            values[i] = -one if value < -one else value


@kernel
def forward(genomes, observations, sizes, hidden, output, scratch, actions):
    """Compute the actions of the first slots' networks, one slot at a time.

    Args:
        genomes: `(slots, parameters)` float32 rows.
        observations: `(n, sizes[0])` float32.
        sizes: `(layers + 1,)` int64 from observation to action.
        hidden: activation code of the hidden layers.
        output: activation code of the last layer.
        scratch: `(2, widest layer)` float32, overwritten.
        actions: `(slots, sizes[-1])` float32, receives the first n rows.
    """
    layers = len(sizes) - 1
    for slot in range(len(observations)):
        genome, values, start = genomes[slot], observations[slot], 0
        for layer in range(layers):
            inputs, outputs = sizes[layer], sizes[layer + 1]
            end = start + inputs * outputs + outputs
            result = actions[slot] if layer == layers - 1 else scratch[layer % 2, :outputs]
            _affine(values, genome[start:end], result)
            _activate(result, output if layer == layers - 1 else hidden)
            values, start = result, end


@kernel
def dense(values, weights, outputs):
    """Set `outputs` `(n, o)` float32 to a layer's sums of `values` `(n, i)`; `weights` as a flat row has them."""
    for row in range(len(values)):
        _affine(values[row], weights, outputs[row])


@kernel
def convolve(images, weights, size, stride, margin, patch, sums, outputs):
    """Apply a convolution: a dense layer on every patch, whose numbers are ordered channel, row, column.

    Args:
        images: `(n, channels, height, width)` float32.
        weights: the kernel as `(channels * size * size, filters)` row-major, then the bias `(filters,)`.
        size: height and width of the kernel.
        stride: distance between patches.
        margin: `(2,)` int64, zeros above and to the left of an image.
        patch: `(channels * size * size,)` float32, overwritten.
        sums: `(filters,)` float32, overwritten.
        outputs: `(n, filters, rows, columns)` float32.
    """
    _, channels, height, width = images.shape
    _, filters, rows, columns = outputs.shape
    for image in range(len(images)):
        for row in range(rows):
            for column in range(columns):
                top, left, at = row * stride - margin[0], column * stride - margin[1], 0
                for channel in range(channels):
                    for y in range(top, top + size):
                        for x in range(left, left + size):
                            inside = 0 <= y < height and 0 <= x < width
                            patch[at] = images[image, channel, y, x] if inside else np.float32(0.0)
                            at += 1
                _affine(patch, weights, sums)
                for f in range(filters):
                    outputs[image, f, row, column] = sums[f]


@kernel
def activate(values, activation):
    """Apply an activation code to `values` `(n,)` float32 in place."""
    _activate(values, activation)


@kernel
def scale(values, factors, offsets):
    """Multiply channels of `values` `(n, channels, points)` by factors and add offsets, in place."""
    for row in range(values.shape[0]):
        for channel in range(values.shape[1]):
            factor, offset = factors[channel], offsets[channel]
            for point in range(values.shape[2]):
                values[row, channel, point] = values[row, channel, point] * factor + offset


@kernel
def moments(values, means, variances):
    """Set mean and variance `(channels,)` float64 of each channel of `values` `(n, channels, points)` float32."""
    rows, channels, points = values.shape
    for channel in range(channels):
        total = 0.0
        for row in range(rows):
            for point in range(points):
                total = total + np.float64(values[row, channel, point])
        mean, total = total / (rows * points), 0.0
        for row in range(rows):
            for point in range(points):
                difference = np.float64(values[row, channel, point]) - mean
                total = total + difference * difference
        means[channel], variances[channel] = mean, total / (rows * points)


@kernel
def sines(angles, sine, cosine):
    """Set sine and cosine of `angles` `(n,)` float64 in rad; each is within 2.3e-16 of the truth.

    The angle less the nearest multiple of pi/2 (Cody and Waite 1980) enters Taylor series. NaN beyond 1e6 rad.
    """
    for i in range(len(angles)):
        angle = angles[i]
        if not abs(angle) <= _LARGEST_ANGLE:
            sine[i] = cosine[i] = np.nan
            continue
        turns = (angle * _TWO_OVER_PI + _ROUNDER) - _ROUNDER
        x = ((angle - turns * _HALF_PI[0]) - turns * _HALF_PI[1]) - turns * _HALF_PI[2]
        s, c = _sine(x), _cosine(x)
        quarter = int(turns) & 3
        if quarter == 1:
            s, c = c, -s
        elif quarter == 2:
            s, c = -s, -c
        elif quarter == 3:
            s, c = -c, s
        sine[i], cosine[i] = s, c


@kernel
def _sine(x):
    """Return the Taylor series of the sine up to x**17; the next term is 1e-19 at pi/4."""
    square = x * x
    s = 1.0 / 355687428096000.0
    s = s * square - 1.0 / 1307674368000.0
    s = s * square + 1.0 / 6227020800.0
    s = s * square - 1.0 / 39916800.0
    s = s * square + 1.0 / 362880.0
    s = s * square - 1.0 / 5040.0
    s = s * square + 1.0 / 120.0
    s = s * square - 1.0 / 6.0
    return x + x * (square * s)


@kernel
def _cosine(x):
    """Return the Taylor series of the cosine up to x**16; the next term is 2e-18 at pi/4."""
    square = x * x
    c = 1.0 / 20922789888000.0
    c = c * square - 1.0 / 87178291200.0
    c = c * square + 1.0 / 479001600.0
    c = c * square - 1.0 / 3628800.0
    c = c * square + 1.0 / 40320.0
    c = c * square - 1.0 / 720.0
    c = c * square + 1.0 / 24.0
    return 1.0 - (0.5 * square - square * (square * c))
