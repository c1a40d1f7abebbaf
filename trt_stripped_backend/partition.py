"""Which nodes run in engines: asks each operator for its reasons against, groups the rest, splits the graph.

Grouping is linear in nodes and edges. The level of a node is the number of changes between "engine" and "PyTorch" on
the longest path to it; two engine nodes of one level cannot be joined by a path through PyTorch, because that path
would raise the level by two. So everything of one level is one partition, without a cycle. Random operators follow each
other on a path of their own: each takes the numbers of the generator that it takes in PyTorch.
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass

import sympy
import torch
from torch import fx

from .cut import Cut, attribute, is_random
from .inplace import viewed
from .ops.registry import is_getitem
from .options import Options
from .origin import origin
from .reasons import Lookup, reasons
from .repeats import blocks
from .sizes import expression, is_symbol
from .types import Partition, Rejection, layout
from .unrolled import begins
from .weights import Split, constant_nodes

aten = torch.ops.aten

_SLOWLY = "TensorRT builds the two as one for minutes (docs/tensorrt-rtx.md)"
#: How many nodes a note names.
_FEW = 6


@dataclass(frozen=True)
class Partitioned:
    """A graph cut into engines and PyTorch.

    Attributes:
        module: takes the weight sets, then the main graph's own placeholders; each partition is a ``call_module``
            ``engine_k(weights, *inputs)`` without its weight placeholders.
        partitions: in the order of execution.
        rejections: why the other nodes stay in PyTorch, in graph order.
        device: where the engines' tensors are; None for a graph without tensor arguments.
        notes: why engines end where nothing stays in PyTorch.
    """

    module: fx.GraphModule
    partitions: tuple[Partition, ...]
    rejections: tuple[Rejection, ...]
    device: torch.device | None
    notes: tuple[str, ...] = ()


def partition(
    split: Split, options: Options, lookup: Lookup, *, refit: bool = True, apart: Collection[str] = ()
) -> Partitioned:  # fmt: skip
    """Cuts the main graph of a split.

    Args:
        split: what :func:`.weights.split` returned.
        options: ``min_block_size``, ``torch_executed_ops`` and ``allow_ops`` matter here.
        lookup: the registered op of a target, or None.
        refit: engines must be refittable (every mode but ``immutable``).
        apart: names of nodes that begin another engine than what stands before them.
    """
    gm = split.module
    device, constant = _device(gm.graph), constant_nodes(gm.graph)
    sizes = _sizes(gm.graph)
    told = _told(gm.graph, sizes)
    rejected: dict[fx.Node, Rejection] = {}
    literals = set(constant)
    for node in gm.graph.nodes:
        if node in sizes:
            continue
        if node.op == "call_function" and not is_getitem(node):
            found = next(reasons(node, options, lookup, refit, literals, sizes, told, device), None)
            if found is not None:
                rejected[node] = _rejection(node, *found)
                literals.discard(node)
        elif is_getitem(node) and node.args[0] in rejected:
            literals.discard(node)
        elif node.op == "call_module":
            rejected[node] = _rejection(node, "op", "a submodule is not converted")
    groups = []
    levels, unrolled = _levels(gm.graph, rejected, sizes), begins(gm.graph, rejected)
    notes = *_ends(levels, unrolled, _SLOWLY), *_ends(levels, apart, "TensorRT did not build the two as one")
    for group in _parted(levels, unrolled.union(apart)):
        counted = [n for n in group if n not in constant and not is_getitem(n)]
        if len(counted) >= max(options.min_block_size, 1):
            groups.append(group)
            continue
        why = f"block of {len(counted)} operators, smaller than min_block_size={options.min_block_size}"
        rejected.update({n: _rejection(n, "size", why) for n in counted})
    if options.dedupe_layers:
        literal = functools.partial(attribute, gm)
        groups = [b for g in groups for b in blocks(g, options.min_block_size, split.weights, literal)]
    elsewhere = {node for node in literals if _is_elsewhere(node, device)}
    groups, outside = _share_memory([[node for node in group if node not in elsewhere] for group in groups])
    module, partitions = Cut(gm, groups, outside, elsewhere, split, sizes, told).run()
    order = {node: index for index, node in enumerate(gm.graph.nodes)}
    rejections = tuple(rejected[n] for n in sorted(rejected, key=order.__getitem__) if n not in constant)
    return Partitioned(module, partitions, rejections, device, notes)


def recut(split: Split, groups: Sequence[tuple[Sequence[str], Sequence[str]]]) -> Partitioned:
    """Cuts the main graph of a split as it was cut before.

    Args:
        split: what :func:`.weights.split` returned.
        groups: of each engine the nodes by name, in graph order, and those of them that it returns.

    Raises:
        KeyError: the graph has no node of such a name.
    """
    gm = split.module
    sizes = _sizes(gm.graph)
    told = _told(gm.graph, sizes)
    named = {node.name: node for node in gm.graph.nodes}
    device, constant = _device(gm.graph), constant_nodes(gm.graph)
    chosen = [[named[name] for name in nodes] for nodes, _ in groups]
    elsewhere = {node for group in chosen for node in group if node in constant and _is_elsewhere(node, device)}
    chosen = [[node for node in group if node not in elsewhere] for group in chosen]
    outside: set[fx.Node] = set()
    for group, (_, outputs) in zip(chosen, groups, strict=True):
        inner = set(group).difference(map(named.__getitem__, outputs))
        leaving = (node for node in inner if not set(group).issuperset(node.users))
        outside.update(view for node in leaving for view in _views(node, _base(node, inner)))
    module, partitions = Cut(gm, chosen, outside, elsewhere, split, sizes, told).run()
    return Partitioned(module, partitions, (), device)


def _sizes(graph: fx.Graph) -> dict[fx.Node, None]:
    """Arithmetic on sizes of the graph's arguments: known before any engine runs, wherever its result is used."""
    sizes: dict[fx.Node, None] = {}
    for node in graph.nodes:
        if isinstance(node.meta.get("val"), torch.SymInt) and all(
            i in sizes or i.op == "placeholder" for i in node.all_input_nodes
        ):
            sizes[node] = None
    return sizes


def _told(graph: fx.Graph, sizes: dict[fx.Node, None]) -> dict[sympy.Symbol, fx.Node]:
    """For each symbol the node that tells its value; makes one where only a tensor does, and adds it to ``sizes``."""
    told = {expression(node.meta["val"]): node for node in reversed(list(sizes)) if is_symbol(node.meta["val"])}
    with graph.inserting_before(next(node for node in graph.nodes if node.op != "placeholder")):
        for node in graph.find_nodes(op="placeholder"):
            value = node.meta.get("val")
            for dim, size in enumerate(value.shape if isinstance(value, torch.Tensor) else ()):
                if is_symbol(size) and expression(size) not in told:
                    told[expression(size)] = made = graph.call_function(aten.sym_size.int, (node, dim))
                    made.meta["val"] = size
                    sizes[made] = None
    return told


def _device(graph: fx.Graph) -> torch.device | None:
    """Where the graph runs: the CUDA device of its arguments if they have one, else the device of the first."""
    values = [node.meta.get("val") for node in graph.find_nodes(op="placeholder")]
    devices = [value.device for value in values if isinstance(value, torch.Tensor)]
    return next((d for d in devices if d.type == "cuda"), devices[0] if devices else None)


def _is_elsewhere(node: fx.Node, device: torch.device | None) -> bool:
    """Whether an operator's results are on another device than the engines' tensors."""
    value = node.meta.get("val")
    values = value if isinstance(value, (tuple, list)) else (value,)
    found = any(isinstance(one, torch.Tensor) and one.device != device for one in values)
    return device is not None and node.op == "call_function" and found


def _rejection(node: fx.Node, kind: str, reason: str) -> Rejection:
    return Rejection(node.name, str(node.target), kind, reason, *origin(node))


# ------------------------------------------------------------------------------------------------ groups


def _levels(graph: fx.Graph, rejected: dict[fx.Node, Rejection], sizes: dict[fx.Node, None]) -> list[list[fx.Node]]:
    level: dict[fx.Node, int] = {}
    inside: dict[fx.Node, bool] = {}
    chance: list[fx.Node] = []
    for node in graph.nodes:
        if node.op in ("placeholder", "get_attr", "output") or node in sizes:
            continue
        inside[node] = inside[node.args[0]] if is_getitem(node) and node.args[0] in inside else node not in rejected
        if is_getitem(node) and node.args[0] not in inside:
            inside[node] = False
        before = [level[i] + (inside[i] != inside[node]) for i in node.all_input_nodes if i in level]
        if node in rejected and is_random(node):
            before += [level[one] for one in chance[-1:]]
            chance.append(node)
        level[node] = max(before, default=0 if inside[node] else 1)
    latest = None
    for node in reversed(list(level)):
        # Literals, weight.t() and early side branches join the partition that uses them.
        if node.users and all(user in level for user in node.users):
            level[node] = min(level[user] - (inside[user] != inside[node]) for user in node.users)
        if chance and node is chance[-1]:
            level[node] = level[node] if latest is None else min(level[node], latest)
            latest = level[chance.pop()]
        # The parts of an output stay with it: an engine has no output that is a tuple.
        level.update({user: level[node] for user in node.users if is_getitem(user)})
    groups: dict[int, list[fx.Node]] = {}
    for node in level:
        if inside[node]:
            groups.setdefault(level[node], []).append(node)
    return [groups[index] for index in sorted(groups)]


def _parted(groups: list[list[fx.Node]], apart: Collection[str]) -> Iterator[list[fx.Node]]:
    """The groups in parts that begin with these nodes. No path through PyTorch joins two parts: none joins a group."""
    for group in groups:
        starts = [0, *(index for index, node in enumerate(group) if index and node.name in apart), len(group)]
        yield from (group[start:stop] for start, stop in itertools.pairwise(starts))


def _ends(groups: list[list[fx.Node]], apart: Collection[str], why: str) -> Iterator[str]:
    """A note on the engines that begin with these nodes, if any do."""
    starts = [node for group in groups for node in group[1:] if node.name in apart]
    if starts:
        named = [f"{node.name} ({where})" if (where := origin(node).where) else node.name for node in starts[:_FEW]]
        more = f" and {len(starts) - _FEW} more" if len(starts) > _FEW else ""
        yield f"another engine begins at {', '.join(named)}{more}: {why}"


def _share_memory(groups: list[list[fx.Node]]) -> tuple[list[list[fx.Node]], set[fx.Node]]:
    """Takes out of its engine each view that leaves it beside its own base, or beside another view of that base.

    An engine writes each output to memory of its own, while in PyTorch ``y`` and ``y.view(-1)`` share theirs, which a
    write of the user's would show. And it writes without gaps, from the start of that memory: a view that differs in
    what PyTorch's operators and the user may see of it is made in PyTorch too.

    Returns:
        The groups, and the views to make in PyTorch. Some of those are members still: other members need them too.
    """
    result: list[list[fx.Node]] = []
    outside: set[fx.Node] = set()
    inside = {node for group in groups for node in group}
    for group in groups:
        members = set(group)
        bases: dict[fx.Node, list[fx.Node]] = {}
        for node in group:
            if any(user not in members for user in node.users):
                bases.setdefault(_base(node, members), []).append(node)
        for base, nodes in bases.items():
            together = base.op != "placeholder" and (len(nodes) > 1 or base not in members)
            for node in nodes:
                if together or (node is not base and _shows_layout(node, base, inside)):
                    outside.update(_views(node, base))
        for node in reversed(group):
            if node in outside and not any(user in members for user in node.users):
                members.discard(node)
        result.append([n for n in group if n in members])
    return [group for group in result if group], outside


def _shows_layout(view: fx.Node, base: fx.Node, inside: set[fx.Node]) -> bool:
    """Whether somebody but engines sees more of a view than its values."""
    users = [user for user in view.users if user not in inside]
    # AOTAutograd makes the views that the graph returns of its arguments anew, with the strides and the offset of ours.
    returned = base.op == "placeholder" and any(user.op == "output" for user in users)
    offset = any(user.target is aten.as_strided.default for user in users)
    return returned or offset or (bool(users) and layout(view.meta["val"]) is None)


def _base(node: fx.Node, members: set[fx.Node]) -> fx.Node:
    while node in members and (base := viewed(node)) is not None:
        node = base
    return node


def _views(node: fx.Node, base: fx.Node) -> Iterator[fx.Node]:
    """From a view to what stands next to its base."""
    while node is not base:
        yield node
        node = viewed(node) or base
