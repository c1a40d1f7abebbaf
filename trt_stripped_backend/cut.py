"""Cuts a graph into engines and PyTorch, as it was grouped."""

from __future__ import annotations

import operator
from typing import Any

import sympy
import torch
from torch import fx
from torch.fx._lazy_graph_module import _LazyGraphModule

from .ops.registry import is_getitem
from .sizes import expression, is_symbol, symbols
from .types import Partition
from .weights import Split

aten = torch.ops.aten

#: The argument that the split graph passes first to every engine: the weights to run with.
WEIGHTS = "weights"


def is_random(node: fx.Node) -> bool:
    target = node.target
    return isinstance(target, torch._ops.OpOverload) and torch.Tag.nondeterministic_seeded in target.tags


class Cut:
    """The graph under construction: nodes are copied, each group becomes one call of an engine.

    PyTorch makes the views ``outside``; those that an engine uses too it makes itself. A literal
    ``elsewhere`` than the engines' tensors can neither enter nor leave an engine: each has its own, and so has PyTorch.
    """

    def __init__(
        self, gm: fx.GraphModule, groups: list[list[fx.Node]], outside: set[fx.Node], elsewhere: set[fx.Node],
        split: Split, sizes: dict[fx.Node, None], told: dict[sympy.Symbol, fx.Node],
    ) -> None:  # fmt: skip
        order = {node: index for index, node in enumerate(gm.graph.nodes)}
        self.group_of = {node: index for index, group in enumerate(groups) for node in group}
        self.groups = [_with_literals(group, elsewhere, order) for group in groups]
        self.inputs = [_inputs(group, told) for group in self.groups]
        self.outside, self.apart = outside, outside | elsewhere
        self.gm, self.elsewhere, self.split, self.sizes = gm, elsewhere, split, sizes
        self.graph = fx.Graph()
        self.new: dict[fx.Node, fx.Node] = {}
        self.attributes: dict[str, Any] = {}
        self.partitions: list[Partition] = []
        self.done: set[int] = set()

    def run(self) -> tuple[fx.GraphModule, tuple[Partition, ...]]:
        self.bundle = self.graph.placeholder(WEIGHTS)
        # Depth first over units (an engine or a node), in the graph's own order: what writes to arguments stays last.
        # But an engine may need a random operator after another that it does not need, so those come first.
        random = [node for node in self.gm.graph.nodes if is_random(node)]
        for root in (*self.gm.graph.find_nodes(op="placeholder"), *random, *self.gm.graph.nodes):
            later = root in self.elsewhere or (root in self.sizes and root.op != "placeholder")
            stack = [] if later else [(root, False)]
            while stack:
                node, ready = stack.pop()
                if self._emitted(node):
                    continue
                if ready:
                    self._emit(node)
                else:
                    stack.append((node, True))
                    stack.extend((d, False) for d in reversed(self._dependencies(node)) if not self._emitted(d))
        return _LazyGraphModule(self.attributes, self.graph), tuple(self.partitions)

    def _emitted(self, node: fx.Node) -> bool:
        return node in self.new or self.group_of.get(node) in self.done

    def _dependencies(self, node: fx.Node) -> list[fx.Node]:
        if node not in self.group_of:
            return node.all_input_nodes
        return self.inputs[self.group_of[node]]

    def _emit(self, node: fx.Node) -> None:
        if node in self.group_of:
            self.done.add(self.group_of[node])
            self._emit_engine(self.group_of[node])
            return
        if node.op == "get_attr":
            self.attributes[str(node.target)] = attribute(self.gm, node)
        self.new[node] = self.graph.node_copy(node, self.new.__getitem__)
        if node.name in self.split.kernels and any(user not in self.group_of for user in node.users):
            self.new[node] = self.graph.call_function(aten.contiguous.default, (self.new[node],))

    def _emit_engine(self, index: int) -> None:
        name, group = f"engine_{len(self.partitions)}", self.groups[index]
        inputs = [n for n in self.inputs[index] if n.op != "get_attr"]
        piece, outputs = _extract(self.gm, group, self.inputs[index], self.apart)
        used = frozenset(n.name for n in inputs if n.op == "placeholder" and n.name in self.split.weights)
        nodes = sum(not is_getitem(n) for n in group)
        self.partitions.append(Partition(name, piece, used, nodes, used & self.split.kernels))
        self.attributes[name] = piece
        call = self.graph.call_module(name, (self.bundle, *(self.new[n] for n in inputs if n.name not in used)))
        for index, node in enumerate(outputs):
            self.new[node] = self.graph.call_function(operator.getitem, (call, index))
            self.new[node].meta = dict(node.meta)
        for node in group:
            if node in self.outside:
                self.new[node] = self.graph.node_copy(node, self.new.__getitem__)


def attribute(gm: fx.GraphModule, node: fx.Node) -> Any:
    return operator.attrgetter(str(node.target))(gm)


def _inputs(group: list[fx.Node], told: dict[sympy.Symbol, fx.Node]) -> list[fx.Node]:
    """What a group takes from outside: arguments of its nodes, and the sizes that no tensor among these tells."""
    members = set(group)
    given = dict.fromkeys(i for n in group for i in n.all_input_nodes if i not in members)
    used = dict.fromkeys(s for n in (*group, *given) for s in symbols(_shapes(n.meta.get("val"))))
    own = {expression(v) for n in given for v in _shapes(n.meta.get("val")) if is_symbol(v)}
    return [*given, *(told[symbol] for symbol in used if symbol not in own)]


def _shapes(value: Any) -> list[Any]:
    """All sizes in a node's value."""
    if isinstance(value, torch.Tensor):
        return list(value.shape)
    if isinstance(value, (tuple, list)):
        return [s for one in value for s in _shapes(one)]
    return [value]


def _extract(
    gm: fx.GraphModule, group: list[fx.Node], given: list[fx.Node], outside: set[fx.Node]
) -> tuple[fx.GraphModule, list[fx.Node]]:
    """A group as a module of its own: (module, the nodes behind its outputs)."""
    members, graph = set(group), fx.Graph()
    copies: dict[fx.Node, fx.Node] = {}
    attributes: dict[str, Any] = {}
    for node in given:
        if node.op != "get_attr":
            copies[node] = graph.placeholder(node.name)
            copies[node].meta = dict(node.meta)
    for node in given:
        if node.op == "get_attr":
            attributes[str(node.target)] = attribute(gm, node)
            copies[node] = graph.node_copy(node)
    for node in group:
        copies[node] = graph.node_copy(node, copies.__getitem__)
    needed = {user for n in group for user in n.users if user not in members or user in outside}
    outputs = [n for n in group if n not in outside and not needed.isdisjoint(n.users)]
    graph.output(tuple(copies[n] for n in outputs))
    return _LazyGraphModule(attributes, graph), outputs  # code is made for those that run in PyTorch


def _with_literals(group: list[fx.Node], elsewhere: set[fx.Node], order: dict[fx.Node, int]) -> list[fx.Node]:
    """A group after the literals among ``elsewhere`` that it needs."""
    needed: set[fx.Node] = set()
    stack = list(group)
    while stack:
        found = [i for i in stack.pop().all_input_nodes if i in elsewhere and i not in needed]
        needed.update(found)
        stack.extend(found)
    return [*sorted(needed, key=order.__getitem__), *group]
