"""Pooling over windows of given or adapted size.

TensorRT pools two or three dimensions, so a line is an image of height 1. It has no dilation, and its ceiling mode is
not PyTorch's: the first is a maximum of gathered elements, and for windows that reach too far the input is padded.
"""

from __future__ import annotations

import functools
import itertools
import math
from collections.abc import Iterator, Sequence
from typing import Any

import torch

from ..flavour import trt
from ..sizes import dynamic
from .net import FLOAT, ITensor, Net
from .registry import op
from .resize import taps

aten = torch.ops.aten

_WITH_INDICES = FLOAT | {torch.int64}
#: The largest window whose maximum is looked for element by element, to tell where it is.
MAX_WINDOW = 32


@op(aten.max_pool1d.default, dtypes=FLOAT)
def max_pool1d(
    net: Net, self: ITensor, kernel_size: Sequence[int], stride: Sequence[int] = (), padding: Sequence[int] = (0,),
    dilation: Sequence[int] = (1,), ceil_mode: bool = False,
) -> ITensor:  # fmt: skip
    """max_pool1d(Tensor self, int[1] kernel_size, int[1] stride=[], int[1] padding=[0], int[1] dilation=[1], bool ceil_mode=False) -> Tensor"""  # noqa: E501
    return _max_pool(net, self, net.out, kernel_size, stride, padding, dilation)


@op(aten.max_pool2d.default, aten.max_pool3d.default, dtypes=FLOAT)
def max_pool(
    net: Net, self: ITensor, kernel_size: Sequence[int], stride: Sequence[int] = (), padding: Sequence[int] = (0,),
    dilation: Sequence[int] = (1,), ceil_mode: bool = False,
) -> ITensor:  # fmt: skip
    """max_pool2d(Tensor self, int[2] kernel_size, int[2] stride=[], int[2] padding=0, int[2] dilation=1, bool ceil_mode=False) -> Tensor"""  # noqa: E501
    return _max_pool(net, self, net.out, kernel_size, stride, padding, dilation)


@op(aten.max_pool2d_with_indices.default, aten.max_pool3d_with_indices.default, dtypes=_WITH_INDICES)
def max_pool_with_indices(
    net: Net, self: ITensor, kernel_size: Sequence[int], stride: Sequence[int] = (), padding: Sequence[int] = (0,),
    dilation: Sequence[int] = (1,), ceil_mode: bool = False,
) -> tuple[Any, ...]:  # fmt: skip
    """max_pool2d_with_indices(Tensor self, int[2] kernel_size, int[2] stride=[], int[2] padding=0, int[2] dilation=1, bool ceil_mode=False) -> (Tensor, Tensor)"""  # noqa: E501
    rank, lead = len(kernel_size), len(self.shape) - len(kernel_size)
    strides, pads, steps = _each(stride or kernel_size, rank), _each(padding, rank), _each(dilation, rank)
    values = _max_pool(net, self, net.out[0], kernel_size, stride, padding, dilation)
    if math.prod(kernel_size) > MAX_WINDOW:
        return values, None
    return values, _places(net, self, net.out[0].shape[lead:], kernel_size, strides, pads, steps)


@op(aten.avg_pool1d.default, dtypes=FLOAT)
def avg_pool1d(
    net: Net, self: ITensor, kernel_size: Sequence[int], stride: Sequence[int] = (), padding: Sequence[int] = (0,),
    ceil_mode: bool = False, count_include_pad: bool = True,
) -> ITensor:  # fmt: skip
    """avg_pool1d(Tensor self, int[1] kernel_size, int[1] stride=[], int[1] padding=[0], bool ceil_mode=False, bool count_include_pad=True) -> Tensor"""  # noqa: E501
    return _avg_pool(net, self, kernel_size, stride, padding, count_include_pad, None)


@op(aten.avg_pool2d.default, aten.avg_pool3d.default, dtypes=FLOAT)
def avg_pool(
    net: Net, self: ITensor, kernel_size: Sequence[int], stride: Sequence[int] = (), padding: Sequence[int] = (0,),
    ceil_mode: bool = False, count_include_pad: bool = True, divisor_override: int | None = None,
) -> ITensor:  # fmt: skip
    """avg_pool2d(Tensor self, int[2] kernel_size, int[2] stride=[], int[2] padding=0, bool ceil_mode=False, bool count_include_pad=True, int? divisor_override=None) -> Tensor"""  # noqa: E501
    return _avg_pool(net, self, kernel_size, stride, padding, count_include_pad, divisor_override)


@op(
    aten.adaptive_avg_pool1d.default, aten.adaptive_avg_pool2d.default, aten.adaptive_avg_pool3d.default,
    aten._adaptive_avg_pool2d.default, aten._adaptive_avg_pool3d.default, dtypes=FLOAT,
)  # fmt: skip
def adaptive_avg_pool(net: Net, self: ITensor, output_size: Sequence[int]) -> ITensor:
    """adaptive_avg_pool2d(Tensor self, SymInt[2] output_size) -> Tensor"""
    lead = len(self.shape) - len(output_size)
    sizes = net.shape(self)[lead:]
    x = net.wide(self)
    if all(out == 1 for out in output_size):
        x = net.mean(x, range(lead, len(self.shape)), keepdim=True)
    elif all(size % out == 0 for size, out in zip(sizes, output_size, strict=True)):
        return _even(net, self, output_size, "AVERAGE")
    else:
        for index, out in enumerate(output_size):
            x = taps(net, x, lead + index, *_adapted(sizes[index], out))
    return net.cast(x, net.out.dtype)


@adaptive_avg_pool.unless
def _(self: torch.Tensor, output_size: Sequence[int]) -> Iterator[str]:
    if any(dynamic(size) or size != 1 for size in output_size):
        yield from _fixed_places(self)


def _some_windows(output_size: Sequence[int], **_: Any) -> Iterator[str]:
    if any(not dynamic(size) and size == 0 for size in output_size):
        yield "no windows: an empty tensor"


@op(aten.adaptive_max_pool2d.default, aten.adaptive_max_pool3d.default, dtypes=_WITH_INDICES)
def adaptive_max_pool(net: Net, self: ITensor, output_size: Sequence[int]) -> tuple[Any, ...]:
    """adaptive_max_pool2d(Tensor self, int[2] output_size) -> (Tensor, Tensor)"""
    lead = len(self.shape) - len(output_size)
    sizes = net.shape(self)[lead:]
    if all(size % out == 0 for size, out in zip(sizes, output_size, strict=True)):
        return _even(net, self, output_size, "MAX"), None
    x = self
    for index, out in enumerate(output_size):
        x = _maximum_of(net, x, lead + index, _adapted(sizes[index], out)[0])
    return x, None


def _float_only(self: torch.Tensor, **_: Any) -> Iterator[str]:
    if not self.is_floating_point():
        yield "pooling of integers"


def _fixed_places(self: torch.Tensor, **_: Any) -> Iterator[str]:
    if any(dynamic(size) for size in self.shape[1:]):
        yield "windows over dynamic sizes: these are converted for fixed ones, and any batch"


def _whole_windows(
    self: torch.Tensor, kernel_size: Sequence[int], padding: Sequence[int], ceil_mode: bool,
    dilation: Sequence[int] = (1,), count_include_pad: bool = True, divisor_override: int | None = None, **_: Any,
) -> Iterator[str]:  # fmt: skip
    if any(map(dynamic, self.shape[-len(kernel_size) :])):
        if ceil_mode:
            yield "ceil_mode over a dynamic size"
        if max(dilation) > 1:
            yield "dilated windows over a dynamic size"
        if max(padding) > 0 and not count_include_pad and divisor_override is None:
            yield "averages without the padding over a dynamic size"


def _written_out(kernel_size: Sequence[int], **_: Any) -> Iterator[str]:
    if len(kernel_size) == 1:
        yield "one kernel size for several dimensions"


def _some_inside(
    self: torch.Tensor, kernel_size: Sequence[int], stride: Sequence[int] = (), padding: Sequence[int] = (0,),
    dilation: Sequence[int] = (1,), ceil_mode: bool = False,
) -> Iterator[str]:  # fmt: skip
    rank = len(kernel_size)
    steps = zip(
        self.shape[-rank:], kernel_size, _each(stride or kernel_size, rank), _each(padding, rank),
        _each(dilation, rank), strict=False,
    )  # fmt: skip
    for size, kernel, step, pad, apart in steps:
        if not dynamic(size) and apart > 1:
            spare = size + 2 * pad - apart * (kernel - 1) - 1
            last = -(-spare // step) * step if ceil_mode else spare // step * step
            starts = [start for start in range(-pad, last - pad + 1, step) if start < size + pad]
            if any(all(not 0 <= start + k * apart < size for k in range(kernel)) for start in starts):
                yield "a window that is all padding"


for _one in (max_pool1d, max_pool, max_pool_with_indices, avg_pool1d, avg_pool, adaptive_avg_pool, adaptive_max_pool):
    _one.unless(Net.not_empty)
    _one.unless(_float_only)
for _one in (max_pool_with_indices, adaptive_max_pool):
    _one.unless(_fixed_places)
for _one in (max_pool1d, max_pool, avg_pool1d, avg_pool):
    _one.unless(_whole_windows)
for _one in (max_pool, max_pool_with_indices, avg_pool):
    _one.unless(_written_out)
for _one in (adaptive_avg_pool, adaptive_max_pool):
    _one.unless(_some_windows)
for _one in (max_pool1d, max_pool, max_pool_with_indices):
    _one.unless(_some_inside)


# ------------------------------------------------------------------------------------------------ windows


def _max_pool(
    net: Net, x: ITensor, out: torch.Tensor, kernel: Sequence[int], stride: Sequence[int], padding: Sequence[int],
    dilation: Sequence[int],
) -> ITensor:  # fmt: skip
    rank = len(kernel)
    strides, pads = _each(stride or kernel, rank), _each(padding, rank)
    # A window of one element has no step: RTX fails to build some graphs with the gather that one would make.
    steps = [d if k > 1 else 1 for d, k in zip(_each(dilation, rank), kernel, strict=True)]
    lead = len(out.shape) - rank
    if max(steps) == 1:
        return _layer(net, x, out.shape[lead:], kernel, strides, pads, "MAX")
    for index, (size, *rest) in enumerate(zip(out.shape[lead:], kernel, strides, pads, steps, strict=True)):
        x = _maximum_of(net, x, lead + index, _window(net.shape(x)[lead + index], size, *rest))
    return x


def _window(size: int, out: int, kernel: int, stride: int, pad: int, step: int) -> torch.Tensor:
    """``[out, kernel]``: the elements of each window; the nearest that is inside for one that is not."""
    places = (torch.arange(out) * stride - pad)[:, None] + torch.arange(kernel) * step
    inside = (places >= 0) & (places < size)
    first = inside.int().argmax(1, keepdim=True)
    taps = torch.arange(kernel).clamp(first, first + inside.sum(1, keepdim=True) - 1)
    return places.gather(1, taps)


def _places(
    net: Net, x: ITensor, out: Sequence[int], kernel: Sequence[int], stride: Sequence[int], padding: Sequence[int],
    dilation: Sequence[int],
) -> ITensor:  # fmt: skip
    """Where the maximum of each window is, as PyTorch counts: the first of equals, and the last NaN."""
    lead, sizes = list(net.shape(x)[: -len(out)]), net.shape(x)[-len(out) :]
    x = net.reshape(x, [-1, *sizes])
    windows = [_window(*one) for one in zip(sizes, out, kernel, stride, padding, dilation, strict=True)]
    reach = [(o - 1) * s + (k - 1) * d + 1 for o, s, k, d in zip(out, stride, kernel, dilation, strict=True)]
    if max(dilation) == 1:
        # What is padded repeats an edge that is in the window too.
        start = [0, *(-p for p in padding)]
        x = net.slice(x, start, [net.shape(x)[0], *reach], [1] * len(x.shape), trt.SampleMode.CLAMP)
    best, place = None, None
    for offset in itertools.product(*map(range, kernel)):
        value: Any = x
        if max(dilation) == 1:
            value = net.slice(x, [0, *offset], [net.shape(x)[0], *out], [1, *stride])
        at: Any = 0
        for axis, (window, tap) in enumerate(zip(windows, offset, strict=True)):
            along = window[:, tap].int().contiguous()
            if max(dilation) > 1:
                value = net.gather(value, net.constant(along), axis + 1)
            along = along * math.prod(sizes[axis + 1 :])
            at = net.add(net.constant(along.reshape([-1] + [1] * (len(out) - axis - 1))), at)
        if best is None:
            best, place = value, net.expand(at, net.shape(value))
            continue
        better = net.logical_or(net.greater(value, best), net.isnan(value))
        best, place = net.select(better, value, best), net.select(better, at, place)
    return net.cast(net.reshape(place, [*lead, *out]), torch.int64)


def _avg_pool(
    net: Net, x: ITensor, kernel: Sequence[int], stride: Sequence[int], padding: Sequence[int], include_pad: bool,
    divisor: int | None,
) -> ITensor:  # fmt: skip
    rank = len(kernel)
    strides, pads = _each(stride or kernel, rank), _each(padding, rank)
    lead = len(x.shape) - rank
    sizes, out = net.shape(x)[lead:], net.out.shape[lead:]
    fixed = [d for d in range(rank) if divisor is None and isinstance(sizes[d], int)]
    counts = {d: _counts(sizes[d], out[d], kernel[d], strides[d], pads[d], include_pad) for d in fixed}
    uneven = [d for d in fixed if bool((counts[d] != kernel[d]).any())]
    y = net.wide(x) if uneven or divisor else x
    y = _layer(net, y, out, kernel, strides, pads, "AVERAGE")
    for d in uneven:  # the layer divided by the size of the whole window
        y = net.mul(y, net.constant((kernel[d] / counts[d]).reshape([-1] + [1] * (rank - d - 1))))
    if divisor:
        y = net.mul(y, math.prod(kernel) / divisor)
    return net.cast(y, net.out.dtype)


def _counts(size: int, out: int, kernel: int, stride: int, pad: int, include_pad: bool) -> torch.Tensor:
    """How many elements each window averages in one dimension; those beyond the padding never count."""
    start = torch.arange(out, dtype=torch.float32) * stride - pad
    end = (start + kernel).clamp(max=size + pad if include_pad else size)
    return end - (start if include_pad else start.clamp(min=0))


def _layer(
    net: Net, x: ITensor, out: Sequence[int], kernel: Sequence[int], stride: Sequence[int], padding: Sequence[int],
    kind: str,
) -> ITensor:  # fmt: skip
    """A pooling layer over the last dimensions; an average counts all padding."""
    rank = len(kernel)
    if rank == 1 and tuple(out) == (1,) and isinstance(net.shape(x)[-1], int):
        # One window of a line: beside some products RTX builds no pooling of it.
        reduction, size = trt.ReduceOperation.MAX if kind == "MAX" else trt.ReduceOperation.AVG, kernel[0]
        length = min(size - padding[0], net.shape(x)[-1])
        y = net.reduce(reduction, net.wide(net.narrow(x, -1, 0, length)), [-1], keepdim=True)
        return net.cast(y if kind == "MAX" or length == size else net.mul(y, length / size), net.dtype(x))
    lead, sizes = list(net.shape(x)[:-rank]), net.shape(x)[-rank:]
    reach = [(o - 1) * s + k - p for o, s, k, p in zip(out, stride, kernel, padding, strict=True)]
    # Over a dynamic size they never do: there is no ceiling mode.
    if any(isinstance(size, int) and r > size + p for r, size, p in zip(reach, sizes, padding, strict=True)):
        # Past the symmetric padding. To repeat an edge changes no maximum: each window that is padded has that edge.
        start = [0] * len(lead) + [-p for p in padding]
        shape = lead + [p + max(r, size) for r, size, p in zip(reach, sizes, padding, strict=True)]
        mode = trt.SampleMode.CLAMP if kind == "MAX" else trt.SampleMode.FILL
        x, padding = net.slice(x, start, shape, [1] * len(shape), mode), [0] * rank
    line = [1] * (rank == 1)
    x = net.reshape(x, [-1, lead[-1], *line, *net.shape(x)[-rank:]])
    layer = net.network.add_pooling_nd(x, getattr(trt.PoolingType, kind), (*line, *kernel))
    if layer is not None:
        layer.stride_nd, layer.padding_nd = (*line, *stride), (*[0] * len(line), *padding)
        layer.average_count_excludes_padding = False
    made = net.keep(net.take(layer), [*net.shape(x)[:2], *line, *out])
    return net.reshape(made, [*lead, *out])


def _even(net: Net, x: ITensor, out: Sequence[int], kind: str) -> ITensor:
    """Windows of one size, side by side."""
    window = [size // o for size, o in zip(net.shape(x)[-len(out) :], out, strict=True)]
    return _layer(net, x, out, window, window, [0] * len(out), kind)


def _adapted(size: int, out: int) -> tuple[torch.Tensor, torch.Tensor]:
    """The elements of each adaptive window, and their weights in its mean. A shorter window repeats its first element,
    which shares its weight: one of 0 would make NaN of infinity."""
    starts = [i * size // out for i in range(out)]
    lengths = torch.tensor([-(-(i + 1) * size // out) - start for i, start in enumerate(starts)])[:, None]
    offsets = torch.arange(int(lengths.max()))
    offsets = offsets * (offsets < lengths)
    often = torch.where(offsets == 0, (offsets == 0).sum(1, keepdim=True), 1)
    return torch.tensor(starts)[:, None] + offsets, 1 / (lengths * often)


def _maximum_of(net: Net, x: ITensor, dim: int, indices: torch.Tensor) -> ITensor:
    """``out[i] = max over k of x[indices[i, k]]`` along ``dim``."""
    taps = [net.gather(x, net.constant(tap.to(torch.int32).contiguous()), dim) for tap in indices.unbind(1)]
    return functools.reduce(net.maximum, taps)


def _each(values: Sequence[int], rank: int) -> list[int]:
    """One number for each dimension; ATen also takes a single one for all."""
    return list(values) * rank if len(values) == 1 else list(values)
