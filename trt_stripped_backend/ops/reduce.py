"""Reductions, the positions of extremes, and running sums and products.

TensorRT does not say what its maximum and minimum make of NaN; a float reduction by them here is as exact as that.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Iterator, Sequence
from typing import Any

import torch

from ..errors import Unsupported
from ..flavour import trt
from .create import LITERAL_BYTES, iota
from .net import BOOL, FLOAT, Dim, ITensor, Net, Scalar
from .registry import Ops, op

aten = torch.ops.aten
Dims = int | Sequence[int] | None
#: Where all pairs of rows are compared: the most elements.
PAIRS = 1 << 24


def dims_of(x: Any, dim: Dims) -> list[int]:
    """The dimensions to reduce: None and the empty list mean all, and a 0-d tensor has none."""
    if isinstance(dim, int):
        dim = [dim]
    if not len(x.shape):
        return []
    return list(dim) if dim else list(range(len(x.shape)))


def _not_empty(self: torch.Tensor, *_: Any, **__: Any) -> Iterator[str]:
    if self.numel() == 0:
        yield "a reduction of no elements"


def _wide_reduce(net: Net, kind: Any, x: ITensor, dim: Dims, keepdim: bool) -> ITensor:
    """In the output's type; float16 and bfloat16 accumulate in float32."""
    out = net.out.dtype
    return net.cast(net.reduce(kind, net.wide(net.cast(x, out)), dims_of(x, dim), keepdim), out)


@op(aten.sum.dim_IntList)
def sum_(net: Net, self: ITensor, dim: Dims, keepdim: bool = False, dtype: Any = None) -> ITensor:
    """sum.dim_IntList(Tensor self, int[1]? dim, bool keepdim=False, *, ScalarType? dtype=None) -> Tensor"""
    return _wide_reduce(net, trt.ReduceOperation.SUM, self, dim, keepdim)


@op(aten.mean.dim)
def mean(net: Net, self: ITensor, dim: Dims, keepdim: bool = False, dtype: Any = None) -> ITensor:
    """mean.dim(Tensor self, int[1]? dim, bool keepdim=False, *, ScalarType? dtype=None) -> Tensor"""
    return _wide_reduce(net, trt.ReduceOperation.AVG, self, dim, keepdim)


@op(aten.mean.default)
def mean_all(net: Net, self: ITensor, dtype: Any = None) -> ITensor:
    """mean(Tensor self, *, ScalarType? dtype=None) -> Tensor"""
    return _wide_reduce(net, trt.ReduceOperation.AVG, self, None, False)


@op(aten.prod.default)
def prod_all(net: Net, self: ITensor, dtype: Any = None) -> ITensor:
    """prod(Tensor self, *, ScalarType? dtype=None) -> Tensor"""
    return _wide_reduce(net, trt.ReduceOperation.PROD, self, None, False)


@op(aten.prod.dim_int)
def prod(net: Net, self: ITensor, dim: int, keepdim: bool = False, dtype: Any = None) -> ITensor:
    """prod.dim_int(Tensor self, int dim, bool keepdim=False, *, ScalarType? dtype=None) -> Tensor"""
    return _wide_reduce(net, trt.ReduceOperation.PROD, self, dim, keepdim)


# ------------------------------------------------------------------------------------------------ variance


def _var_mean(net: Net, x: ITensor, dim: Dims, correction: Scalar | None, keepdim: bool) -> tuple[ITensor, ITensor]:
    """In the type to compute in, from the squared distances to the mean: one pass over the squares would cancel."""
    x, dims = net.wide(x), dims_of(x, dim)
    average = net.mean(x, dims, keepdim=True)
    distance = net.sub(x, average)
    total = net.reduce(trt.ReduceOperation.SUM, net.mul(distance, distance), dims, keepdim)
    count: Any = math.prod(net.shape(x)[d] for d in dims)
    less = 1 if correction is None else correction
    freedom = net.sub(net.cast(count, net.dtype(x)), less) if isinstance(count, Dim) else float(max(count - less, 0))
    variance = net.div(total, freedom)
    return variance, average if keepdim else net.reshape(average, tuple(net.shape(total)))


@op(aten.var.correction, dtypes=FLOAT)
def var(net: Net, self: ITensor, dim: Dims = None, correction: Scalar | None = None, keepdim: bool = False) -> ITensor:
    """var.correction(Tensor self, int[1]? dim=None, *, Scalar? correction=None, bool keepdim=False) -> Tensor"""
    return net.cast(_var_mean(net, self, dim, correction, keepdim)[0], net.out.dtype)


@op(aten.std.correction, dtypes=FLOAT)
def std(net: Net, self: ITensor, dim: Dims = None, correction: Scalar | None = None, keepdim: bool = False) -> ITensor:
    """std.correction(Tensor self, int[1]? dim=None, *, Scalar? correction=None, bool keepdim=False) -> Tensor"""
    return net.cast(net.sqrt(_var_mean(net, self, dim, correction, keepdim)[0]), net.out.dtype)


@op(aten.var_mean.correction, dtypes=FLOAT)
def var_mean(
    net: Net, self: ITensor, dim: Dims = None, correction: Scalar | None = None, keepdim: bool = False
) -> tuple[ITensor, ...]:
    """var_mean.correction(Tensor self, int[1]? dim=None, *, Scalar? correction=None, bool keepdim=False)
    -> (Tensor, Tensor)"""
    made = _var_mean(net, self, dim, correction, keepdim)
    return tuple(net.cast(value, fake.dtype) for value, fake in zip(made, net.out, strict=True))


# ------------------------------------------------------------------------------------------------ extremes


def _extreme(net: Net, kind: Any, x: ITensor, dims: Sequence[int], keepdim: bool) -> ITensor:
    """Exact in every type; bool, which TensorRT does not reduce, as int32. A NaN, which TensorRT drops, wins.

    Those of half types are float32's: of bfloat16 rows of two to four elements that another reduction made, as in
    ``y - y.amax(-1, keepdim=True)`` of ``y = x - x.mean(-1, keepdim=True)``, RTX 1.6.1 makes wrong ones (63 of 1,176
    pairs of reductions).
    """
    if net.dtype(x) in BOOL:
        return net.cast(net.reduce(kind, net.cast(x, torch.int32), dims, keepdim), torch.bool)
    extreme, shape = net.cast(net.reduce(kind, net.wide(x), dims, keepdim), net.dtype(x)), net.shape(x)
    if net.dtype(x) not in FLOAT or not shape or all(shape[d] == 1 for d in dims):
        return extreme
    some = net.reduce(trt.ReduceOperation.MAX, net.cast(net.isnan(x), torch.int32), dims, keepdim)
    return net.select(net.greater(some, 0), math.nan, extreme, net.dtype(x))


def _position(net: Net, kind: Any, x: ITensor, dim: int) -> ITensor:
    """Where the first extreme (or NaN) along a dimension is, which stays with size 1. int64.

    TopK would not say which of several equal elements it takes, and PyTorch takes the first. Other dimensions of one
    element are left out meanwhile: of a product ``[1, 3, 4, 4]`` RTX 1.7 does not build this.
    """
    x = net.cast(x, torch.int32) if net.dtype(x) in BOOL else x
    shape, size, dim = net.shape(x), net.shape(x)[dim], dim % len(x.shape)
    kept = [d for d, s in enumerate(shape) if d == dim or isinstance(s, Dim) or s != 1]
    x, at = net.once(net.reshape(x, [shape[d] for d in kept])), kept.index(dim)
    hit = net.equal(x, _extreme(net, kind, x, [at], True))  # a NaN equals nothing, so only NaNs are hit then
    if net.dtype(x) in FLOAT:
        hit = net.logical_or(hit, net.isnan(x))
    place = [size if d == dim else 1 for d in kept]
    index = net.select(hit, net.reshape(iota(net, size, torch.int32), place), size - 1, torch.int32)
    index = net.cast(net.reduce(trt.ReduceOperation.MIN, index, [at], keepdim=True), torch.int64)
    return net.reshape(index, [1 if d == dim else s for d, s in enumerate(shape)])


def _extreme_of_dim(net: Net, kind: Any, x: ITensor, dim: int, keepdim: bool) -> tuple[ITensor, ITensor]:
    if not len(x.shape):
        return _extreme(net, kind, x, [dim], keepdim), net.constant(0, torch.int64)
    x = net.once(x)
    value = _extreme(net, kind, x, [dim], keepdim)
    return value, net.reshape(_position(net, kind, x, dim), tuple(net.shape(value)))


@op(aten.max.default)
def max_all(net: Net, self: ITensor) -> ITensor:
    """max(Tensor self) -> Tensor"""
    return _extreme(net, trt.ReduceOperation.MAX, self, dims_of(self, None), False)


@op(aten.min.default)
def min_all(net: Net, self: ITensor) -> ITensor:
    """min(Tensor self) -> Tensor"""
    return _extreme(net, trt.ReduceOperation.MIN, self, dims_of(self, None), False)


@op(aten.amax.default)
def amax(net: Net, self: ITensor, dim: Dims = (), keepdim: bool = False) -> ITensor:
    """amax(Tensor self, int[1] dim=[], bool keepdim=False) -> Tensor"""
    return _extreme(net, trt.ReduceOperation.MAX, self, dims_of(self, dim), keepdim)


@op(aten.amin.default)
def amin(net: Net, self: ITensor, dim: Dims = (), keepdim: bool = False) -> ITensor:
    """amin(Tensor self, int[1] dim=[], bool keepdim=False) -> Tensor"""
    return _extreme(net, trt.ReduceOperation.MIN, self, dims_of(self, dim), keepdim)


@op(aten.max.dim)
def max_dim(net: Net, self: ITensor, dim: int, keepdim: bool = False) -> tuple[ITensor, ITensor]:
    """max.dim(Tensor self, int dim, bool keepdim=False) -> (Tensor values, Tensor indices)"""
    return _extreme_of_dim(net, trt.ReduceOperation.MAX, self, dim, keepdim)


@op(aten.min.dim)
def min_dim(net: Net, self: ITensor, dim: int, keepdim: bool = False) -> tuple[ITensor, ITensor]:
    """min.dim(Tensor self, int dim, bool keepdim=False) -> (Tensor values, Tensor indices)"""
    return _extreme_of_dim(net, trt.ReduceOperation.MIN, self, dim, keepdim)


def _arg(net: Net, kind: Any, x: ITensor, dim: int | None) -> ITensor:
    if not len(x.shape):
        return net.constant(0, torch.int64)
    flat = net.reshape(x, [-1]) if dim is None else x
    return net.reshape(_position(net, kind, flat, dim or 0), net.out.shape)


@op(aten.argmax.default)
def argmax(net: Net, self: ITensor, dim: int | None = None, keepdim: bool = False) -> ITensor:
    """argmax(Tensor self, int? dim=None, bool keepdim=False) -> Tensor"""
    return _arg(net, trt.ReduceOperation.MAX, self, dim)


@op(aten.argmin.default)
def argmin(net: Net, self: ITensor, dim: int | None = None, keepdim: bool = False) -> ITensor:
    """argmin(Tensor self, int? dim=None, bool keepdim=False) -> Tensor"""
    return _arg(net, trt.ReduceOperation.MIN, self, dim)


@op(aten.any.default)
def any_all(net: Net, self: ITensor) -> ITensor:
    """any(Tensor self) -> Tensor"""
    return _extreme(net, trt.ReduceOperation.MAX, net.cast(self, torch.bool), dims_of(self, None), False)


@op(aten.any.dim, aten.any.dims)
def any_(net: Net, self: ITensor, dim: Dims = None, keepdim: bool = False) -> ITensor:
    """any.dim(Tensor self, int dim, bool keepdim=False) -> Tensor
    any.dims(Tensor self, int[]? dim=None, bool keepdim=False) -> Tensor"""
    # Here an empty list means no dimension, unlike everywhere else.
    dims = [] if isinstance(dim, Sequence) and not dim else dims_of(self, dim)
    return _extreme(net, trt.ReduceOperation.MAX, net.cast(self, torch.bool), dims, keepdim)


# ------------------------------------------------------------------------------------------------ norms


@op(aten.linalg_vector_norm.default, dtypes=FLOAT)
def linalg_vector_norm(
    net: Net, self: ITensor, ord: Scalar = 2, dim: Dims = None, keepdim: bool = False, dtype: Any = None
) -> ITensor:
    """linalg_vector_norm(Tensor self, Scalar ord=2, int[1]? dim=None, bool keepdim=False, *, ScalarType? dtype=None)
    -> Tensor"""
    x = net.wide(net.cast(self, net.out.dtype))
    return net.cast(vector_norm(net, x, ord, dims_of(self, dim), keepdim), net.out.dtype)


def vector_norm(net: Net, x: ITensor, ord: Scalar, dims: Sequence[int], keepdim: bool = False) -> ITensor:
    """``(Σ |x|^ord)^(1/ord)``; the largest or smallest size for an infinite ``ord``, the count of non-zeros for 0."""
    reduce = functools.partial(net.reduce, dims=dims, keepdim=keepdim)
    size = net.unary(trt.UnaryOperation.ABS, x)
    if math.isinf(ord):
        return _extreme(net, trt.ReduceOperation.MAX if ord > 0 else trt.ReduceOperation.MIN, size, dims, keepdim)
    if ord == 0:
        return reduce(trt.ReduceOperation.SUM, net.cast(net.cast(x, torch.bool), net.dtype(x)))
    if ord == 1:
        return reduce(trt.ReduceOperation.SUM, size)
    if ord == 2:
        return net.sqrt(reduce(trt.ReduceOperation.SUM, net.mul(x, x)))
    return net.pow(reduce(trt.ReduceOperation.SUM, net.pow(size, float(ord))), 1 / ord)


def _distances(net: Net, a: ITensor, b: ITensor, p: float) -> ITensor:
    """Of each row of ``a`` ``[…, m, k]`` to each of ``b`` ``[…, n, k]``."""
    return vector_norm(net, net.sub(net.unsqueeze(net.wide(a), -2), net.unsqueeze(net.wide(b), -3)), p, [-1])


@op(aten._cdist_forward.default, dtypes=FLOAT)
def _cdist_forward(net: Net, x1: ITensor, x2: ITensor, p: float, compute_mode: int | None) -> ITensor:
    """_cdist_forward(Tensor x1, Tensor x2, float p, int? compute_mode) -> Tensor"""
    return net.cast(_distances(net, x1, x2, p), net.out.dtype)


@_cdist_forward.unless
def _(x1: torch.Tensor, x2: torch.Tensor, p: float, compute_mode: int | None) -> Iterator[str]:
    if max(x1.ndim, x2.ndim) > 7:
        yield "distances of tensors of rank 8: their differences have one dimension more, and TensorRT holds 8"
    if x1.numel() * x2.shape[-2] > PAIRS:
        yield f"distances of {x1.shape[-2]} rows to {x2.shape[-2]}: their differences would take too much memory"


@op(aten._pdist_forward.default, dtypes=FLOAT)
def _pdist_forward(net: Net, self: ITensor, p: float = 2) -> ITensor:
    """_pdist_forward(Tensor self, float p=2.) -> Tensor"""
    rows = net.shape(self)[0]
    row, column = torch.triu_indices(rows, rows, 1)
    places = net.constant((row * rows + column).int())
    return net.cast(net.gather(net.reshape(_distances(net, self, self, p), [-1]), places, 0), net.out.dtype)


@_pdist_forward.unless
def _(self: torch.Tensor, p: float = 2) -> Iterator[str]:
    if self.shape[0] < 2:
        yield "distances of fewer than two rows"
    if self.shape[0] ** 2 * 2 > LITERAL_BYTES:
        yield f"distances among {self.shape[0]} rows: their places are too many for a literal"


for _distance in (_cdist_forward, _pdist_forward):
    _distance.unless(Net.not_empty)
    _distance.unless(Net.fixed_sizes)


# ------------------------------------------------------------------------------------------------ running


@op(aten.cumsum.default, refittable=False)
def cumsum(net: Net, self: ITensor, dim: int, dtype: Any = None) -> ITensor:
    """cumsum(Tensor self, int dim, *, ScalarType? dtype=None) -> Tensor"""
    x = net.wide(net.cast(self, net.out.dtype))
    return net.cast(running_sum(net, x, dim) if len(x.shape) else x, net.out.dtype)


def running_sum(net: Net, x: ITensor, dim: int) -> ITensor:
    """The sum of each element of a tensor of rank ≥ 1 and those before it."""
    if not (hasattr(net.network, "add_cumulative") and hasattr(trt, "CumulativeOperation")):
        raise Unsupported(f"cumsum: {net.flavour} has no layer for it; TensorRT 10.8 is the first that does")
    axis = net.constant(dim % len(x.shape), torch.int32)
    layer = net.network.add_cumulative(x, axis, trt.CumulativeOperation.SUM, False, False)
    return net.keep(net.take(layer), net.shape(x))


@op(aten.cumprod.default, refittable=False)
def cumprod(net: Net, self: ITensor, dim: int, dtype: Any = None) -> ITensor:
    """cumprod(Tensor self, int dim, *, ScalarType? dtype=None) -> Tensor"""
    x = net.wide(net.cast(self, net.out.dtype))
    size, reach = (net.shape(x)[dim], 1) if len(x.shape) else (1, 1)
    # After each step an element holds the product of the last 2 · reach ones (Hillis and Steele).
    while reach < size:
        shape = list(net.shape(x))
        shape[dim] = reach
        shifted = net.cat([net.full(shape, 1, net.dtype(x)), net.narrow(x, dim, 0, size - reach)], dim)
        x, reach = net.mul(x, shifted), 2 * reach
    return net.cast(x, net.out.dtype)


_reductions: tuple[Ops, ...] = (
    sum_, mean, mean_all, prod_all, prod, var, std, var_mean, max_all, min_all, amax, amin, max_dim, min_dim, argmax,
    argmin, any_all, any_, linalg_vector_norm, cumsum, cumprod,
)  # fmt: skip
for _reduction in _reductions:
    _reduction.unless(_not_empty)
cumprod.unless(Net.fixed_sizes)
