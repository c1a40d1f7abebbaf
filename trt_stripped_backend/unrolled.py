"""Where engines end so that each is built in seconds.

TensorRT-RTX computes a reduction, softmax or written out product (in half types, or with a vector) of two to four
elements once for every element that it is used in. Where many are made of each other it builds for minutes: a float16
layer of a transformer of width 4 for 225 s, eight float32 products of a row of four elements for 13 s, three rounds of
Sinkhorn's normalization of 4 × 4 matrices for 30 s (1.7.1, two CPU cores). With zeros behind the rows it builds fast,
but computes other numbers (1.6.1). So what would be too many begins another engine, and so does what would be too large
a tree, see :mod:`.expanded`.
"""

from __future__ import annotations

import math
from collections.abc import Collection
from typing import Any

import torch
from torch import fx

from .expanded import Trees

aten = torch.ops.aten

#: So many reductions of each other are in one engine.
DEPTH = 3
#: Reductions of more elements are not unrolled.
_UNROLLED = 4

_ONE = frozenset({
    aten.sum, aten.mean, aten.amax, aten.amin, aten.prod, aten.any, aten.all, aten.max, aten.min,
    aten.linalg_vector_norm,
})  # fmt: skip
_TWO = frozenset({
    aten.var, aten.var_mean, aten.std, aten.std_mean, aten.logsumexp, aten._softmax, aten._log_softmax, aten.softmax,
    aten.log_softmax, aten._safe_softmax,
})  # fmt: skip
_NORMS = frozenset({aten.layer_norm, aten.native_layer_norm, aten.rms_norm, aten._fused_rms_norm})
_PRODUCTS = frozenset({aten.mm, aten.bmm, aten.mv, aten.dot, aten.matmul, aten.linear})
_STORED = frozenset({aten.convolution, aten.sort, aten.topk})
_SUMS = frozenset({aten.addmm, aten.baddbmm, aten.addbmm, aten.addmv})  # of a tensor and a product


def begins(graph: fx.Graph, outside: Collection[fx.Node]) -> set[str]:
    """Names of the nodes that begin another engine than what stands before them.

    Args:
        graph: with fake tensors.
        outside: nodes that are in no engine.
    """
    found: set[str] = set()
    depth: dict[fx.Node, int] = {}
    trees = Trees(graph, outside)
    for node in graph.nodes:
        if node.op != "call_function" or node in outside:
            continue
        passes = _passes(node)
        before = max((depth.get(one, 0) for one in node.all_input_nodes), default=0)
        if (passes and before and before + passes > DEPTH) or not trees.add(node):
            found.add(node.name)
            depth.clear()  # what stands before is in memory
            trees.end()
            trees.add(node)
            before = 0
        if passes is not None:
            depth[node] = before + passes
    return found


def _passes(node: fx.Node) -> int | None:
    """How many unrolled reductions of each other a node is; None if what it makes is not computed anew in each use."""
    packet = getattr(node.target, "overloadpacket", None)
    if packet in _STORED:
        return None
    if packet is aten.scaled_dot_product_attention:
        query, key, value = (_tensor(one).shape for one in node.args[:3])
        half = _is_half(node.args[0])
        first = _each(query[-1:], half or _is_one(query[-2], key[-2]))
        second = _each(key[-2:-1], 2 + (half or _is_one(query[-2], value[-1])))
        return None if first is None and second is None else (first or 0) + (second or 0)
    if packet in _PRODUCTS or packet in _SUMS:
        left, right = (_tensor(one).shape for one in node.args[packet in _SUMS :][:2])
        columns = right[0] if packet is aten.linear else right[-1]
        vector = len(left) < 2 or len(right) < 2 or _is_one(left[-2], columns)
        return _each(left[-1:], vector or _is_half(node.args[packet in _SUMS]))
    if packet in _NORMS:
        return _each(_argument(node, "normalized_shape"), 2)
    if packet in _ONE or packet in _TWO:
        shape, dims = _tensor(node.args[0]).shape, _argument(node, "dim")
        dims = dims if isinstance(dims, (list, tuple)) else [] if dims is None else [dims]
        return _each([shape[dim] for dim in dims] if dims and shape else shape, 1 + (packet in _TWO))
    return 0


def _each(sizes: Any, passes: int) -> int | None:
    """So many where these dimensions are unrolled."""
    if not all(isinstance(size, int) for size in sizes) or math.prod(sizes) > _UNROLLED:
        return None
    return int(passes) if math.prod(sizes) > 1 else 0


def _is_one(*sizes: Any) -> bool:
    return any(isinstance(size, int) and size == 1 for size in sizes)


def _argument(node: fx.Node, name: str) -> Any:
    """By name of the schema; None if it has none of that name."""
    for place, argument in enumerate(node.target._schema.arguments):  # type: ignore[union-attr]
        if argument.name == name:
            return node.args[place] if place < len(node.args) else node.kwargs.get(name, argument.default_value)
    return None


def _tensor(node: Any) -> torch.Tensor:
    return node.meta["val"]  # type: ignore[no-any-return]


def _is_half(node: Any) -> bool:
    return _tensor(node).dtype != torch.float32
