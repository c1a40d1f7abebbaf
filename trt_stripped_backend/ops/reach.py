"""What the results of operators reach, by way of operators that a GPU computes together with them.

RTX 1.6.1 computes a reduction and what follows it in one kernel, and is wrong where that has more rows than the
reduction: ``x * (v / v.mean(-1, True))``, with one row ``v`` for many of ``x`` (the response norm of ConvNeXt V2), or
``x * v.softmax(-1)``, which is infinite. 202 of 589 such graphs were wrong, and with a row more (see
:meth:`.reductions.Reductions.with_more`) none of 1,621. So converters ask whether a result goes that far.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import sympy
import torch
from torch import fx

from ..sizes import expression
from .registry import is_getitem

aten = torch.ops.aten

#: They are computed apart from what they take.
APART = frozenset({
    aten.mm, aten.bmm, aten.mv, aten.dot, aten.addmm, aten.baddbmm, aten.addbmm, aten.addmv, aten.matmul, aten.linear,
    aten.convolution, aten.scaled_dot_product_attention,
})  # fmt: skip
#: Of a tensor and a product: the matrices are behind it.
_ADDING = frozenset({aten.addmm, aten.baddbmm, aten.addbmm, aten.addmv})
_REDUCING = frozenset({
    aten.sum, aten.mean, aten.amax, aten.amin, aten.prod, aten.any, aten.all, aten.max, aten.min,
    aten.linalg_vector_norm, aten.var, aten.var_mean, aten.std, aten.std_mean, aten.logsumexp, aten._softmax,
    aten._log_softmax, aten.softmax, aten.log_softmax, aten._safe_softmax, aten.layer_norm, aten.native_layer_norm,
    aten.rms_norm, aten._fused_rms_norm, aten.group_norm, aten.native_group_norm, aten.argmax, aten.argmin, aten.topk,
    aten.sort, aten.scaled_dot_product_attention,
})  # fmt: skip
#: Reductions and products of so few terms are unrolled by RTX, which computes them together with what is around them.
FEW_TERMS = 4
_REPEATING = frozenset({aten.expand, aten.repeat})
_JOINING = frozenset({aten.cat, aten.stack})
#: What they make of zeros is finite, and they make nothing infinite of what is not.
_FINITE = frozenset({
    aten.add, aten.sub, aten.mul, aten.neg, aten.abs, aten.clamp, aten.sin, aten.cos, aten.mean, aten.sum,
    aten.relu, aten.leaky_relu, aten.gelu, aten.silu, aten.sigmoid, aten.tanh, aten.erf, aten.hardswish,
    aten.hardsigmoid, aten.layer_norm, aten.rms_norm, aten.group_norm, aten.batch_norm,
    aten._native_batch_norm_legit_no_training, aten.dropout, aten.native_dropout, aten.max_pool2d, aten.avg_pool2d,
    aten.embedding, aten._to_copy, aten.clone, aten.view, aten.reshape, aten._unsafe_view, aten.unsqueeze,
    aten.squeeze, aten.expand, aten.repeat, aten.permute, aten.transpose, aten.t, aten.slice, aten.select,
    aten.split, aten.split_with_sizes, aten.unbind, aten.cat, aten.stack, aten.flip, aten.roll, aten.pixel_shuffle,
})  # fmt: skip
#: They multiply nothing by what they take, or not in one kernel with it.
_NOT_MULTIPLYING = APART | {
    aten.cat, aten.max_pool2d, aten.max_pool2d_with_indices, aten.relu, aten.sigmoid, aten.exp, aten.sqrt, aten.sin,
    aten.cos, aten._softmax, aten.layer_norm, aten.sum, aten.mean, aten.where,
} - {aten.scaled_dot_product_attention}  # fmt: skip
_Sizes = tuple[int, frozenset[sympy.Expr]]  # the largest fixed number of elements, and all dynamic ones


class Reach:
    """What each value of a graph reaches before a product of matrices, or what makes larger tensors otherwise than by
    repeating them, and what stands before it."""

    def __init__(self, graph: fx.Graph) -> None:
        self._reached: dict[fx.Node, _Sizes] = {}
        for node in reversed(graph.nodes):
            near = [user for user in node.users if not _apart(user)]
            sizes = [_elements(user) for user in near]
            largest = max([*map(_fixed, sizes), *(self._reached[user][0] for user in near)], default=0)
            self._reached[node] = largest, frozenset(_moving(sizes)).union(*(self._reached[user][1] for user in near))

    def beyond(self, node: fx.Node) -> bool:
        """Whether what a node makes reaches a tensor that has, or may have, more elements than its operands."""
        return _more(self._reached[node], [_elements(one) for one in node.all_input_nodes])

    def beside(self, node: fx.Node) -> bool:
        """Whether what a node takes of a tensor is repeated beside others of its elements: in what is made of them, or
        of what the tensor is made of."""
        if not _more(self._reached[node], [_elements(node)]):
            return False
        dim, made = _taken(node), _walk(_going_on(node), _going_on)

        def steps(one: fx.Node) -> list[fx.Node]:  # not by way of other elements of that dimension
            return [] if _ends(one) or (dim is not None and _taken(one) == dim) else _going_on(one)

        return not made.isdisjoint(_walk(_others(node), steps))

    def strided(self, node: fx.Node) -> bool:
        """Whether what a slice takes of a tensor is beside as many of its elements that were taken with another step.

        RTX 1.6.1 takes both for one in a reduction if they begin with the same: ``(x[:, ::2] * x[:, :4]).sum(-1)``.
        """
        made, step = _walk(_going_on(node), _going_on), _step(node)
        parts = [one for one in _walk(_others(node), _going_on) if _packet(one) is aten.slice or is_getitem(one)]
        alike = [one for one in parts if _sizes(one) == _sizes(node) and _step(one) != step]
        return not made.isdisjoint(_walk(alike, _going_on))

    def finite(self, node: fx.Node) -> bool:
        """Whether what is computed into a node's operands, since the last product or softmax, is finite of zeros."""
        before = _walk(node.all_input_nodes, lambda one: [] if _settled(one) else one.all_input_nodes)
        return all(_settled(one) or is_getitem(one) or _is_finite(one) for one in before)


def multiplied(node: fx.Node) -> bool:
    """Whether something may be multiplied by what an activation makes, or by a GELU that an erf or tanh is part of."""
    return not all(_adds(node, user) or user.op == "output" or _packet(user) in _NOT_MULTIPLYING for user in node.users)


def read_again(node: fx.Node) -> bool:
    """Whether something is read for a product more than once, or again for what is made of it, and then reduced."""
    of, made = _before(node), _walk(_going_on(node), _going_on)
    if not any(_packet(one) in _REDUCING for one in made):
        return False
    reads = Counter(one for user in (*of, node) if user is node or not _ends(user) for one in _arguments(user))
    return any(reads[one] > 1 for one in of) or not made.isdisjoint(_walk(_others(node), _going_on))


def _adds(node: fx.Node, user: fx.Node) -> bool:
    """Whether a tensor as large is added to an activation, as in a residual."""
    if _packet(user) not in (aten.add, aten.sub) or _packet(node) in (aten.erf, aten.tanh):
        return False
    large = [one for one in user.all_input_nodes if _sizes(one) == _sizes(node)]
    return len(large) == 2 and user.kwargs.get("alpha", 1) in (1, None)


def _sizes(node: fx.Node) -> list[Any]:
    shape = getattr(node.meta.get("val"), "shape", ())  # a number has none
    return [size if isinstance(size, int) else expression(size) for size in shape]


def _walk(start: Iterable[fx.Node], steps: Callable[[fx.Node], Iterable[fx.Node]]) -> set[fx.Node]:
    """What is reached, with where it starts."""
    seen, left = set[fx.Node](), list(start)
    while left:
        node = left.pop()
        if node not in seen:
            seen.add(node)
            left.extend(steps(node))
    return seen


def _going_on(node: fx.Node) -> list[fx.Node]:
    return [user for user in node.users if not _ends(user)]


def _others(node: fx.Node) -> list[fx.Node]:
    """What else takes those that stand :func:`_before` a node."""
    of = _before(node)
    return [user for one in of for user in one.users if user is not node and user not in of]


def _before(node: fx.Node) -> set[fx.Node]:
    """A node's operands, and what they are computed from since the last product."""
    return _walk(node.all_input_nodes, lambda one: [] if _ends(one) else one.all_input_nodes)


def _arguments(node: fx.Node) -> list[fx.Node]:
    """Its operands, each as often as it takes it."""
    found: list[fx.Node] = []
    fx.node.map_arg((node.args, node.kwargs), found.append)
    return found


def _step(node: fx.Node) -> tuple[int, int] | None:
    """The dimension along which a slice takes every so many elements, and how many; None for what is no such slice."""
    if _packet(node) is not aten.slice or len(node.args) < 5:
        return None
    dim, step = node.args[1], node.args[4]
    assert isinstance(dim, int) and isinstance(step, int)
    return (dim % node.meta["val"].ndim, step) if step > 1 else None


def _taken(node: fx.Node) -> int | None:
    """The dimension that a node takes one element of, if it does so."""
    packet, of = _packet(node), node.all_input_nodes[:1]
    if packet in (aten.select, aten.unbind, aten.unbind_copy):
        dim = node.args[1] if len(node.args) > 1 else node.kwargs.get("dim", 0)
        return int(dim) % of[0].meta["val"].ndim if isinstance(dim, int) else None
    if packet not in (aten.slice, aten.split, aten.split_copy, aten.split_with_sizes):
        return None
    made = node.meta["val"]
    shape = (made[0] if isinstance(made, (tuple, list)) else made).shape
    sizes = zip(shape, of[0].meta["val"].shape, strict=True)
    return next((dim for dim, (one, size) in enumerate(sizes) if _fixed(one) == 1 and _fixed(size) != 1), None)


def _more(reached: _Sizes, own: Sequence[Any]) -> bool:
    largest, sizes = reached
    if moving := _moving(own):
        return bool(sizes - moving)
    return bool(sizes) or largest > max(map(_fixed, own), default=0)


def _packet(node: fx.Node) -> Any:
    return getattr(node.target, "overloadpacket", None)


def _ends(node: fx.Node) -> bool:
    return node.op == "output" or (_packet(node) in APART and not _of_few_terms(node))


def _of_few_terms(node: fx.Node) -> bool:
    packet = _packet(node)
    if packet is aten.convolution:
        return False
    left, right = (_sizes(one) for one in node.args[packet in _ADDING :][:2] if isinstance(one, fx.Node))
    terms = [*left[-1:], *right[-2:-1]] if packet is aten.scaled_dot_product_attention else left[-1:]
    return any(isinstance(size, int) and size <= FEW_TERMS for size in terms)


def _is_finite(node: fx.Node) -> bool:
    by_a_number = _packet(node) is aten.div and not isinstance(node.args[1], fx.Node)
    return by_a_number or _packet(node) in _FINITE


def _settled(node: fx.Node) -> bool:
    return node.op != "call_function" or _packet(node) in APART or _packet(node) is aten._softmax


def _apart(node: fx.Node) -> bool:
    if _packet(node) in APART or node.op == "output":
        return True
    if _packet(node) in _REPEATING or torch.Tag.pointwise in getattr(node.target, "tags", ()):
        return False
    if _packet(node) in _JOINING:
        joined = node.args[0]
        if isinstance(joined, (list, tuple)) and len(node.all_input_nodes) < len(joined):  # one of them more than once
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
