"""How large the trees are that TensorRT-RTX makes of values.

What one kernel with a reduction computes, before and behind it, is written out as a tree: a value that is read three
times, by something that is read three times, is there nine times. RTX 1.7.1 takes about 1 µs for each (two CPU cores):
twelve times ``torch.where(x > 0, x * 2, x + 1)`` of each other before a sum, 1.6 million values, are built in 1.5 s,
fourteen in 8 s, and twenty not within a minute; nor are two floor divisions, each of which reads its operand thousands
of times. Kernels without a reduction are not written out.
"""

from __future__ import annotations

import functools
import math
import operator
from collections import Counter
from collections.abc import Collection
from typing import Any

import torch
from torch import fx

from .ops.products import FEW_PRODUCTS
from .ops.reach import APART, multiplied

aten = torch.ops.aten

#: So many values are in a tree: built in two to five seconds.
MOST = 2_000_000

#: How often a converter reads an operand of floats, and how many values it makes of it when each is written out, where
#: it reads it more than once; tests/cpu/test_expanded.py counts.
READS: dict[Any, tuple[int, int]] = {
    aten.div.Tensor_mode: (8199, 88061), aten.div.Scalar_mode: (6008, 82052), aten.remainder.Tensor: (8199, 74649),
    aten.remainder.Scalar: (6008, 88060), aten.fmod.Tensor: (2048, 18654), aten.fmod.Scalar: (1501, 20504),
    aten.digamma.default: (89, 363), aten.lgamma.default: (64, 273), aten.erfinv.default: (38, 298),
    aten.erfc.default: (25, 197), aten.special_erfcx.default: (23, 170), aten.hypot.default: (22, 125),
    aten.pow.Tensor_Scalar: (16, 17), aten.atan2.default: (14, 109), aten.mish.default: (11, 50),
    aten.remainder.Scalar_Tensor: (10, 31), aten.softplus.default: (10, 56), aten.clamp.default: (9, 33),
    aten.clamp.Tensor: (9, 24), aten.elu.default: (9, 39), aten.pow.Tensor_Tensor: (9, 52),
    aten.log1p.default: (8, 34), aten.pow.Scalar: (8, 20), aten.expm1.default: (7, 26), aten.gelu.default: (5, 7),
    aten.log2.default: (4, 20), aten.log10.default: (4, 20), aten.maximum.default: (3, 7),
    aten.minimum.default: (3, 9), aten.leaky_relu.default: (3, 9), aten._prelu_kernel.default: (3, 4),
    aten.trunc.default: (3, 8), aten.silu.default: (2, 5), aten.hardswish.default: (2, 5), aten.glu.default: (2, 7),
    aten.sign.default: (2, 7), aten.signbit.default: (2, 8), aten.le.Scalar: (2, 5), aten.ge.Scalar: (2, 5),
}  # fmt: skip
#: So they do of float32 where the result is multiplied: see :func:`.ops.unary.not_fused`.
MULTIPLIED: dict[Any, tuple[int, int]] = {
    aten.relu.default: (2, 6), aten.tanh.default: (2, 8), aten.erf.default: (2, 8), aten.gelu.default: (10, 7),
}  # fmt: skip
#: Of integers those read it so often at most, and make so many values.
_OF_INTEGERS = (10, 50)

#: Beside these each value takes longer than beside a sum, which counts as so many reads.
_SLOW: dict[Any, int] = {
    aten._softmax: 4, aten._log_softmax: 4, aten.layer_norm: 5, aten.group_norm: 5, aten.rms_norm: 5,
    aten.instance_norm: 5,
}  # fmt: skip
#: And behind a half product that is written out, as so many values.
_HALF_PRODUCT = 4
#: What they make is no operand's elements any more.
_REDUCED = frozenset({
    aten.sum, aten.mean, aten.amax, aten.amin, aten.prod, aten.any, aten.all, aten.max, aten.min, aten.var,
    aten.var_mean, aten.std, aten.std_mean, aten.logsumexp, aten.linalg_vector_norm,
})  # fmt: skip
#: What they make is in memory.
_STORED = APART | {
    aten.max_pool1d, aten.max_pool2d, aten.max_pool3d, aten.max_pool2d_with_indices, aten.max_pool3d_with_indices,
    aten.avg_pool1d, aten.avg_pool2d, aten.avg_pool3d, aten.sort, aten.topk,
}  # fmt: skip
#: They reduce nothing, like views and what computes each element by itself.
_MOVED = frozenset({
    aten.cat, aten.stack, aten.clone, aten.repeat, aten.gather, aten.index, aten.index_select, aten.embedding,
    aten.constant_pad_nd, aten.flip, aten.roll, aten._to_copy, aten._unsafe_view, aten.full, aten.arange,
})  # fmt: skip


class Trees:
    """How many values each value of a graph is written out as, while one engine is put together.

    What an earlier kernel took is in memory for a later one, such as ``h`` in ``h + norm(h) @ w``.

    Args:
        graph: with fake tensors.
        outside: nodes that are in no engine.
    """

    def __init__(self, graph: fx.Graph, outside: Collection[fx.Node]) -> None:
        self._size: dict[fx.Node, int] = {}
        self._reduces = any(map(_reduces, graph.nodes))
        self._bit: dict[fx.Node, int] = {}  # of what ends a kernel
        self._feeds: dict[fx.Node, int] = {}  # bits of those that depend on a node
        self._needs: dict[fx.Node, int] = {}  # and of those that it depends on
        for node in reversed(graph.nodes):
            if _packet(node) in _STORED or node in outside:
                self._bit[node] = 1 << len(self._bit)
            users = (self._bit.get(user, 0) | self._feeds[user] for user in node.users)
            self._feeds[node] = functools.reduce(operator.or_, users, 0)

    def add(self, node: fx.Node) -> bool:
        """Adds a node whose operands were added; False, and nothing is added, if its tree is too large."""
        if not self._reduces:
            return True
        operands = Counter[fx.Node]()
        fx.map_arg((node.args, node.kwargs), lambda one: operands.update([one]))
        needs = functools.reduce(operator.or_, (self._needs.get(one, self._bit.get(one, 0)) for one in operands), 0)
        sizes = {one: 1 if self._feeds[one] & needs else self._size.get(one, 1) for one in operands}
        reads, own = _reads(node)
        size = own + reads * sum(count * sizes[one] for one, count in operands.items())
        if size > MOST and max(sizes.values()) > 1:
            return False
        self._needs[node] = needs | self._bit.get(node, 0)
        if _packet(node) in APART and _reduces(node) and _is_small(node):
            self._size[node] = _HALF_PRODUCT
        elif _packet(node) not in _REDUCED | _STORED:
            self._size[node] = size
        return True

    def end(self) -> None:
        """The engine ends: what stands before is in memory."""
        self._size.clear()


def _packet(node: fx.Node) -> Any:
    return getattr(node.target, "overloadpacket", None)


def _reduces(node: fx.Node) -> bool:
    """Whether a kernel that computes a node may have a reduction."""
    if not isinstance(node.target, torch._ops.OpOverload):
        return False
    if _packet(node) in _STORED:
        value = node.meta.get("val")
        return not (isinstance(value, torch.Tensor) and value.dtype == torch.float32)  # small half ones are sums
    return not (node.target.is_view or torch.Tag.pointwise in node.target.tags or _packet(node) in _MOVED)


def _is_small(product: fx.Node) -> bool:
    """Whether it is written out, see :meth:`.ops.net.Net.product`."""
    taken = [one.meta["val"] for one in product.all_input_nodes if isinstance(one.meta.get("val"), torch.Tensor)]
    terms = taken[-2:][0].shape[-1:]  # in all products with and without something to be added
    sizes = [*product.meta["val"].shape, *terms]
    return all(isinstance(size, int) for size in sizes) and math.prod(sizes) <= FEW_PRODUCTS


def _reads(node: fx.Node) -> tuple[int, int]:
    reads, own = READS.get(node.target, (_SLOW.get(_packet(node), 1), 1))
    value = node.meta.get("val")
    if not isinstance(value, torch.Tensor):
        return reads, own
    if not value.dtype.is_floating_point:
        return min(reads, _OF_INTEGERS[0]), min(own, _OF_INTEGERS[1])
    if value.dtype == torch.float32 and multiplied(node):
        return MULTIPLIED.get(node.target, (reads, own))
    return reads, own
