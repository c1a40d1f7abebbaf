"""Convolutions of one to three dimensions, also transposed. Kernels and biases are tensors of the network."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Any

import torch

from ..flavour import trt
from ..sizes import dynamic
from .net import EXACT_TERMS, FLOAT, ITensor, Net
from .registry import op

aten = torch.ops.aten

#: The most groups that become layers of their own.
_GROUPS = 16
#: The largest patch of col2im, which needs a literal of its square.
MAX_TAPS = 64


@op(aten.convolution.default, dtypes=FLOAT)
def convolution(
    net: Net, input: ITensor, weight: ITensor, bias: ITensor | None, stride: list[int], padding: list[int],
    dilation: list[int], transposed: bool, output_padding: list[int], groups: int,
) -> ITensor:  # fmt: skip
    """convolution(Tensor input, Tensor weight, Tensor? bias, SymInt[] stride, SymInt[] padding, SymInt[] dilation, bool transposed, SymInt[] output_padding, SymInt groups) -> Tensor"""  # noqa: E501
    spatial = len(input.shape) - 2
    steps = {"stride": stride, "padding": padding, "dilation": dilation, "output_padding": output_padding}
    sizes = {name: _per_dim(values, spatial) for name, values in steps.items()}
    if spatial == 1:
        # TensorRT convolves two or three dimensions: a line is an image of height 1.
        input, weight = net.unsqueeze(input, 2), net.unsqueeze(weight, 2)
        sizes = {name: [0 if "padding" in name else 1, *values] for name, values in sizes.items()}
    wide = _sums_in_half(net, input, groups, spatial)
    if wide and groups == 1 and not transposed and _is_product(net, weight, sizes["padding"]):
        y = _as_product(net, input, weight, sizes["stride"])
    else:
        # Around a transposed convolution over three dimensions RTX 1.6.1 has no kernel for the casts.
        if wide and not (transposed and spatial == 3):
            input, weight = net.wide(input), net.wide(weight)
        y = (_transposed if transposed else _forward)(net, input, weight, groups, **sizes)
    y = net.cast(y, net.out.dtype)
    y = net.reshape(y, net.out.shape) if spatial == 1 else net.keep(y, net.out.shape)
    # The bias is added beside the layer, where it may be any tensor, and after the reshape: TensorRT-RTX without a GPU
    # does not build a refittable bias between a 1-D convolution and its reshape.
    return y if bias is None else net.add(y, net.reshape(bias, [1, -1] + [1] * spatial))


#: What may come before a convolution whose operands are cast, and after it; None: the engine's own inputs and outputs.
_MAY_PRECEDE = frozenset({
    None, aten.relu.default, aten.cat.default, aten.max_pool2d.default, aten.max_pool2d_with_indices.default,
    aten.constant_pad_nd.default,
})  # fmt: skip
_MAY_FOLLOW = frozenset({
    None, aten.relu.default, aten.add.Tensor, aten.view.default, aten.reshape.default, aten.permute.default,
    aten.transpose.int, aten.flatten.using_ints,
})  # fmt: skip


#: What may not follow a convolution of a line whose operands are cast: they get other numbers, seen on RTX 1.6.1, or
#: hand them on.
_NOT_AFTER_LINES = frozenset({
    aten.convolution.default, aten.linear.default, aten.mm.default, aten.addmm.default, aten.bmm.default,
    aten.baddbmm.default, aten.addbmm.default, aten.mv.default, aten.addmv.default, aten.matmul.default,
    aten.view.default, aten._unsafe_view.default, aten.reshape.default, aten.flatten.using_ints,
})  # fmt: skip


def _sums_in_half(net: Net, input: ITensor, groups: int, spatial: int) -> bool:
    """Whether TensorRT would sum in float16 what PyTorch sums in float32, and does not if the operands are float32.

    Seen on RTX 1.6.1: relative error 1.5e-3 over 1536 terms and 5e-3 through VGG-11, where PyTorch's are 4e-4 and 8e-4;
    the casts cost little, as they become part of the kernel. Not so with groups, except in three dimensions, where 81
    terms were off by four last places. With arithmetic in float32 before it or after it (SiLU, GELU, a product) RTX
    makes wrong images or NaN of some, of a single pixel too, as in squeeze and excitation; convolutions of a line, as
    Whisper's before GELU, are right, but for those straight before a product or another convolution. Refittable engines
    must do with float16: without a GPU RTX does not build the cast of a kernel whose values come later.
    """
    if net.dtype(input) != torch.float16 or net.half_sums or not (net.bound or net.values):
        return False
    if groups > 1 and spatial < 3:
        return False
    if spatial == 1:
        return net.argument != aten.convolution.default and net.users.isdisjoint(_NOT_AFTER_LINES)
    return net.argument in _MAY_PRECEDE and net.users <= _MAY_FOLLOW


@convolution.unless
def _(
    input: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None, stride: list[int], padding: list[int],
    dilation: list[int], transposed: bool, output_padding: list[int], groups: int,
) -> Iterator[str]:  # fmt: skip
    if input.ndim not in (3, 4, 5):
        yield f"a convolution over {input.ndim - 2} dimensions: TensorRT has one to three"
    if any(map(dynamic, (*weight.shape, *stride, *padding, *dilation, *output_padding, groups, input.shape[1]))):
        yield "a convolution whose kernel, steps or channels have dynamic sizes"
    if transposed and input.ndim == 5 and input.dtype == torch.bfloat16:
        yield "a transposed convolution over three dimensions in bfloat16, for which RTX 1.6.1 finds no kernel"
    if transposed and max(stride) > 1 and max(dilation) > 1:
        yield "a transposed convolution with both stride and dilation"
    if transposed and _nothing_left(input, weight, stride, padding, dilation, output_padding):
        yield "a transposed convolution whose padding crops everything"


def _nothing_left(input: torch.Tensor, weight: torch.Tensor, *steps: list[int]) -> bool:
    each = zip(input.shape[2:], weight.shape[2:], *(_per_dim(step, input.ndim - 2) for step in steps), strict=True)
    return any(
        not dynamic(size) and (size - 1) * stride + dilation * (kernel - 1) + 1 <= padding + max(padding - extra, 0)
        for size, kernel, stride, padding, dilation, extra in each
    )


convolution.unless(Net.not_empty)


@op(aten.col2im.default, dtypes=FLOAT - {torch.bfloat16})  # for casts around this kernel cuDNN has no plan (RTX 1.6.1)
def col2im(
    net: Net, self: ITensor, output_size: list[int], kernel_size: list[int], dilation: list[int], padding: list[int],
    stride: list[int],
) -> ITensor:  # fmt: skip
    """col2im(Tensor self, SymInt[2] output_size, int[2] kernel_size, int[2] dilation, int[2] padding, int[2] stride) -> Tensor"""  # noqa: E501
    # Sums of overlapping patches are a transposed convolution, channel by channel, whose kernel copies each tap.
    taps = math.prod(kernel_size)
    steps = list(zip(output_size, kernel_size, dilation, padding, stride, strict=True))
    counts = [(size + 2 * p - d * (k - 1) - 1) // s + 1 for size, k, d, p, s in steps]
    surplus = [(size + 2 * p - d * (k - 1) - 1) % s for size, k, d, p, s in steps]
    kernel = net.constant(torch.eye(taps).reshape(taps, 1, *kernel_size), net.dtype(self))
    y = _transposed(
        net, net.reshape(self, [-1, taps, *counts]), kernel, 1,
        stride=stride, padding=padding, dilation=dilation, output_padding=surplus,
    )  # fmt: skip
    return net.cast(net.reshape(y, net.out.shape), net.out.dtype)


@col2im.unless
def _(
    self: torch.Tensor, output_size: list[int], kernel_size: list[int], dilation: list[int], padding: list[int],
    stride: list[int],
) -> Iterator[str]:  # fmt: skip
    if max(stride) > 1 and max(dilation) > 1:
        yield "col2im with both stride and dilation"
    if math.prod(kernel_size) > MAX_TAPS:
        yield f"col2im of {math.prod(kernel_size)} taps: their kernel is too large for a literal"


col2im.unless(Net.not_empty)
col2im.unless(Net.fixed_sizes)


def _forward(
    net: Net, x: ITensor, weight: ITensor, groups: int, *,
    stride: list[int], padding: list[int], dilation: list[int], output_padding: list[int],
) -> ITensor:  # fmt: skip
    def convolve(x: ITensor, weight: ITensor) -> ITensor:
        maps, _, *kernel = net.shape(weight)
        layer = net.network.add_convolution_nd(x, maps, tuple(kernel), trt.Weights())
        return _finish(net, layer, weight, groups, stride, dilation, padding, padding)

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


def _is_product(net: Net, weight: ITensor, padding: Sequence[int]) -> bool:
    """Whether a convolution is the product of a matrix with each pixel."""
    return math.prod(net.shape(weight)[2:]) == 1 and not any(padding)


def _as_product(net: Net, x: ITensor, weight: ITensor, stride: list[int]) -> ITensor:
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


def _transposed(
    net: Net, x: ITensor, weight: ITensor, groups: int, *,
    stride: list[int], padding: list[int], dilation: list[int], output_padding: list[int],
) -> ITensor:  # fmt: skip
    if net.dtype(x) == torch.bfloat16:  # TensorRT has no bfloat16 kernel for it
        x, weight = net.wide(x), net.wide(weight)
    if 1 < groups <= _GROUPS and max(dilation) > 1 and not net.bound:  # RTX 1.7 does not build a refittable one
        images, kernels = net.shape(x)[1] // groups, net.shape(weight)[0] // groups
        parts = [
            _transposed(
                net, net.narrow(x, 1, group * images, images), net.narrow(weight, 0, group * kernels, kernels), 1,
                stride=stride, padding=padding, dilation=dilation, output_padding=output_padding,
            )
            for group in range(groups)
        ]  # fmt: skip
        return net.cat(parts, 1)
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


def _per_dim(values: Sequence[int], spatial: int) -> list[int]:
    """One number for each dimension; ATen also takes a single one for all."""
    return list(values) * spatial if len(values) == 1 else list(values)
