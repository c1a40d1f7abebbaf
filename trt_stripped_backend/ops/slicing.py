"""Slices, diagonals, triangles and windows, and writing a slice back into its tensor."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch.fx.experimental.symbolic_shapes import statically_known_true

from ..flavour import trt
from ..sizes import dynamic
from .create import LITERAL_BYTES, iota
from .net import AnySize, Dim, ITensor, Net, Value
from .registry import op

aten = torch.ops.aten


def grid(net: Net, sizes: Sequence[AnySize], steps: Sequence[int], start: int = 0) -> ITensor:
    """``start + Σ iₖ · stepsₖ`` for all indices i below ``sizes``, as int32 of shape ``sizes``."""
    if not sizes:
        return net.constant(start, torch.int32)
    fixed = all(isinstance(v, int) for v in (*sizes, *steps, start))
    whole = fixed and math.prod(sizes) * torch.int32.itemsize <= LITERAL_BYTES
    total: Any = start
    for dim, (size, step) in enumerate(zip(sizes, steps, strict=True)):
        shape = [size if d == dim else 1 for d in range(len(sizes))]
        if whole:
            total = total + torch.arange(size, dtype=torch.int32).mul(step).reshape(shape)
        else:
            along = net.reshape(iota(net, size, torch.int32, 0 if dim else start, step), shape)
            total = net.add(total, along) if dim else along
    return net.constant(total) if whole else total


def bounds(size: int, start: int | None, end: int | None, step: int) -> range:
    """The positions that a slice takes in a dimension of this size."""
    return range(size)[start:end:step]


@op(aten.slice.Tensor)
def slice_(
    net: Net, self: ITensor, dim: int = 0, start: AnySize = None, end: AnySize = None, step: int = 1
) -> ITensor:
    """slice.Tensor(Tensor(a) self, int dim=0, SymInt? start=None, SymInt? end=None, SymInt step=1) -> Tensor(a)"""
    size = net.shape(self)[dim]
    first: AnySize
    count: AnySize
    if all(v is None or isinstance(v, int) for v in (size, start, end)):
        taken = bounds(size, start, end, step)
        first, count = taken.start, len(taken)
    else:
        # How many are taken, PyTorch has worked out; a start beyond the end takes none, wherever it points.
        first = 0 if start is None else start if isinstance(start, Dim) or start >= 0 else size + start
        count = net.out.shape[dim]
    if step > 1 and (isinstance(count, Dim) or count > 1) and net.strided():
        return net.gather(self, iota(net, count, torch.int32, first, step), dim)
    return net.narrow(self, dim, first, count, step)


@slice_.unless
def _(
    self: torch.Tensor, dim: int = 0, start: Any = None, end: Any = None, step: int = 1
) -> Iterator[str]:
    size = self.shape[dim]
    if dynamic(start) and not statically_known_true(start >= 0):
        yield "a slice from a dynamic start that may be negative"
    elif isinstance(start, int) and start < 0 and dynamic(size) and not statically_known_true(size >= -start):
        yield "a slice from the end of what may be too short"


@op(aten.select.int)
def select(net: Net, self: ITensor, dim: int, index: AnySize) -> ITensor:
    """select.int(Tensor(a) self, int dim, SymInt index) -> Tensor(a)"""
    size = net.shape(self)[dim]
    return net.squeeze(net.narrow(self, dim, index if isinstance(index, Dim) or index >= 0 else size + index, 1), dim)


@select.unless
def _(self: torch.Tensor, dim: int, index: Any) -> Iterator[str]:
    if dynamic(index) and not statically_known_true(index >= 0):
        yield "a dynamic index that may be negative"


def _replace(net: Net, self: ITensor, src: ITensor, dim: int, taken: range) -> ITensor:
    """``self`` with ``src`` in place of the positions ``taken`` of ``dim``."""
    size, dim = net.shape(self)[dim], dim % len(self.shape)
    src = net.cast(src, net.dtype(self))
    if len(taken) == 1:
        taken = range(taken.start, taken.start + 1)
    if taken.step == 1:
        parts = [net.narrow(self, dim, 0, taken.start)] if taken.start else []
        parts.append(src)
        if taken.stop < size:
            parts.append(net.narrow(self, dim, taken.stop, size - taken.stop))
        return net.cat(parts, dim)
    nearest = [min(max((i - taken.start) // taken.step, 0), len(taken) - 1) for i in range(size)]
    spread = net.gather(src, net.constant(nearest, torch.int32), dim)
    shape = [size if d == dim else 1 for d in range(len(self.shape))]
    mask = net.constant(torch.tensor([i in taken for i in range(size)]).reshape(shape))
    return net.select(mask, spread, self)


@op(aten.slice_scatter.default)
def slice_scatter(
    net: Net,
    self: ITensor,
    src: ITensor,
    dim: int = 0,
    start: int | None = None,
    end: int | None = None,
    step: int = 1,
) -> ITensor:
    """slice_scatter(Tensor self, Tensor src, int dim=0, SymInt? start=None, SymInt? end=None, SymInt step=1)
    -> Tensor"""
    return _replace(net, self, src, dim, bounds(net.shape(self)[dim], start, end, step))


@slice_scatter.unless
def _(
    self: torch.Tensor, src: torch.Tensor, dim: int = 0, start: Any = None, end: Any = None, step: int = 1
) -> Iterator[str]:
    yield from Net.fixed_along(self, dim, numbers=(start, end, step))


@op(aten.select_scatter.default)
def select_scatter(net: Net, self: ITensor, src: ITensor, dim: int, index: int) -> ITensor:
    """select_scatter(Tensor self, Tensor src, int dim, SymInt index) -> Tensor"""
    at = index % net.shape(self)[dim]
    return _replace(net, self, net.unsqueeze(src, dim % len(self.shape)), dim, range(at, at + 1))


@select_scatter.unless
def _(self: torch.Tensor, src: torch.Tensor, dim: int, index: Any) -> Iterator[str]:
    yield from Net.fixed_along(self, dim, numbers=(index,))


def _diagonal_last(rank: int, dim1: int, dim2: int) -> list[int]:
    """The permutation that puts the two dimensions of a diagonal last."""
    pair = [dim1 % rank, dim2 % rank]
    return [d for d in range(rank) if d not in pair] + pair


def _set_diagonal(net: Net, base: Value, src: ITensor, rows: int, columns: int, offset: int) -> ITensor:
    """Matrices ``base`` (a scalar stands for matrices full of it) with ``src`` ``[..., length]`` on a diagonal."""
    length, lead = net.shape(src)[-1], list(net.shape(src)[:-1])
    # The k-th element belongs to row k of an upper diagonal, to column k of a lower one; what lies beyond is masked.
    size = rows if offset >= 0 else columns
    if length != size:
        ones = [1] * len(src.shape)
        src = net.slice(src, [0] * len(ones), [*lead, size], ones, trt.SampleMode.CLAMP)
    src = net.reshape(src, [*lead, rows, 1] if offset >= 0 else [*lead, 1, columns])
    return net.select(net.equal(grid(net, [rows, columns], [-1, 1]), offset), src, base, net.dtype(src))


@op(aten.diagonal.default)
def diagonal(net: Net, self: ITensor, offset: int = 0, dim1: int = 0, dim2: int = 1) -> ITensor:
    """diagonal(Tensor(a) self, int offset=0, int dim1=0, int dim2=1) -> Tensor(a)"""
    x = net.permute(self, _diagonal_last(len(self.shape), dim1, dim2))
    *lead, rows, columns = net.shape(x)
    start = offset if offset >= 0 else -offset * columns
    return net.narrow(net.reshape(x, [*lead, rows * columns]), -1, start, net.out.shape[-1], columns + 1)


@diagonal.unless
def _(self: torch.Tensor, offset: int = 0, dim1: int = 0, dim2: int = 1) -> Iterator[str]:
    fixed = yield from Net.fixed_along(self, dim1, dim2)
    if fixed and not -self.shape[dim1] < offset < self.shape[dim2]:
        yield "an empty diagonal"


@op(aten.diagonal_scatter.default)
def diagonal_scatter(net: Net, self: ITensor, src: ITensor, offset: int = 0, dim1: int = 0, dim2: int = 1) -> ITensor:
    """diagonal_scatter(Tensor self, Tensor src, int offset=0, int dim1=0, int dim2=1) -> Tensor"""
    order = _diagonal_last(len(self.shape), dim1, dim2)
    x = net.permute(self, order)
    out = _set_diagonal(net, x, net.cast(src, net.dtype(self)), net.shape(x)[-2], net.shape(x)[-1], offset)
    return net.permute(out, [order.index(d) for d in range(len(order))])


@diagonal_scatter.unless
def _(self: torch.Tensor, src: torch.Tensor, offset: int = 0, dim1: int = 0, dim2: int = 1) -> Iterator[str]:
    yield from Net.fixed_along(self, dim1, dim2)


@op(aten.diag_embed.default)
def diag_embed(net: Net, self: ITensor, offset: int = 0, dim1: int = -2, dim2: int = -1) -> ITensor:
    """diag_embed(Tensor self, int offset=0, int dim1=-2, int dim2=-1) -> Tensor"""
    order, size = _diagonal_last(len(self.shape) + 1, dim1, dim2), net.shape(self)[-1] + abs(offset)
    out = _set_diagonal(net, 0, self, size, size, offset)
    return net.permute(out, [order.index(d) for d in range(len(order))])


@diag_embed.unless
def _(self: torch.Tensor, offset: int = 0, dim1: int = -2, dim2: int = -1) -> Iterator[str]:
    yield from Net.fixed_along(self, -1)


def _only(net: Net, keep: ITensor, x: ITensor) -> ITensor:
    """``x`` where ``keep`` holds, else 0. Bool by logic: TensorRT-RTX cannot build a choice between constant bools."""
    return net.logical_and(keep, x) if net.dtype(x) == torch.bool else net.select(keep, x, 0, net.dtype(x))


@op(aten.tril.default)
def tril(net: Net, self: ITensor, diagonal: int = 0) -> ITensor:
    """tril(Tensor self, SymInt diagonal=0) -> Tensor"""
    return _only(net, net.less(grid(net, net.shape(self)[-2:], [-1, 1]), diagonal + 1), self)


@op(aten.triu.default)
def triu(net: Net, self: ITensor, diagonal: int = 0) -> ITensor:
    """triu(Tensor self, SymInt diagonal=0) -> Tensor"""
    return _only(net, net.greater(grid(net, net.shape(self)[-2:], [-1, 1]), diagonal - 1), self)


@op(aten.unfold.default)
def unfold(net: Net, self: ITensor, dimension: int, size: int, step: int) -> ITensor:
    """unfold(Tensor(a) self, int dimension, int size, int step) -> Tensor(a)"""
    if not len(self.shape):
        return net.reshape(self, [1])
    dim = dimension % len(self.shape)
    count = net.out.shape[dim]
    if step == size or count == 1:  # windows that do not overlap are a view
        x = net.narrow(self, dim, 0, count * size)
        x = net.reshape(x, [*net.shape(self)[:dim], count, size, *net.shape(self)[dim + 1 :]])
    else:
        x = net.gather(self, grid(net, [count, size], [step, 1]), dim)
    order = [d for d in range(len(x.shape)) if d != dim + 1]
    return net.permute(x, [*order, dim + 1])


@unfold.unless
def _(self: torch.Tensor, dimension: int, size: int, step: int) -> Iterator[str]:
    yield from Net.fixed_along(self, dimension)
    if not size:
        yield "empty windows"


@op(aten.as_strided.default)
def as_strided(
    net: Net, self: ITensor, size: Sequence[int], stride: Sequence[int], storage_offset: int | None = None
) -> ITensor:
    """as_strided(Tensor(a) self, SymInt[] size, SymInt[] stride, SymInt? storage_offset=None) -> Tensor(a)"""
    flat = net.reshape(self, [-1])
    return net.gather(flat, grid(net, size, stride, storage_offset or 0), 0)


@as_strided.unless
def _(
    self: torch.Tensor, size: Sequence[int], stride: Sequence[int], storage_offset: int | None = None
) -> Iterator[str]:
    if 0 in size:
        yield "an empty tensor"
    elif not self.is_contiguous() or self.storage_offset():
        yield "as_strided of a tensor that is not contiguous: TensorRT knows no strides"
    elif (storage_offset or 0) + sum((n - 1) * s for n, s in zip(size, stride, strict=True)) >= self.numel():
        yield "as_strided reaches beyond its tensor into the memory around it"


for _op in (slice_scatter, select_scatter, diagonal, diagonal_scatter, diag_embed, tril, triu, unfold, as_strided):
    _op.unless(Net.not_empty)
as_strided.unless(Net.fixed_sizes)
