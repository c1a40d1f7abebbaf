"""Sources, derived weights and slots: splits a lowered graph, and tells at run time which weights changed.

A derived weight is a parameters-only piece of the graph (a folded BatchNorm, ``W + s·B@A``, an autocast's
``W.half()``). It is computed in PyTorch when one of its sources changed, not at each call. Pure constants stay in the
engine.
"""

from __future__ import annotations

import operator
from dataclasses import dataclass
from typing import Any

import torch
from torch import fx
from torch.fx._lazy_graph_module import _LazyGraphModule
from torch.fx.experimental.symbolic_shapes import has_free_symbols

from .inplace import viewed
from .kernel_layout import to_be_laid_out
from .lowering import Lowered

aten = torch.ops.aten

#: Views that an engine makes for nothing, so that a bare parameter need not be copied for them.
_VIEWS = frozenset({
    aten.t.default, aten.permute.default, aten.transpose.int, aten.view.default, aten._unsafe_view.default,
    aten.reshape.default, aten.expand.default, aten.unsqueeze.default, aten.squeeze.default, aten.squeeze.dim,
    aten.squeeze.dims, aten.slice.Tensor, aten.select.int, aten.split_with_sizes.default, aten.split.Tensor,
    aten.unbind.int,
})  # fmt: skip


_LAST: dict[str, Any] = {"memory_format": torch.channels_last}


@dataclass(frozen=True)
class Derived:
    """One connected piece of parameters-only arithmetic.

    Attributes:
        module: sources → a tuple of derived weights.
        sources: positions of its arguments among the lowered graph's.
        names: placeholders of the main graph that its outputs become.
    """

    module: fx.GraphModule
    sources: tuple[int, ...]
    names: tuple[str, ...]


@dataclass(frozen=True)
class Split:
    """A lowered graph without its parameters-only arithmetic.

    Attributes:
        module: the main graph; placeholders are the lowered graph's own, in order, then the derived weights.
        arguments: how many placeholders are the lowered graph's own.
        derived: the pieces split off.
        weights: names of placeholders that are weights: sources and derived ones.
        sources: positions of arguments that are sources.
        kernels: those of the weights that are computed in the layout of ``kernel_layout.py``, as their fakes are not.
    """

    module: fx.GraphModule
    arguments: int
    derived: tuple[Derived, ...]
    weights: frozenset[str]
    sources: tuple[int, ...]
    kernels: frozenset[str] = frozenset()


def is_pure(node: fx.Node) -> bool:
    """A functional, deterministic operator."""
    if node.op == "get_attr" or node.target is operator.getitem:
        return True
    if node.op != "call_function" or not isinstance(node.target, torch._ops.OpOverload):
        return False
    return not node.target._schema.is_mutable and torch.Tag.nondeterministic_seeded not in node.target.tags


def constant_nodes(graph: fx.Graph) -> set[fx.Node]:
    """Nodes that depend on no placeholder: literals, whatever device they are traced on."""
    constant: set[fx.Node] = set()
    for node in graph.nodes:
        pure = node.op not in ("placeholder", "output") and is_pure(node)
        if pure and all(i in constant for i in node.all_input_nodes):
            constant.add(node)
    return constant


def split(lowered: Lowered, *, mode: str = "bound", rtx: bool = True) -> Split:
    """Splits the parameters-only arithmetic off a lowered graph.

    Args:
        lowered: the graph.
        mode: how engines get their weights. In ``general`` only floating-point tensors are weights: of others
            TensorRT-RTX (seen on 1.6.1) builds the placeholder's zeros in, whatever comes later.
        rtx: it is TensorRT-RTX: bound kernels that are computed come in the layout of :mod:`.kernel_layout`.
    """
    gm = lowered.module
    placeholders = gm.graph.find_nodes(op="placeholder")
    sources = {placeholders[i] for i in lowered.sources}
    constant = constant_nodes(gm.graph)
    derivable = set(sources)
    for node in gm.graph.nodes:
        inputs = node.all_input_nodes
        if (
            node.op == "call_function" and is_pure(node) and inputs and node not in constant
            and all(i in derivable or i in constant for i in inputs) and not _symbolic(node)
        ):  # fmt: skip
            derivable.add(node)
    cuts: dict[fx.Node, None] = {}
    for node in gm.graph.nodes:
        if node not in derivable or node in sources or not isinstance(node.meta.get("val"), torch.Tensor):
            continue
        for user in node.users:
            if user not in derivable:
                # A view costs nothing in the engine, and an expand would be materialised.
                root = _root(node) if user.op != "output" else _bases(node)[-1]
                if root.op != "placeholder":
                    cuts[root] = None
    main = _LazyGraphModule(gm, _main_graph(gm, cuts))  # it is cut up and never runs itself
    order = {node: index for index, node in enumerate(gm.graph.nodes)}
    positions = {node: index for index, node in enumerate(placeholders)}
    relaid = {cut for cut in cuts if mode == "bound" and rtx and to_be_laid_out(cut)}
    derived = tuple(_derive(gm, group, order, positions, relaid) for group in _components(cuts, constant))
    weights = {p.name for p in sources} | {name for piece in derived for name in piece.names}
    # TensorRT knows no weight without elements, nor one that no element of a result needs: inputs like others.
    needed = _needed(main.graph)
    names = {
        p.name for p in main.graph.find_nodes(op="placeholder")
        if p.name in weights and (p in needed or not p.users) and p.meta["val"].numel()
        and (p.meta["val"].is_floating_point() or mode != "general")
    }  # fmt: skip
    named = frozenset(map(_derived_name, relaid))
    return Split(main, len(placeholders), derived, frozenset(names), lowered.sources, named)


def _symbolic(node: fx.Node) -> bool:
    value = node.meta.get("val")
    values = value if isinstance(value, (tuple, list)) else (value,)
    return any(isinstance(v, torch.Tensor) and has_free_symbols(v.shape) for v in values)


def _needed(graph: fx.Graph) -> set[fx.Node]:
    """Nodes with an element that a result, or a write, may depend on."""
    needed: set[fx.Node] = set()
    for node in reversed(graph.nodes):
        value = node.meta.get("val")
        values = value if isinstance(value, (tuple, list)) else (value,)
        empty = all(isinstance(v, torch.Tensor) and 0 in [s for s in v.shape if isinstance(s, int)] for v in values)
        writes = node.op != "placeholder" and not is_pure(node)  # so does the output, in this sense
        if writes or (not empty and not needed.isdisjoint(node.users)):
            needed.add(node)
    return needed


def _bases(node: fx.Node) -> list[fx.Node]:
    """A node, what it is a view of, what that is a view of, …"""
    chain = [node]
    while (base := viewed(chain[-1])) is not None:
        chain.append(base)
    return chain


def _components(cuts: dict[fx.Node, None], constant: set[fx.Node]) -> list[list[fx.Node]]:
    """Cuts that share arithmetic, together: so nothing is computed twice, and no more than a change needs."""
    leader: dict[fx.Node, fx.Node] = {}  # a node that it shares arithmetic with; itself, if it leads

    def led(node: fx.Node) -> fx.Node:
        while leader[node] is not node:
            leader[node] = node = leader[leader[node]]
        return node

    for cut in cuts:
        stack = [] if cut in leader else [cut]
        leader.setdefault(cut, cut)
        while stack:
            for node in stack.pop().all_input_nodes:
                if node.op != "call_function" or node in constant:
                    continue
                if node not in leader:
                    stack.append(node)
                    leader[node] = cut
                leader[led(node)] = led(cut)
    groups: dict[fx.Node, list[fx.Node]] = {}
    for cut in cuts:
        groups.setdefault(led(cut), []).append(cut)
    return list(groups.values())


def _derived_name(cut: fx.Node) -> str:
    return f"derived_{cut.name}"


def _derive(
    gm: fx.GraphModule, cuts: list[fx.Node], order: dict[fx.Node, int], positions: dict[fx.Node, int],
    relaid: set[fx.Node],
) -> Derived:  # fmt: skip
    need: set[fx.Node] = set()
    stack = list(cuts)
    while stack:
        node = stack.pop()
        if node not in need:
            need.add(node)
            stack.extend(node.all_input_nodes)
    graph = fx.Graph()
    copies: dict[fx.Node, fx.Node] = {}
    for node in sorted(need, key=order.__getitem__):
        copies[node] = graph.node_copy(node, copies.__getitem__)
    for cut in cuts:
        if cut in relaid:
            copies[cut] = graph.call_function(aten.clone.default, (copies[cut],), _LAST)
        elif _bases(cut)[-1].op == "placeholder":
            # What is kept must not hold the model's own memory, or a dead model would seem alive.
            copies[cut] = graph.call_function(aten.clone.default, (copies[cut],))
    graph.output(tuple(copies[cut] for cut in cuts))
    used = tuple(positions[node] for node in copies if node in positions)
    return Derived(fx.GraphModule(gm, graph), used, tuple(_derived_name(cut) for cut in cuts))


def _main_graph(gm: fx.GraphModule, cuts: dict[fx.Node, None]) -> fx.Graph:
    graph = fx.Graph()
    copies: dict[fx.Node, fx.Node] = {}
    for placeholder in gm.graph.find_nodes(op="placeholder"):
        copies[placeholder] = graph.node_copy(placeholder)
    for cut in cuts:
        copies[cut] = graph.placeholder(_derived_name(cut))
        copies[cut].meta = dict(cut.meta)
    for node in gm.graph.nodes:
        if node.op == "output":
            _copy_returned(graph, node, copies, cuts)
        if node not in copies:
            copies[node] = graph.node_copy(node, copies.__getitem__)
    graph.eliminate_dead_code()
    return graph


def _copy_returned(graph: fx.Graph, output: fx.Node, copies: dict[fx.Node, fx.Node], cuts: dict[fx.Node, None]) -> None:
    """Returns copies of derived weights: the user may write to what is returned, and must not reach ours.

    One copy for each, with the views that are returned of it, so that these share their memory as in PyTorch.
    """
    copied: dict[fx.Node, fx.Node] = {}
    for value in output.all_input_nodes:
        *views, root = _bases(value)
        if cuts.keys().isdisjoint([*views, root]):
            continue
        if root in cuts and root not in copied:
            copied[root] = graph.call_function(aten.clone.default, (copies[root],))
            copied[root].meta = dict(root.meta)
        for node in reversed(views):
            if node not in copied:
                copied[node] = graph.node_copy(node, lambda n: copied.get(n) or copies[n])
    copies.update(copied)


def _root(node: fx.Node) -> fx.Node:
    """What is behind views that an engine makes for nothing."""
    while (base := viewed(node)) is not None:
        maker = node.args[0] if node.target is operator.getitem else node
        if not isinstance(maker, fx.Node) or maker.target not in _VIEWS:
            break
        node = base
    return node
