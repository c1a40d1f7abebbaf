"""Tensors made from nothing: literals where they are small, layers that compute them where they are not."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import torch

from ..flavour import trt
from ..sizes import alike
from .net import INT, AnySize, Dim, ITensor, Net, Scalar
from .registry import op

aten = torch.ops.aten

#: Literals above this many bytes would fill the plan, and the cache with it.
LITERAL_BYTES = 16 * 1024


def iota(net: Net, count: AnySize, dtype: torch.dtype, start: Any = 0, step: Any = 1) -> ITensor:
    """``start + i · step`` for i below ``count``, of type int32, int64 or float32."""
    known = all(isinstance(v, (int, float)) for v in (count, start, step))
    if known and count * dtype.itemsize <= LITERAL_BYTES:
        exact = torch.int64 if dtype in INT else torch.float64
        return net.constant((start + step * torch.arange(count, dtype=exact)).to(dtype))
    dynamic = isinstance(count, Dim)
    layer = net.network.add_fill((1 if dynamic else count,), trt.FillOperation.LINSPACE, trt.DataType.INT64)
    if layer is not None and dynamic:
        layer.set_input(0, net.shape_tensor([count]))
    if layer is not None:
        layer.set_input(1, net.constant(0, torch.int64))
        layer.set_input(2, net.constant([1], torch.int64))
    index = net.keep(net.take(layer), [count])
    # Integers count exactly and floats do not: the fill counts, the arithmetic is PyTorch's.
    scaled = net.cast(index, dtype) if alike([step], [1]) else net.mul(net.cast(index, dtype), step)
    return scaled if alike([start], [0]) else net.cast(net.add(scaled, start), dtype)


@op(aten.arange.start_step)
def arange(net: Net, start: Any, end: Any, step: Any = 1, dtype: Any = None) -> ITensor:
    """arange.start_step(Scalar start, Scalar end, Scalar step=1, *, ScalarType? dtype=None, Layout? layout=None,
    Device? device=None, bool? pin_memory=None) -> Tensor"""
    made = net.out.dtype if net.out.dtype in INT else torch.float32
    if made in INT:  # as PyTorch, which converts the ends before it counts
        start, step = (v if isinstance(v, Dim) else int(v) for v in (start, step))
    return net.cast(iota(net, net.out.shape[0], made, start, step), net.out.dtype)


@op(aten.full.default)
def full(net: Net, size: Sequence[int], fill_value: Scalar | Dim, dtype: Any = None) -> ITensor:
    """full(SymInt[] size, Scalar fill_value, *, ScalarType? dtype=None, Layout? layout=None, Device? device=None,
    bool? pin_memory=None) -> Tensor"""
    return net.full(size, fill_value, net.out.dtype)


@op(aten.full_like.default)
def full_like(net: Net, self: ITensor, fill_value: Scalar | Dim, dtype: Any = None) -> ITensor:
    """full_like(Tensor self, Scalar fill_value, *, ScalarType? dtype=None, Layout? layout=None, Device? device=None,
    bool? pin_memory=None, MemoryFormat? memory_format=None) -> Tensor"""
    return net.full(net.out.shape, fill_value, net.out.dtype)


@op(aten.scalar_tensor.default)
def scalar_tensor(net: Net, s: Scalar | Dim, dtype: Any = None) -> ITensor:
    """scalar_tensor(Scalar s, *, ScalarType? dtype=None, Layout? layout=None, Device? device=None,
    bool? pin_memory=None) -> Tensor"""
    return net.cast(s, net.out.dtype)


@op(aten.empty.memory_format)
def empty(net: Net, size: Sequence[int], dtype: Any = None) -> ITensor:
    """empty.memory_format(SymInt[] size, *, ScalarType? dtype=None, Layout? layout=None, Device? device=None,
    bool? pin_memory=None, MemoryFormat? memory_format=None) -> Tensor"""
    return net.full(size, 0, net.out.dtype)


@op(aten.empty_strided.default)
def empty_strided(net: Net, size: Sequence[int], stride: Sequence[int], dtype: Any = None) -> ITensor:
    """empty_strided(SymInt[] size, SymInt[] stride, *, ScalarType? dtype=None, Layout? layout=None,
    Device? device=None, bool? pin_memory=None) -> Tensor"""
    return net.full(size, 0, net.out.dtype)


@op(aten.empty_permuted.default)
def empty_permuted(net: Net, size: Sequence[int], physical_layout: Sequence[int], dtype: Any = None) -> ITensor:
    """empty_permuted(SymInt[] size, int[] physical_layout, *, ScalarType? dtype=None, Layout? layout=None,
    Device? device=None, bool? pin_memory=None) -> Tensor"""
    return net.full(size, 0, net.out.dtype)


@op(aten.new_empty_strided.default)
def new_empty_strided(
    net: Net, self: ITensor, size: Sequence[int], stride: Sequence[int], dtype: Any = None
) -> ITensor:
    """new_empty_strided(Tensor self, SymInt[] size, SymInt[] stride, *, ScalarType? dtype=None, Layout? layout=None,
    Device? device=None, bool? pin_memory=None) -> Tensor"""
    return net.full(size, 0, net.out.dtype)


@op(aten.tril_indices.default)
def tril_indices(net: Net, row: int, col: int, offset: int = 0, dtype: Any = None) -> ITensor:
    """tril_indices(int row, int col, int offset=0, *, ScalarType? dtype=4, Layout? layout=None, Device? device=None,
    bool? pin_memory=None) -> Tensor"""
    return net.constant(torch.tril_indices(row, col, offset, dtype=net.out.dtype))


@op(aten.triu_indices.default)
def triu_indices(net: Net, row: int, col: int, offset: int = 0, dtype: Any = None) -> ITensor:
    """triu_indices(int row, int col, int offset=0, *, ScalarType? dtype=4, Layout? layout=None, Device? device=None,
    bool? pin_memory=None) -> Tensor"""
    return net.constant(torch.triu_indices(row, col, offset, dtype=net.out.dtype))


def _too_large(row: int, col: int, offset: int = 0, dtype: Any = None) -> Iterator[str]:
    if 2 * row * col * 8 > LITERAL_BYTES:
        yield f"the indices of a {row} by {col} triangle, too many for a literal"


for _one in (tril_indices, triu_indices):
    _one.unless(Net.fixed_sizes)
tril_indices.unless(_too_large)
triu_indices.unless(_too_large)
