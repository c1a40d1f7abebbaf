"""Reading by index tensors. Indices count from the end when negative, as only advanced indexing does in PyTorch."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

import torch

from ..flavour import trt
from ..sizes import alike
from .net import AnySize, ITensor, Net
from .registry import op

aten = torch.ops.aten


def flat_index(net: Net, indices: Sequence[ITensor], sizes: Sequence[AnySize]) -> ITensor:
    """Row-major positions in a block of ``sizes`` of one index tensor a dimension; they broadcast, negatives wrap."""
    dtype = torch.int64 if any(net.dtype(i) == torch.int64 for i in indices) else torch.int32
    total = None
    for index, size in zip(indices, sizes, strict=True):
        wrapped = net.wrap_index(net.cast(index, dtype), size)
        total = wrapped if total is None else net.add(net.mul(total, size), wrapped)
    return total


def merge(net: Net, self: ITensor, indices: Sequence[ITensor | None]) -> tuple[ITensor, list[int], int, ITensor]:
    """Advanced indexing as indexing of one dimension.

    Returns:
        ``self`` with the indexed dimensions brought together and merged, the permutation that did it, where the
        merged dimension is, and the index into it. The dimensions of the index replace the merged one in the result.
    """
    dims = [d for d, index in enumerate(indices) if index is not None]
    adjacent = dims == list(range(dims[0], dims[0] + len(dims)))
    rest = [d for d in range(len(self.shape)) if d not in dims]
    order, at = ([*rest[: dims[0]], *dims, *rest[dims[0] :]], dims[0]) if adjacent else ([*dims, *rest], 0)
    x, sizes = net.permute(self, order), [net.shape(self)[d] for d in dims]
    x = net.reshape(x, [*net.shape(x)[:at], math.prod(sizes), *net.shape(x)[at + len(dims) :]])
    return x, order, at, flat_index(net, [i for i in indices if i is not None], sizes)


def shrink(net: Net, x: ITensor, sizes: Sequence[AnySize]) -> ITensor:
    """The leading elements of each dimension: ``x`` cut to ``sizes``."""
    if alike(sizes, net.shape(x)):
        return x
    return net.slice(x, [0] * len(sizes), sizes, [1] * len(sizes))


def gather_elements(net: Net, x: ITensor, index: ITensor, dim: int) -> ITensor:
    """``x.gather(dim, index)`` of equal ranks above 0."""
    x = shrink(net, x, [*net.shape(index)[:dim], net.shape(x)[dim], *net.shape(index)[dim + 1 :]])
    layer = net.network.add_gather_v2(x, index, trt.GatherMode.ELEMENT)
    if layer is not None:
        layer.axis = dim
    return net.keep(net.take(layer), net.shape(index))


@op(aten.index.Tensor)
def index(net: Net, self: ITensor, indices: Sequence[ITensor | None]) -> ITensor:
    """index.Tensor(Tensor self, Tensor?[] indices) -> Tensor"""
    x, _, dim, positions = merge(net, self, indices)
    return net.gather(x, positions, dim)


@index.unless
def _(self: torch.Tensor, indices: Sequence[torch.Tensor | None]) -> Iterator[str]:
    if any(i is not None and i.dtype == torch.bool for i in indices):
        yield "indexing by a mask: the output's shape depends on the data"
    if any(i is not None and not i.numel() for i in indices):
        yield "an empty index"


@op(aten.index_select.default)
def index_select(net: Net, self: ITensor, dim: int, index: ITensor) -> ITensor:
    """index_select(Tensor self, int dim, Tensor index) -> Tensor"""
    if not len(self.shape):
        return self
    return net.gather(self, net.reshape(index, [-1]), dim)


@op(aten.gather.default)
def gather(net: Net, self: ITensor, dim: int, index: ITensor, sparse_grad: bool = False) -> ITensor:
    """gather(Tensor self, int dim, Tensor index, *, bool sparse_grad=False) -> Tensor"""
    # A 0-d tensor takes part as one of a single element.
    x, positions = (v if len(v.shape) else net.reshape(v, [1]) for v in (self, index))
    return net.reshape(gather_elements(net, x, positions, dim % len(x.shape)), net.shape(index))


@op(aten.take.default)
def take(net: Net, self: ITensor, index: ITensor) -> ITensor:
    """take(Tensor self, Tensor index) -> Tensor"""
    flat = net.reshape(self, [-1])
    return net.gather(flat, net.wrap_index(index, net.shape(flat)[0]), 0)


for _op in (index, index_select, gather, take):
    _op.unless(Net.not_empty)
