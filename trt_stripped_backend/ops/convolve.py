"""Ways to compute a convolution: TensorRT's layers, products of matrices, and images with zeros between their pixels.

Images are ``[batch, channels, *size]`` of two or three dimensions, kernels ``[maps, channels / groups, *size]``, and of
transposed convolutions ``[channels, maps / groups, *size]``.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch

from ..flavour import trt
from .net import ITensor, Net
from .products import EXACT_TERMS

#: The most groups that become layers of their own.
GROUPS = 16


def forward(
    net: Net, x: ITensor, weight: ITensor, groups: int, *,
    stride: list[int], padding: list[int], dilation: list[int], output_padding: list[int],
) -> ITensor:  # fmt: skip
    """A convolution; ``output_padding`` is how much more padding there is at the end, or less."""
    after = [pad + extra for pad, extra in zip(padding, output_padding, strict=True)]

    def convolve(x: ITensor, weight: ITensor) -> ITensor:
        maps, _, *kernel = net.shape(weight)
        layer = net.network.add_convolution_nd(x, maps, tuple(kernel), trt.Weights())
        return _finish(net, layer, weight, groups, stride, dilation, padding, after)

    channels, taps = net.shape(weight)[1], math.prod(net.shape(weight)[2:])
    if groups > 1 or net.dtype(x) != torch.float32 or not net.exact_float32:
        return convolve(x, weight)
    # Shorter sums added up, for the reason that Net.product gives.
    step = max(4 * EXACT_TERMS // taps, 1)
    total = None
    for start in range(0, channels, step):
        length = min(step, channels - start)
        piece = convolve(net.narrow(x, 1, start, length), net.narrow(weight, 1, start, length))
        total = piece if total is None else net.add(total, piece)
    return total


def is_product(net: Net, weight: ITensor, padding: Sequence[int]) -> bool:
    """Whether a convolution is the product of a matrix with each pixel."""
    return math.prod(net.shape(weight)[2:]) == 1 and not any(padding)


def as_product(net: Net, x: ITensor, weight: ITensor, stride: list[int]) -> ITensor:
    """A convolution of one pixel, summed in float32 by a kernel for matrix products.

    TensorRT has those for float16 operands. Convolutions of cast operands are computed in TF32, at half the pace: RTX
    1.6.1 on an H200, three bottlenecks of ResNet-50 for 56 × 56 pixels 0.32 and 0.21 ms, the whole 1.44 and 1.40 ms;
    where TF32 is forbidden, 7.5 and 5.7 ms.
    """
    if max(stride) > 1:
        sizes = zip(net.shape(x)[2:], stride, strict=True)
        shape = [*net.shape(x)[:2], *((size + step - 1) // step for size, step in sizes)]
        x = net.slice(x, [0] * len(shape), shape, [1, 1, *stride])
    batch, channels, *image = net.shape(x)
    maps = net.shape(weight)[0]
    y = net.product(net.reshape(weight, [1, maps, channels]), net.reshape(x, [batch, channels, math.prod(image)]))
    return net.reshape(y, [batch, maps, *image])


def transpose(
    net: Net, x: ITensor, weight: ITensor, groups: int, *,
    stride: list[int], padding: list[int], dilation: list[int], output_padding: list[int],
) -> ITensor:  # fmt: skip
    """A transposed convolution."""
    steps = {"stride": stride, "padding": padding, "dilation": dilation, "output_padding": output_padding}
    if groups == 1 and is_tiled(net, weight, **steps):
        return _as_tiles(net, x, weight, stride)
    # RTX 1.6.1 finds no kernel for the casts around many a layer in bfloat16, and around some in float16; none takes
    # both stride and dilation. Without a stride there are no zeros, and a convolution is as fast.
    zeros = net.dtype(x) == torch.bfloat16 or (max(stride) > 1 and max(dilation) > 1)
    if groups == 1 and (zeros or max(stride) == 1):
        return _between_zeros(net, x, weight, **steps)
    refittable = max(dilation) > 1 and not net.bound  # with groups RTX 1.7 does not build one
    if 1 < groups <= GROUPS and (zeros or refittable):
        images, kernels = net.shape(x)[1] // groups, net.shape(weight)[0] // groups
        starts = [(g * images, g * kernels) for g in range(groups)]
        parts = [(net.narrow(x, 1, i, images), net.narrow(weight, 0, k, kernels)) for i, k in starts]
        return net.cat([transpose(net, *part, 1, **steps) for part in parts], 1)
    if net.dtype(x) == torch.bfloat16:
        x, weight = net.wide(x), net.wide(weight)
    _, maps, *kernel = net.shape(weight)
    layer = net.network.add_deconvolution_nd(x, maps * groups, tuple(kernel), trt.Weights())
    # Output padding crops less at the end. Where it asks for more than is cropped, nothing reaches the surplus: zeros.
    crop = [max(p - extra, 0) for p, extra in zip(padding, output_padding, strict=True)]
    surplus = [max(extra - p, 0) for p, extra in zip(padding, output_padding, strict=True)]
    y = _finish(net, layer, weight, groups, stride, dilation, padding, crop)
    if not any(surplus):
        return y
    shape = [*net.shape(y)[:2], *(size + extra for size, extra in zip(net.shape(y)[2:], surplus, strict=True))]
    return net.slice(y, [0] * len(shape), shape, [1] * len(shape), trt.SampleMode.FILL)


def is_tiled(
    net: Net, weight: ITensor, *,
    stride: list[int], padding: list[int], dilation: list[int], output_padding: list[int],
) -> bool:  # fmt: skip
    """Whether a transposed convolution makes each pixel a tile of its own."""
    return net.shape(weight)[2:] == stride and max(dilation) == 1 and not any((*padding, *output_padding))


def _as_tiles(net: Net, x: ITensor, weight: ITensor, stride: list[int]) -> ITensor:
    """A transposed convolution whose tiles do not overlap, as a product of its kernel with each pixel."""
    batch, channels, *image = net.shape(x)
    rank, maps = len(image), net.shape(weight)[1]
    rows = net.permute(net.reshape(weight, [1, channels, maps * math.prod(stride)]), [0, 2, 1])
    y = net.product(rows, net.reshape(x, [batch, channels, math.prod(image)]))
    y = net.reshape(y, [batch, maps, *stride, *image])
    beside = [dim for d in range(2, 2 + rank) for dim in (d + rank, d)]
    whole = [size * step for size, step in zip(image, stride, strict=True)]
    return net.reshape(net.permute(y, [0, 1, *beside]), [batch, maps, *whole])


def _between_zeros(
    net: Net, x: ITensor, weight: ITensor, *,
    stride: list[int], padding: list[int], dilation: list[int], output_padding: list[int],
) -> ITensor:  # fmt: skip
    """A transposed convolution as a convolution of the image with zeros between its pixels, by the kernel turned round.

    See Dumoulin and Visin, "A guide to convolution arithmetic for deep learning", section 4. Here the image is turned
    round, and the result back: without a GPU RTX does not build that of a refittable kernel.
    """
    rank = len(stride)
    last = [step * (size - 1) - crop for step, size, crop in zip(dilation, net.shape(weight)[2:], padding, strict=True)]
    first = [pad + extra for pad, extra in zip(last, output_padding, strict=True)]
    x = _turned(net, x)
    for dim, (step, *pads) in enumerate(zip(stride, first, last, strict=True), 2):
        x = spread(net, x, dim, step)
        start, end = (max(-pad, 0) for pad in pads)
        x = net.narrow(x, dim, start, net.shape(x)[dim] - start - end)
    before, after = ([max(pad, 0) for pad in pads] for pads in (first, last))
    less = [b - a for a, b in zip(before, after, strict=True)]
    weight = net.permute(weight, [1, 0, *range(2, 2 + rank)])
    y = forward(net, x, weight, 1, stride=[1] * rank, padding=before, dilation=dilation, output_padding=less)
    return _turned(net, y)


def _turned(net: Net, x: ITensor) -> ITensor:
    """An image upside down and from right to left."""
    image = net.shape(x)[2:]
    return net.slice(x, [0, 0, *(size - 1 for size in image)], net.shape(x), [1, 1] + [-1] * len(image))


def spread(net: Net, x: ITensor, dim: int, step: int) -> ITensor:
    """``x`` with ``step - 1`` zeros between its elements along ``dim``."""
    if step == 1:
        return x
    lead, size, rest = net.shape(x)[:dim], net.shape(x)[dim], net.shape(x)[dim + 1 :]
    zeros = net.full([*lead, size, step - 1, *rest], 0, net.dtype(x))
    whole = net.cat([net.reshape(x, [*lead, size, 1, *rest]), zeros], dim + 1)
    return net.narrow(net.reshape(whole, [*lead, size * step, *rest]), dim, 0, (size - 1) * step + 1)


def _finish(
    net: Net, layer: Any, weight: ITensor, groups: int, stride: Sequence[int], dilation: Sequence[int],
    before: Sequence[int], after: Sequence[int],
) -> ITensor:  # fmt: skip
    if layer is not None:
        layer.set_input(1, weight)
        layer.num_groups = groups
        layer.stride_nd, layer.dilation_nd = tuple(stride), tuple(dilation)
        layer.pre_padding, layer.post_padding = tuple(before), tuple(after)
    return net.turns.forget(net.take(layer))
