"""Sorting, the largest elements, and places in a sorted sequence."""

from __future__ import annotations

import math
from collections.abc import Iterator

import torch
from torch.fx.experimental.symbolic_shapes import statically_known_true

from ..flavour import trt
from ..sizes import alike, dynamic
from .create import iota
from .index import gather_elements
from .net import FLOAT, INT, ITensor, Net, Scalar, Value
from .registry import op
from .scatter import scatter_elements
from .slicing import grid

aten = torch.ops.aten

#: The largest k of TensorRT's TopK layer.
MAX_K = 3840
#: Where all pairs of elements are compared: the most pairs.
PAIRS = 1 << 24
_LIMIT = ", if a size has no limit: mark_dynamic takes a max"


def _top(net: Net, x: ITensor, k: int, dim: int, largest: bool) -> tuple[ITensor, ITensor]:
    """The k largest or smallest elements along ``dim``, in order, and their indices (int64)."""
    shape, dtype = list(net.shape(x)) or [1], net.dtype(x)
    dim %= len(shape)
    if alike([shape[dim]], [1]):  # nothing to choose from, and RTX fails to build some graphs with such a layer
        return x, net.full(net.shape(x), 0, torch.int64)
    # TopK takes one of the last four dimensions of a tensor of rank 2 or more, and no bool.
    rows, after = math.prod(shape[:dim]), math.prod(shape[dim + 1 :])
    wide = net.cast(x, torch.int32) if dtype == torch.bool else x
    wide = net.reshape(wide, [rows, shape[dim]] if alike([after], [1]) else [rows, shape[dim], after])
    key = _ranked(net, wide) if dtype in FLOAT else wide
    layer = net.network.add_topk(key, trt.TopKOperation.MAX if largest else trt.TopKOperation.MIN, k, 1 << 1)
    values, indices = net.take(layer), layer.get_output(1)
    values = gather_elements(net, wide, indices, 1) if dtype in FLOAT else values
    out = [*shape[:dim], k, *shape[dim + 1 :]] if len(x.shape) else []
    return net.cast(net.reshape(values, out), dtype), net.cast(net.reshape(indices, out), torch.int64)


def _ranked(net: Net, x: ITensor) -> ITensor:
    """Float32 in the order of ``x`` without NaN, which TensorRT drops and which to PyTorch is larger than infinity: so
    infinity becomes the largest number, and that the second largest."""
    largest = torch.finfo(torch.float32).max
    finite = net.minimum(net.cast(x, torch.float32), largest * (1 - 2**-24))
    finite = net.select(net.equal(x, math.inf), largest, finite, torch.float32)
    return net.select(net.isnan(x), math.inf, finite, torch.float32)


@op(aten.topk.default)
def topk(
    net: Net, self: ITensor, k: int, dim: int = -1, largest: bool = True, sorted: bool = True
) -> tuple[ITensor, ITensor]:
    """topk(Tensor self, SymInt k, int dim=-1, bool largest=True, bool sorted=True)
    -> (Tensor values, Tensor indices)"""
    return _top(net, self, k, dim, largest)


@topk.unless
def _(self: torch.Tensor, k: int, dim: int = -1, largest: bool = True, sorted: bool = True) -> Iterator[str]:
    fixed = yield from Net.fixed_along(self, dim, numbers=(k,))
    if fixed and not k:
        yield "topk with k = 0: an empty tensor"
    if fixed and k > MAX_K:
        yield f"topk with k = {k}: TensorRT takes up to {MAX_K}"


@op(aten.kthvalue.default)
def kthvalue(net: Net, self: ITensor, k: int, dim: int = -1, keepdim: bool = False) -> tuple[ITensor, ITensor]:
    """kthvalue(Tensor self, SymInt k, int dim=-1, bool keepdim=False) -> (Tensor values, Tensor indices)"""
    if not len(self.shape):
        return _top(net, self, 1, 0, False)
    values, indices = (net.narrow(t, dim, k - 1, 1) for t in _top(net, self, k, dim, False))
    return (values, indices) if keepdim else (net.squeeze(values, dim), net.squeeze(indices, dim))


@kthvalue.unless
def _(self: torch.Tensor, k: int, dim: int = -1, keepdim: bool = False) -> Iterator[str]:
    fixed = yield from Net.fixed_along(self, dim, numbers=(k,))
    if fixed and k > MAX_K:
        yield f"kthvalue with k = {k}: TensorRT takes up to {MAX_K}"


def _median(net: Net, x: ITensor, dim: int) -> tuple[ITensor, ITensor]:
    """The lower of two middle elements along ``dim``, which stays; NaN where there is one."""
    size = net.shape(x)[dim] if len(x.shape) else 1
    values, indices = _top(net, x, (size + 1) // 2, dim, False)
    if not len(x.shape):
        return values, indices
    middle = [net.narrow(t, dim, (size + 1) // 2 - 1, 1) for t in (values, indices)]
    if net.dtype(x) in FLOAT:  # NaN is the largest of all
        largest = _top(net, x, 1, dim, True)
        nan = net.isnan(largest[0])
        middle = [net.select(nan, a, b, net.dtype(a)) for a, b in zip(largest, middle, strict=True)]
    return middle[0], middle[1]


@op(aten.median.default)
def median(net: Net, self: ITensor) -> ITensor:
    """median(Tensor self) -> Tensor"""
    return net.reshape(_median(net, net.reshape(self, [-1]), 0)[0], [])


@op(aten.median.dim)
def median_dim(net: Net, self: ITensor, dim: int, keepdim: bool = False) -> tuple[ITensor, ITensor]:
    """median.dim(Tensor self, int dim, bool keepdim=False) -> (Tensor values, Tensor indices)"""
    values, indices = _median(net, self, dim)
    whole = keepdim or not len(self.shape)
    return (values, indices) if whole else (net.squeeze(values, dim), net.squeeze(indices, dim))


@median.unless
def _(self: torch.Tensor) -> Iterator[str]:
    if self.numel() > 2 * MAX_K:
        yield f"a median of {self.numel()} elements: TensorRT sorts up to {MAX_K}"


@median_dim.unless
def _(self: torch.Tensor, dim: int, keepdim: bool = False) -> Iterator[str]:
    fixed = yield from Net.fixed_along(self, dim)
    if fixed and self.ndim and self.shape[dim] > 2 * MAX_K:
        yield f"a median of {self.shape[dim]} elements: TensorRT sorts up to {MAX_K}"


@op(aten.sort.default)
def sort(net: Net, self: ITensor, dim: int = -1, descending: bool = False) -> tuple[ITensor, ITensor]:
    """sort(Tensor self, int dim=-1, bool descending=False) -> (Tensor values, Tensor indices)"""
    return _top(net, self, net.shape(self)[dim] if len(self.shape) else 1, dim, descending)


@sort.unless
def _(self: torch.Tensor, dim: int = -1, descending: bool = False) -> Iterator[str]:
    fixed = yield from Net.fixed_along(self, dim)
    if fixed and self.ndim and self.shape[dim] > MAX_K:
        yield f"a sort of {self.shape[dim]} elements: TensorRT takes up to {MAX_K}"


def _ranks(net: Net, x: ITensor, descending: bool) -> ITensor:
    """Where each element of the rows of ``x`` ``[rows, n]`` goes in a stable sort: how many come before it (int32).

    NaN counts as the largest value, as in PyTorch.
    """
    rows, size = net.shape(x)
    mine, other = net.reshape(x, [rows, size, 1]), net.reshape(x, [rows, 1, size])
    before = net.greater(other, mine) if descending else net.less(other, mine)
    tie = net.equal(other, mine)
    if net.dtype(x) in FLOAT:
        my_nan, other_nan = (net.isnan(t) for t in (mine, other))
        largest, smaller = (other_nan, my_nan) if descending else (my_nan, other_nan)
        before = net.logical_or(before, net.logical_and(largest, net.logical_not(smaller)))
        tie = net.logical_or(tie, net.logical_and(my_nan, other_nan))
    before = net.logical_or(before, net.logical_and(tie, net.less(grid(net, [1, size, size], [0, -1, 1]), 0)))
    return net.reduce(trt.ReduceOperation.SUM, net.cast(before, torch.int32), [2])


@op(aten.sort.stable)
def sort_stable(
    net: Net, self: ITensor, stable: bool | None, dim: int = -1, descending: bool = False
) -> tuple[ITensor, ITensor]:
    """sort.stable(Tensor self, *, bool? stable, int dim=-1, bool descending=False)
    -> (Tensor values, Tensor indices)"""
    rank = len(self.shape)
    if not stable or not rank or alike([net.shape(self)[dim]], [1]):
        return _top(net, self, net.shape(self)[dim] if rank else 1, dim, descending)
    order = [d for d in range(rank) if d != dim % rank] + [dim % rank]
    x = net.permute(net.cast(self, torch.int32) if net.dtype(self) == torch.bool else net.once(self), order)
    shape, size = net.shape(x), net.shape(x)[-1]
    x = net.reshape(x, [-1, size])
    places = net.expand(net.reshape(iota(net, size, torch.int32), [1, size]), net.shape(x))
    indices = scatter_elements(net, places, 1, _ranks(net, x, descending), places)
    values = net.cast(gather_elements(net, x, indices, 1), net.dtype(self))
    back = [order.index(d) for d in range(rank)]
    values, indices = (net.permute(net.reshape(t, shape), back) for t in (values, indices))
    return values, net.cast(indices, torch.int64)


@sort_stable.unless
def _(self: torch.Tensor, stable: bool | None, dim: int = -1, descending: bool = False) -> Iterator[str]:
    size = self.shape[dim] if self.ndim else 1
    if not (yield from Net.fixed_along(self, dim)):
        return
    if stable and not statically_known_true(self.numel() * size <= PAIRS):
        limit = _LIMIT if dynamic(self.numel()) else ""
        yield f"a stable sort of {size} elements: TensorRT has none; comparing all pairs takes too much memory{limit}"
    elif not stable and size > MAX_K:
        yield f"a sort of {size} elements: TensorRT takes up to {MAX_K}"


def _places(net: Net, sequence: ITensor, value: Value, right: bool, out_int32: bool) -> ITensor:
    """How many elements of each sorted row come before a value; before or with it if ``right``."""
    dtype = net.result_type(sequence, value)
    rows, wanted = net.cast(sequence, dtype), net.cast(value, dtype)
    wanted = net.reshape(wanted, [*net.shape(wanted), 1])
    if len(rows.shape) > 1:
        rows = net.unsqueeze(rows, -2)
    # "Not after" also holds for a value of NaN, which PyTorch puts at the end.
    after = net.greater(rows, wanted)
    if not right:
        after = net.logical_or(after, net.equal(rows, wanted))
    count = net.reduce(trt.ReduceOperation.SUM, net.cast(net.logical_not(after), torch.int32), [-1])
    return net.cast(count, torch.int32 if out_int32 else torch.int64)


def _too_many(sequence: torch.Tensor, value: torch.Tensor | Scalar) -> Iterator[str]:
    count, rank = (value.numel(), value.ndim) if isinstance(value, torch.Tensor) else (1, 0)
    if max(sequence.ndim, rank) > 7:
        yield "places in tensors of rank 8: all pairs have one dimension more, and TensorRT holds 8"
    if not statically_known_true(sequence.shape[-1] * count <= PAIRS):
        limit = _LIMIT if any(map(dynamic, (count, sequence.shape[-1]))) else ""
        yield f"{count} values to find among {sequence.shape[-1]}: comparing them all takes too much memory{limit}"


@op(aten.searchsorted.Tensor, aten.searchsorted.Scalar, dtypes=FLOAT | INT)
def searchsorted(
    net: Net,
    sorted_sequence: ITensor,
    self: Value,
    out_int32: bool = False,
    right: bool = False,
    side: str | None = None,
    sorter: ITensor | None = None,
) -> ITensor:
    """searchsorted.Tensor(Tensor sorted_sequence, Tensor self, *, bool out_int32=False, bool right=False,
    str? side=None, Tensor? sorter=None) -> Tensor"""
    if sorter is not None:
        sorted_sequence = gather_elements(net, sorted_sequence, sorter, len(sorter.shape) - 1)
    return _places(net, sorted_sequence, self, right or side == "right", out_int32)


@searchsorted.unless
def _(
    sorted_sequence: torch.Tensor,
    self: torch.Tensor | Scalar,
    out_int32: bool = False,
    right: bool = False,
    side: str | None = None,
    sorter: torch.Tensor | None = None,
) -> Iterator[str]:
    yield from _too_many(sorted_sequence, self)


@op(aten.bucketize.Tensor, aten.bucketize.Scalar, dtypes=FLOAT | INT)
def bucketize(net: Net, self: Value, boundaries: ITensor, out_int32: bool = False, right: bool = False) -> ITensor:
    """bucketize.Tensor(Tensor self, Tensor boundaries, *, bool out_int32=False, bool right=False) -> Tensor"""
    return _places(net, boundaries, self, right, out_int32)


@bucketize.unless
def _(
    self: torch.Tensor | Scalar, boundaries: torch.Tensor, out_int32: bool = False, right: bool = False
) -> Iterator[str]:
    yield from _too_many(boundaries, self)


for _op in (topk, kthvalue, median, median_dim, sort, sort_stable, searchsorted, bucketize):
    _op.unless(Net.not_empty)
median.unless(Net.fixed_sizes)
