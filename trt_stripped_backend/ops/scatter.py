"""Writing by index tensors. Where two indices are equal and nothing is reduced, PyTorch promises no winner either."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch.fx.experimental.symbolic_shapes import statically_known_true

from ..flavour import trt
from .elementwise import larger, smaller
from .index import gather_elements, merge, shrink
from .net import FLOAT, ITensor, Net, Scalar, Value
from .reduce import running_sum
from .registry import op

aten = torch.ops.aten

#: TensorRT's scatter does not reduce, so each index along the dimension is a step of its own; more stay in PyTorch.
STEPS = 16
#: How the reductions that a step can do combine what is there with what comes.
_COMBINE: dict[str, Callable[[Net, ITensor, ITensor], ITensor]] = {
    "add": Net.add,
    "sum": Net.add,
    "multiply": Net.mul,
    "prod": Net.mul,
    "amax": lambda net, a, b: larger(net, a, b, net.dtype(a)),
    "amin": lambda net, a, b: smaller(net, a, b, net.dtype(a)),
}


def _scatter(net: Net, data: ITensor, index: ITensor, updates: ITensor, mode: Any, dim: int = 0) -> ITensor:
    """A scatter layer; bool passes as int32, since TensorRT documents none for bool."""
    if net.dtype(data) == torch.bool:
        wide = _scatter(net, net.cast(data, torch.int32), index, net.cast(updates, torch.int32), mode, dim)
        return net.cast(wide, torch.bool)
    layer = net.network.add_scatter(data, index, net.cast(updates, net.dtype(data)), mode)
    if layer is not None and mode == trt.ScatterMode.ELEMENT:
        layer.axis = dim
    return net.take(layer)


def scatter_elements(net: Net, data: ITensor, dim: int, index: ITensor, src: Value, reduce: str = "") -> ITensor:
    """``data`` with ``src`` at the positions that ``index`` names along ``dim``, combined with what is there by
    ``reduce``, if given."""
    shape, dtype = net.shape(data), net.dtype(data)
    data = data if len(shape) else net.reshape(data, [1])
    dim %= len(data.shape)
    index = index if len(index.shape) else net.reshape(index, [1])
    sizes = list(net.shape(index))
    if net.is_tensor(src):
        src = shrink(net, src if len(src.shape) else net.reshape(src, [1]), sizes)
    else:
        src = net.full(sizes, src, dtype)
    if not reduce:
        return net.reshape(_scatter(net, data, index, src, trt.ScatterMode.ELEMENT, dim), shape)
    data, src = net.wide(data), net.wide(net.cast(src, dtype))
    for step in range(sizes[dim]):
        at = net.narrow(index, dim, step, 1)
        both = _COMBINE[reduce](net, gather_elements(net, data, at, dim), net.narrow(src, dim, step, 1))
        data = _scatter(net, data, at, both, trt.ScatterMode.ELEMENT, dim)
    return net.cast(net.reshape(data, shape), dtype)


def _against(self: torch.Tensor, dim: int, index: torch.Tensor, reduce: str = "") -> Iterator[str]:
    """Reasons against a scatter of elements."""
    count, places = (t.shape[dim] if t.ndim else 1 for t in (index, self))
    if reduce and not (yield from Net.fixed_along(index, dim)):
        return
    if reduce and reduce not in _COMBINE:
        yield f"a scatter that reduces by {reduce}: TensorRT's does not reduce"
    elif reduce and (count > STEPS or self.dtype == torch.bool):
        yield f"a scatter that reduces {count} {self.dtype} values: TensorRT's does not reduce"
    elif not reduce and not statically_known_true(count <= places):
        yield "more indices than places in the dimension of a scatter, or sizes that only a call tells"


@op(aten.scatter.src)
def scatter(net: Net, self: ITensor, dim: int, index: ITensor, src: ITensor) -> ITensor:
    """scatter.src(Tensor self, int dim, Tensor index, Tensor src) -> Tensor"""
    return scatter_elements(net, self, dim, index, src)


@scatter.unless
def _(self: torch.Tensor, dim: int, index: torch.Tensor, src: torch.Tensor) -> Iterator[str]:
    yield from _against(self, dim, index)


@op(aten.scatter.value)
def scatter_value(net: Net, self: ITensor, dim: int, index: ITensor, value: Scalar) -> ITensor:
    """scatter.value(Tensor self, int dim, Tensor index, Scalar value) -> Tensor"""
    return scatter_elements(net, self, dim, index, value)


@scatter_value.unless
def _(self: torch.Tensor, dim: int, index: torch.Tensor, value: Scalar) -> Iterator[str]:
    yield from _against(self, dim, index)


@op(aten.scatter.reduce)
def scatter_src_reduce(net: Net, self: ITensor, dim: int, index: ITensor, src: ITensor, reduce: str) -> ITensor:
    """scatter.reduce(Tensor self, int dim, Tensor index, Tensor src, *, str reduce) -> Tensor"""
    return scatter_elements(net, self, dim, index, src, reduce)


@scatter_src_reduce.unless
def _(self: torch.Tensor, dim: int, index: torch.Tensor, src: torch.Tensor, reduce: str) -> Iterator[str]:
    yield from _against(self, dim, index, reduce)


@op(aten.scatter.value_reduce)
def scatter_value_reduce(net: Net, self: ITensor, dim: int, index: ITensor, value: Scalar, reduce: str) -> ITensor:
    """scatter.value_reduce(Tensor self, int dim, Tensor index, Scalar value, *, str reduce) -> Tensor"""
    return scatter_elements(net, self, dim, index, value, reduce)


@scatter_value_reduce.unless
def _(self: torch.Tensor, dim: int, index: torch.Tensor, value: Scalar, reduce: str) -> Iterator[str]:
    yield from _against(self, dim, index, reduce)


@op(aten.scatter_add.default)
def scatter_add(net: Net, self: ITensor, dim: int, index: ITensor, src: ITensor) -> ITensor:
    """scatter_add(Tensor self, int dim, Tensor index, Tensor src) -> Tensor"""
    return scatter_elements(net, self, dim, index, src, "sum")


@scatter_add.unless
def _(self: torch.Tensor, dim: int, index: torch.Tensor, src: torch.Tensor) -> Iterator[str]:
    yield from _against(self, dim, index, "sum")


@op(aten.scatter_reduce.two)
def scatter_reduce(
    net: Net, self: ITensor, dim: int, index: ITensor, src: ITensor, reduce: str, include_self: bool = True
) -> ITensor:
    """scatter_reduce.two(Tensor self, int dim, Tensor index, Tensor src, str reduce, *, bool include_self=True)
    -> Tensor"""
    if not include_self:
        self = scatter_elements(net, self, dim, index, _neutral(reduce, net.dtype(self)))
    return scatter_elements(net, self, dim, index, src, reduce)


def _neutral(reduce: str, dtype: torch.dtype) -> Scalar:
    """What changes nothing when combined."""
    if reduce in ("amax", "amin"):
        low, high = (-math.inf, math.inf) if dtype in FLOAT else (torch.iinfo(dtype).min, torch.iinfo(dtype).max)
        return low if reduce == "amax" else high
    return 1 if reduce == "prod" else 0


@scatter_reduce.unless
def _(
    self: torch.Tensor, dim: int, index: torch.Tensor, src: torch.Tensor, reduce: str, include_self: bool = True
) -> Iterator[str]:
    yield from _against(self, dim, index, reduce)
    if not include_self:
        yield from _against(self, dim, index)


def _put_masked(net: Net, self: ITensor, dim: int, mask: ITensor, values: ITensor, accumulate: bool) -> ITensor:
    """``self`` with ``values`` where ``mask``, which covers the dimensions from ``dim`` on, holds."""
    tail = len(self.shape) - dim - len(mask.shape)
    row = len(values.shape) - tail
    if row > 0:  # the one row for all chosen places: as many dimensions of size 1 as the mask has
        values = net.reshape(values, [*net.shape(values)[: row - 1], *[1] * len(mask.shape), *net.shape(values)[row:]])
    mask = net.reshape(mask, [*net.shape(mask), *[1] * tail])
    return net.select(mask, net.add(self, values) if accumulate else values, self, net.dtype(self))


def _put(net: Net, self: ITensor, indices: Sequence[ITensor | None], values: ITensor, accumulate: bool) -> ITensor:
    """``self`` with ``values`` at the places that integer indices name."""
    x, order, dim, positions = merge(net, self, indices)
    lead, rest, count = list(net.shape(x)[:dim]), list(net.shape(x)[dim + 1 :]), math.prod(net.shape(positions))
    rows = net.expand(net.cast(values, net.dtype(self)), [*lead, *net.shape(positions), *rest])
    rows = net.reshape(rows, [*lead, count, *rest])
    fits = isinstance(count, int) and isinstance(net.shape(x)[dim], int) and count <= net.shape(x)[dim]
    if accumulate or (dim and fits):
        places = net.reshape(positions, [1] * len(lead) + [count] + [1] * len(rest))
        out = scatter_elements(net, x, dim, net.expand(places, net.shape(rows)), rows, "sum" if accumulate else "")
    else:
        first = [dim, *(d for d in range(len(x.shape)) if d != dim)]
        places = net.reshape(positions, [count, 1])
        out = _scatter(net, net.permute(x, first), places, net.permute(rows, first), trt.ScatterMode.ND)
        out = net.permute(out, [first.index(d) for d in range(len(first))])
    out = net.reshape(out, [net.shape(self)[d] for d in order])
    return net.permute(out, [order.index(d) for d in range(len(order))])


@op(aten.index_put.default)
def index_put(
    net: Net, self: ITensor, indices: Sequence[ITensor | None], values: ITensor, accumulate: bool = False
) -> ITensor:
    """index_put(Tensor self, Tensor?[] indices, Tensor values, bool accumulate=False) -> Tensor"""
    masks = [d for d, i in enumerate(indices) if i is not None and net.dtype(i) == torch.bool]
    if masks:
        return _put_masked(net, self, masks[0], indices[masks[0]], values, accumulate)
    return _put(net, self, indices, values, accumulate)


@index_put.unless
def _(
    self: torch.Tensor, indices: Sequence[torch.Tensor | None], values: torch.Tensor, accumulate: bool = False
) -> Iterator[str]:
    given = [(d, i) for d, i in enumerate(indices) if i is not None]
    masks = [(d, i) for d, i in given if i.dtype == torch.bool]
    if accumulate and not (yield from Net.fixed_along(self, numbers=[s for _, i in given for s in i.shape])):
        return
    if any(not i.numel() for _, i in given):
        yield "an empty index"
    if accumulate and self.dtype == torch.bool:
        yield "index_put that accumulates bool"
    if masks:
        row = values.ndim - (self.ndim - masks[0][0] - masks[0][1].ndim)
        if len(given) > 1:
            yield "a mask beside other indices: how many places it takes depends on the data"
        elif row > 0 and not statically_known_true(values.shape[row - 1] == 1):
            yield "a value for each place that a mask takes: how many these are depends on the data"
    elif accumulate:
        count = torch.broadcast_shapes(*(i.shape for _, i in given)).numel()  # type: ignore[no-untyped-call]
        if count > STEPS:
            yield f"index_put that accumulates {count} values: TensorRT's scatter does not reduce"


@op(aten.put.default)
def put(net: Net, self: ITensor, index: ITensor, source: ITensor, accumulate: bool = False) -> ITensor:
    """put(Tensor self, Tensor index, Tensor source, bool accumulate=False) -> Tensor"""
    flat, places, values = (net.reshape(v, [-1]) for v in (self, index, source))
    return net.reshape(_put(net, flat, [places], values, accumulate), net.shape(self))


@put.unless
def _(self: torch.Tensor, index: torch.Tensor, source: torch.Tensor, accumulate: bool = False) -> Iterator[str]:
    if accumulate and (index.numel() > STEPS or self.dtype == torch.bool):
        yield f"put that accumulates {index.numel()} {self.dtype} values: TensorRT's scatter does not reduce"


@op(aten.max_unpool2d.default)
def max_unpool2d(net: Net, self: ITensor, indices: ITensor, output_size: Sequence[int]) -> ITensor:
    """max_unpool2d(Tensor self, Tensor indices, SymInt[2] output_size) -> Tensor"""
    return _unpool(net, self, indices, output_size)


@op(aten.max_unpool3d.default)
def max_unpool3d(
    net: Net, self: ITensor, indices: ITensor, output_size: Sequence[int], stride: Sequence[int], padding: Sequence[int]
) -> ITensor:
    """max_unpool3d(Tensor self, Tensor indices, SymInt[3] output_size, int[3] stride, int[3] padding) -> Tensor"""
    return _unpool(net, self, indices, output_size)


def _unpool(net: Net, x: ITensor, indices: ITensor, sizes: Sequence[int]) -> ITensor:
    lead = net.shape(x)[: -len(sizes)]
    rows = math.prod(lead)
    values, places = (net.reshape(one, [rows, -1]) for one in (x, indices))
    empty = net.full([rows, math.prod(sizes)], 0, net.dtype(x))
    return net.reshape(scatter_elements(net, empty, 1, places, values), [*lead, *sizes])


@op(aten.masked_scatter.default, refittable=False)
def masked_scatter(net: Net, self: ITensor, mask: ITensor, source: ITensor) -> ITensor:
    """masked_scatter(Tensor self, Tensor mask, Tensor source) -> Tensor"""
    mask, x = (net.expand(one, net.out.shape) for one in net.broadcast(mask, self))
    count = running_sum(net, net.cast(net.reshape(mask, [-1]), torch.int32), 0)
    place = net.maximum(net.sub(count, 1), 0)
    taken = net.gather(net.reshape(source, [-1]), place, 0)
    return net.select(mask, net.reshape(taken, net.shape(x)), x)


for _op in (max_unpool2d, max_unpool3d, masked_scatter):
    _op.unless(Net.not_empty)
    _op.unless(Net.fixed_sizes)
for _op in (scatter, scatter_value, scatter_src_reduce, scatter_value_reduce, scatter_add, scatter_reduce):
    _op.unless(Net.not_empty)
for _op in (index_put, put):
    _op.unless(Net.not_empty)
put.unless(Net.fixed_sizes)
