"""Memory that a model writes to: views, and updates of a part of a buffer, such as a step's place in a KV cache.

A functional graph holds ``copy_(cache, index_put(cache, …))``: the whole cache would leave the engine and be copied
back. Done in place, only what is put there leaves it.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import fx

aten = torch.ops.aten

#: Updates whose places are arguments: the functional operator and the one in place.
_BY_INDEX: dict[Any, Any] = {
    aten.index_put.default: aten.index_put_.default,
    aten.scatter.src: aten.scatter_.src,
    aten.scatter.value: aten.scatter_.value,
    aten.scatter_add.default: aten.scatter_add_.default,
    aten.scatter_reduce.two: aten.scatter_reduce_.two,
}
#: Updates of what a view shows: the operator and the view.
_BY_VIEW: dict[Any, Any] = {
    aten.slice_scatter.default: aten.slice.Tensor,
    aten.select_scatter.default: aten.select.int,
    aten.diagonal_scatter.default: aten.diagonal.default,
}


def viewed(node: fx.Node) -> fx.Node | None:
    """What a view shares its memory with; None for a node that has memory of its own."""
    if node.target is operator.getitem:
        several = node.args[0]
        return several if isinstance(several, fx.Node) and viewed(several) is not None else None
    if not isinstance(node.target, torch._ops.OpOverload):
        return None
    if not (node.target.is_view or node.target is aten._unsafe_view.default):
        return None
    base = node.args[0] if node.args else None
    return base if isinstance(base, fx.Node) else None


def writes(node: fx.Node) -> bool:
    """Whether a node writes to its first argument."""
    return isinstance(node.target, torch._ops.OpOverload) and node.target._schema.is_mutable


def is_written(node: fx.Node) -> bool:
    """Whether some node writes to this one's memory, through views too."""
    memory = [node]  # grows while it is read: a chain of views may be longer than the stack is deep
    for one in memory:
        for user in one.users:
            if writes(user) and user.args[0] is one:
                return True
            if viewed(user) is one:
                memory.append(user)
    return False


def update_in_place(gm: fx.GraphModule, sources: set[fx.Node]) -> None:
    """``copy_(cache, index_put(cache, …))`` ⇒ ``index_put_(cache, …)``, at the same place: the graph's end.

    Only where nothing that is put there lies in memory written to by then: ``x[1:] = x[:-1]`` stays as it is.
    """
    copies = gm.graph.find_nodes(op="call_function", target=aten.copy_.default)
    written: set[fx.Node] = set()
    for copy in copies:
        buffer, value = copy.args[0], copy.args[1]
        written.add(_root(buffer))
        chain = _chain(value, buffer)
        if not chain or any(_root(one) in written for update in chain for one in _operands(update)):
            continue
        with gm.graph.inserting_before(copy):
            for update in chain:
                _write(gm.graph, buffer, update)
        copy.replace_all_uses_with(buffer)
        gm.graph.erase_node(copy)
    gm.graph.eliminate_dead_code()


def _root(node: Any) -> fx.Node:
    while (base := viewed(node)) is not None:
        node = base
    found: fx.Node = node
    return found


def _chain(value: Any, buffer: Any) -> list[fx.Node]:
    """The updates that lead from ``buffer`` to ``value``, the first one first; none if there is more to it."""
    chain = []
    while not _same(value, buffer):
        if value.target not in _BY_INDEX and value.target not in _BY_VIEW:
            return []
        chain.append(value)
        value = value.args[0]
    return chain[::-1]


def _same(one: Any, other: Any) -> bool:
    """Whether two nodes are one, or the same view of one."""
    if one is other or not (isinstance(one, fx.Node) and isinstance(other, fx.Node)):
        return one is other or (not isinstance(one, fx.Node) and not isinstance(other, fx.Node) and one == other)
    if one.target is not other.target or viewed(one) is None or one.kwargs or other.kwargs:
        return False
    return len(one.args) == len(other.args) and all(map(_same, one.args, other.args))


def _inner(update: fx.Node) -> list[fx.Node]:
    """For an update of what a view shows by updates of that view: those."""
    base, source, *where = update.args
    if update.kwargs or not isinstance(source, fx.Node):
        return []
    first, chain = source, []
    while first.target in _BY_INDEX or first.target in _BY_VIEW:
        chain.append(first)
        first = first.args[0]  # type: ignore[assignment]
    shown = first.target is _BY_VIEW[update.target] and not first.kwargs and _same(first.args[0], base)
    return chain[::-1] if shown and list(first.args[1:]) == where else []


def _put(update: fx.Node) -> Any:
    """What an update of what a view shows puts there; a copy to the view is what is put there anyway."""
    source: Any = update.args[1]
    return source.args[1] if source.target is aten.copy.default else source


def _operands(update: fx.Node) -> Iterator[fx.Node]:
    """The tensors that an update needs besides the buffer."""
    if update.target in _BY_INDEX:
        yield from _nodes((update.args[1:], update.kwargs))
        return
    inner = _inner(update)
    for one in inner:
        yield from _operands(one)
    if not inner:
        yield _put(update)
    yield from _nodes((update.args[2:], update.kwargs))


def _nodes(arguments: Any) -> list[fx.Node]:
    found: list[fx.Node] = []
    fx.node.map_arg(arguments, found.append)
    return found


def _write(graph: fx.Graph, memory: Any, update: fx.Node) -> None:
    """Emits an update of ``memory`` in place."""
    if update.target in _BY_INDEX:
        made = graph.call_function(_BY_INDEX[update.target], (memory, *update.args[1:]), update.kwargs)
        made.meta.update(update.meta, val=memory.meta["val"])
        return
    view: Callable[..., Any] = _BY_VIEW[update.target]
    part = graph.call_function(view, (memory, *update.args[2:]), update.kwargs)
    part.meta.update(update.meta, val=_viewed_value(view, part))
    inner = _inner(update)
    for one in inner:
        _write(graph, part, one)
    if not inner:
        made = graph.call_function(aten.copy_.default, (part, _put(update)))
        made.meta.update(update.meta, val=part.meta["val"])


def _viewed_value(view: Callable[..., Any], node: fx.Node) -> Any:
    arguments: Any = fx.node.map_arg((node.args, node.kwargs), lambda n: n.meta["val"])
    args, kwargs = arguments
    with args[0].fake_mode:
        return view(*args, **kwargs)
