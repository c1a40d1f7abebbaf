"""Rows of a table, singly or in bags."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import torch

from ..flavour import trt
from .net import FLOAT, ITensor, Net
from .registry import op

aten = torch.ops.aten

SUM, MEAN, MAX = 0, 1, 2
#: Elements of the largest intermediate tensor that a bag's maximum may need: bags x indices x features.
_LARGEST_MAXIMUM = 1 << 26


@op(aten.embedding.default)
def embedding(
    net: Net,
    weight: ITensor,
    indices: ITensor,
    padding_idx: int = -1,
    scale_grad_by_freq: bool = False,
    sparse: bool = False,
) -> ITensor:
    """embedding(Tensor weight, Tensor indices, SymInt padding_idx=-1, bool scale_grad_by_freq=False, bool sparse=False) -> Tensor"""  # noqa: E501
    return net.gather(weight, indices, 0)


embedding.unless(Net.not_empty)


@op(aten._embedding_bag.default, aten._embedding_bag_forward_only.default, refittable=False)
def _embedding_bag(
    net: Net, weight: ITensor, indices: ITensor, offsets: ITensor, scale_grad_by_freq: bool = False, mode: int = 0,
    sparse: bool = False, per_sample_weights: ITensor | None = None, include_last_offset: bool = False,
    padding_idx: int = -1,
) -> tuple[Any, ...]:  # fmt: skip
    """_embedding_bag(Tensor weight, Tensor indices, Tensor offsets, bool scale_grad_by_freq=False, int mode=0, bool sparse=False, Tensor? per_sample_weights=None, bool include_last_offset=False, int padding_idx=-1) -> (Tensor, Tensor, Tensor, Tensor)"""  # noqa: E501
    padding = None if padding_idx < 0 else padding_idx
    return _bags(net, weight, indices, offsets, mode, per_sample_weights, include_last_offset, padding)


def _expressible(
    weight: torch.Tensor, indices: torch.Tensor, offsets: torch.Tensor, mode: int, include_last_offset: bool, **_: Any
) -> Iterator[str]:
    if weight.dtype not in FLOAT:
        yield "bags of integers"
    if indices.ndim != 1 or offsets.ndim != 1:
        yield "bags that are not given by one row of indices and one of offsets"
    bags = offsets.numel() - include_last_offset
    if bags < 1:
        yield "no bags"
    if mode == MAX and bags * indices.numel() * weight.shape[1] > _LARGEST_MAXIMUM:
        yield f"the maximum of {bags} bags over {indices.numel()} indices needs too large a tensor"


_embedding_bag.unless(Net.not_empty)
_embedding_bag.unless(Net.fixed_sizes)
_embedding_bag.unless(_expressible)


def _bags(
    net: Net, weight: ITensor, indices: ITensor, offsets: ITensor, mode: int, per_sample: ITensor | None,
    include_last: bool, padding: int | None,
) -> tuple[Any, ...]:  # fmt: skip
    count = net.shape(indices)[0]
    rows = net.wide(net.gather(weight, indices, 0))
    member = _members(net, net.cast(offsets, torch.int64), count, include_last)
    if padding is not None:
        member = net.logical_and(member, net.logical_not(net.equal(indices, padding)))
    # Bags x indices, 1 for a member: a sum over a bag is a row of it times the rows of the table.
    ones = net.cast(member, torch.float32)
    if mode == MAX:
        seen = net.select(net.unsqueeze(member, 2), rows, -math.inf)
        best = net.reduce(trt.ReduceOperation.MAX, seen, [1])
        some = net.reduce(trt.ReduceOperation.MAX, ones, [1], keepdim=True)
        out = net.select(net.greater(some, 0.0), best, 0.0)
    elif mode == MEAN:
        sizes = net.reduce(trt.ReduceOperation.SUM, ones, [1], keepdim=True)
        out = net.div(net.matmul(ones, rows), net.maximum(sizes, 1.0))
    else:
        out = net.matmul(ones if per_sample is None else net.mul(ones, net.wide(per_sample)), rows)
    return net.cast(out, net.dtype(weight)), None, None, None


def _members(net: Net, offsets: ITensor, count: int, include_last: bool) -> ITensor:
    """(bags, indices) of bool: a bag reaches from its offset to the next one, the last to the end."""
    bags = net.shape(offsets)[0] - include_last
    starts = net.narrow(offsets, 0, 0, bags)
    end = [] if include_last else [net.constant([count], torch.int64)]
    following = net.narrow(offsets, 0, 1, net.shape(offsets)[0] - 1) if net.shape(offsets)[0] > 1 else None
    ends = net.cat(([] if following is None else [following]) + end, 0)
    places = net.constant(torch.arange(count)[None, :])
    before = net.less(places, net.unsqueeze(starts, 1))
    return net.logical_and(net.logical_not(before), net.less(places, net.unsqueeze(ends, 1)))
