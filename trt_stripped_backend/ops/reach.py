"""What the results of operators reach, by way of operators that a GPU computes together with them.

RTX 1.6.1 computes a reduction and what follows it in one kernel, and is wrong where that has more rows than the
reduction: ``x * (v / v.mean(-1, True))``, with one row ``v`` for many of ``x`` (the response norm of ConvNeXt V2), or
``x * v.softmax(-1)``, which is infinite. 202 of 589 such graphs were wrong, and with a row more (see
:meth:`.reductions.Reductions.with_more`) none of 1,621. So converters ask whether a result goes that far.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import sympy
import torch
from torch import fx

from ..sizes import expression

aten = torch.ops.aten

#: They are computed apart from what they take.
APART = frozenset({
    aten.mm, aten.bmm, aten.mv, aten.dot, aten.addmm, aten.baddbmm, aten.addbmm, aten.addmv, aten.matmul, aten.linear,
    aten.convolution, aten.scaled_dot_product_attention,
})  # fmt: skip
_REPEATING = frozenset({aten.expand, aten.repeat})


class Reach:
    """What each value of a graph reaches before a product of matrices, or what makes larger tensors otherwise than by
    repeating them."""

    def __init__(self, graph: fx.Graph) -> None:
        self._operators: dict[fx.Node, frozenset[Any]] = {}
        self._largest: dict[fx.Node, int] = {}  # of fixed sizes, in elements
        self._dynamic: dict[fx.Node, frozenset[sympy.Expr]] = {}
        for node in reversed(graph.nodes):
            near = [user for user in node.users if not _apart(user)]
            sizes = [_elements(user) for user in near]
            self._largest[node] = max([*map(_fixed, sizes), *(self._largest[user] for user in near)], default=0)
            self._dynamic[node] = frozenset(_moving(sizes)).union(*(self._dynamic[user] for user in near))
            called = {user.target.overloadpacket for user in near if hasattr(user.target, "overloadpacket")}
            self._operators[node] = frozenset(called).union(*(self._operators[user] for user in near))

    def operators(self, node: fx.Node) -> frozenset[Any]:
        """The operators that what a node makes reaches."""
        return self._operators[node]

    def beyond(self, node: fx.Node) -> bool:
        """Whether what a node makes reaches a tensor that has, or may have, more elements than its operands."""
        own = [_elements(one) for one in node.all_input_nodes]
        if moving := _moving(own):
            return bool(self._dynamic[node] - moving)
        return bool(self._dynamic[node]) or self._largest[node] > max(map(_fixed, own), default=0)


def _apart(node: fx.Node) -> bool:
    packet = getattr(node.target, "overloadpacket", None)
    if packet in APART or node.op == "output":
        return True
    if packet in _REPEATING or torch.Tag.pointwise in getattr(node.target, "tags", ()):
        return False
    made = _example(_elements(node))
    return all(_example(_elements(one)) < made for one in node.all_input_nodes)


def _elements(node: fx.Node) -> Any:
    """Of the largest tensor that a node makes."""
    value = node.meta.get("val")
    made = value if isinstance(value, (tuple, list)) else [value]
    return max((one.numel() for one in made if isinstance(one, torch.Tensor)), key=_example, default=0)


def _example(size: Any) -> int:
    """What a size was when the graph was traced; one that the data decide counts as 0."""
    if isinstance(size, int):
        return size
    return int(size.node.hint) if size.node.has_hint() else 0


def _fixed(size: Any) -> int:
    return size if isinstance(size, int) else 0


def _moving(sizes: Sequence[Any]) -> set[sympy.Expr]:
    return {expression(size) for size in sizes if not isinstance(size, int)}
