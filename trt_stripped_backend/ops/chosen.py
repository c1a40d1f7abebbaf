"""Which values of a graph are compared with others that were chosen among their own elements.

``y == y.amax(-1, True)`` holds somewhere in each row because both sides are the same numbers. Where ``y`` is computed,
TensorRT may compute it once for the comparison and once more for the maximum, and round otherwise: then it holds
nowhere. So such a ``y`` is to be computed once, see :meth:`.net.Net.once`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

import torch
from torch import fx

from .registry import is_getitem

aten = torch.ops.aten

#: Each element of a result is an element of one of the floating-point operands, or a constant; or a cast of one.
_CHOOSING = frozenset({
    aten.view, aten._unsafe_view, aten.reshape, aten.flatten, aten.unflatten, aten.permute, aten.transpose, aten.t,
    aten.expand, aten.repeat, aten.squeeze, aten.unsqueeze, aten.slice, aten.select, aten.narrow, aten.split,
    aten.split_with_sizes, aten.unbind, aten.chunk, aten.unfold, aten.diagonal, aten.flip, aten.roll, aten.rot90,
    aten.clone, aten.alias, aten.contiguous, aten._to_copy, aten.to, torch.ops.prims.convert_element_type,
    aten.cat, aten.stack, aten.constant_pad_nd, aten.tril, aten.triu,
    aten.index, aten.index_select, aten.gather, aten.take, aten.embedding,
    aten.scatter, aten.slice_scatter, aten.select_scatter, aten.index_put, aten.where, aten.masked_fill,
    aten.amax, aten.amin, aten.max, aten.min, aten.maximum, aten.minimum, aten.clamp, aten.clamp_min, aten.clamp_max,
    aten.relu, aten.max_pool2d, aten.max_pool2d_with_indices, aten.max_pool3d_with_indices,
    aten.topk, aten.sort, aten.kthvalue, aten.median, aten.nanmedian, aten.mode,
})  # fmt: skip
#: A last place of an operand may decide.
_DECIDING = frozenset({
    aten.eq, aten.ne, aten.lt, aten.le, aten.gt, aten.ge, aten.sign, aten.floor, aten.ceil, aten.searchsorted,
    aten.bucketize,
})  # fmt: skip
#: Equal operands give a result that is exact, and then may be decided upon.
_BETWEEN = frozenset({aten.sub, aten.div, aten.abs, aten.neg})


def compared(graph: fx.Graph) -> set[fx.Node]:
    """The nodes of floating-point values that reach a comparison in more ways than one, chosen and moved only."""
    sources: dict[fx.Node, frozenset[fx.Node]] = {}
    found: set[fx.Node] = set()
    for node in graph.nodes:
        own = frozenset({node})
        if is_getitem(node):
            packet = getattr(node.args[0].target, "overloadpacket", None)
        else:
            packet = getattr(node.target, "overloadpacket", None)
        sources[node] = own.union(*(sources[one] for one in _floats(node))) - own if packet in _CHOOSING else own
        if packet in _DECIDING:
            reached = Counter(source for one in set(_decides(node)) for source in sources[one])
            found.update(source for source, ways in reached.items() if ways > 1)
    return {node for node in found if node.op == "call_function"}


def _floats(node: fx.Node) -> list[fx.Node]:
    return [one for one in node.all_input_nodes if is_getitem(node) or _is_float(one)]


def _is_float(node: fx.Node) -> bool:
    value = node.meta.get("val")
    return any(
        isinstance(one, torch.Tensor) and one.is_floating_point()
        for one in (value if isinstance(value, (tuple, list)) else [value])
    )


def _decides(node: fx.Node) -> Iterator[fx.Node]:
    """The values that a comparison is about: its operands, and those of their differences and quotients."""
    for one in _floats(node):
        if getattr(one.target, "overloadpacket", None) in _BETWEEN:
            yield from _decides(one)
        else:
            yield one
