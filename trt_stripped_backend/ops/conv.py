"""Convolutions of one to three dimensions, also transposed. Kernels and biases are tensors of the network."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch

from ..flavour import trt
from ..sizes import dynamic
from .convolve import GROUPS, as_product, forward, is_product, is_tiled, spread, transpose
from .net import FLOAT, ITensor, Net
from .registry import op

aten = torch.ops.aten

#: The largest patch of col2im, in rows and columns together.
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
    y = _computed(net, input, weight, groups, transposed, _sums_in_half(net, input, groups, spatial), sizes)
    y = net.cast(y, net.out.dtype)
    y = net.reshape(y, net.out.shape) if spatial == 1 else net.keep(y, net.out.shape)
    # The bias is added beside the layer, where it may be any tensor, and after the reshape: TensorRT-RTX without a GPU
    # does not build a refittable bias between a 1-D convolution and its reshape.
    return y if bias is None else net.add(y, net.reshape(bias, [1, -1] + [1] * spatial))


def _computed(
    net: Net, x: ITensor, weight: ITensor, groups: int, transposed: bool, wide: bool, sizes: dict[str, list[int]]
) -> ITensor:
    """A layer, of operands that are cast to float32 if ``wide``, or a product, which sees to its own sums."""
    if wide and groups == 1 and not transposed and is_product(net, weight, sizes["padding"]):
        return as_product(net, x, weight, sizes["stride"])
    product = transposed and groups == 1 and is_tiled(net, weight, **sizes)
    # Around a transposed convolution over three dimensions RTX 1.6.1 has no kernel for the casts.
    if wide and not product and not (transposed and len(x.shape) == 5):
        x, weight = net.factor(x), net.factor(weight)
    return (transpose if transposed else forward)(net, x, weight, groups, **sizes)


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
    if transposed and groups > GROUPS and input.ndim == 5 and input.dtype == torch.bfloat16:
        yield f"a transposed convolution over three dimensions in bfloat16 of {groups} groups: RTX finds no kernel"
    if transposed and groups > GROUPS and max(stride) > 1 and max(dilation) > 1:
        yield f"a transposed convolution of {groups} groups with both stride and dilation"
    if transposed and _nothing_left(input, weight, stride, padding, dilation, output_padding):
        yield "a transposed convolution whose padding crops everything"


def _nothing_left(input: torch.Tensor, weight: torch.Tensor, *steps: list[int]) -> bool:
    each = zip(input.shape[2:], weight.shape[2:], *(_per_dim(step, input.ndim - 2) for step in steps), strict=True)
    return any(
        not dynamic(size) and (size - 1) * stride + dilation * (kernel - 1) + 1 <= padding + max(padding - extra, 0)
        for size, kernel, stride, padding, dilation, extra in each
    )


convolution.unless(Net.not_empty)


@op(aten.col2im.default, dtypes=FLOAT)
def col2im(
    net: Net, self: ITensor, output_size: list[int], kernel_size: list[int], dilation: list[int], padding: list[int],
    stride: list[int],
) -> ITensor:  # fmt: skip
    """col2im(Tensor self, SymInt[2] output_size, int[2] kernel_size, int[2] dilation, int[2] padding, int[2] stride) -> Tensor"""  # noqa: E501
    steps = list(zip(output_size, kernel_size, dilation, padding, stride, strict=True))
    counts = [(size + 2 * p - d * (k - 1) - 1) // s + 1 for size, k, d, p, s in steps]
    wide = torch.promote_types(net.dtype(self), torch.float32)  # as PyTorch adds them up
    y = net.reshape(net.cast(self, wide), [-1, *kernel_size, *counts])  # [images, rows, columns, high, wide]
    for dim, (size, _, d, p, s) in ((2, steps[1]), (1, steps[0])):  # first the columns of each row of taps
        y = _overlaid(net, y, dim, size, d, p, s)
    return net.cast(net.reshape(y, net.out.shape), net.out.dtype)


def _overlaid(net: Net, x: ITensor, dim: int, size: int, dilation: int, padding: int, stride: int) -> ITensor:
    """The sum of the parts of ``x`` along ``dim``, their elements ``stride`` apart along ``2 * dim - 1``, where part i
    begins at ``i * dilation - padding`` of ``size`` places."""
    total = None
    for i in range(net.shape(x)[dim]):
        part = spread(net, net.squeeze(net.narrow(x, dim, i, 1), dim), 2 * dim - 1, stride)
        start, shape = [0] * len(part.shape), net.shape(part)
        start[2 * dim - 1], shape[2 * dim - 1] = padding - i * dilation, size
        part = net.slice(part, start, shape, [1] * len(shape), trt.SampleMode.FILL)
        total = part if total is None else net.add(total, part)
    return total


@col2im.unless
def _(
    self: torch.Tensor, output_size: list[int], kernel_size: list[int], dilation: list[int], padding: list[int],
    stride: list[int],
) -> Iterator[str]:  # fmt: skip
    if sum(kernel_size) > MAX_TAPS:
        yield f"col2im of a kernel of {kernel_size[0]} × {kernel_size[1]}: too many layers"


col2im.unless(Net.not_empty)
col2im.unless(Net.fixed_sizes)


def _per_dim(values: Sequence[int], spatial: int) -> list[int]:
    """One number for each dimension; ATen also takes a single one for all."""
    return list(values) * spatial if len(values) == 1 else list(values)
