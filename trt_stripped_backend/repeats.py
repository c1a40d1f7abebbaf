"""Finds the repeated blocks of a graph, such as the layers of a transformer, so that one engine can serve them all.

Two blocks are alike if they agree node by node: operators, literals, shapes, strides, wiring, and which of the tensors
from outside are weights. Then their engines have one key. What repeats is found in the sequence of nodes by its period,
vectorized over all nodes for each period, so 4,000 nodes take a fraction of a second.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import torch
from torch import fx

#: How many borders are tried for one repetition.
_TRIES = 8


def blocks(
    group: Sequence[fx.Node], least: int, weights: frozenset[str], literal: Callable[[fx.Node], Any]
) -> list[list[fx.Node]]:
    """Cuts a group of nodes where its repeated blocks begin and end.

    Args:
        group: nodes in graph order.
        least: fewest nodes of a block.
        weights: names of the placeholders that are weights.
        literal: the tensor behind a ``get_attr`` node.

    Returns:
        The pieces in order; the whole group if nothing repeats.
    """
    group = list(group)
    found = _repetition(group, max(least, 2), weights, literal)
    if found is None:
        return [group] if group else []
    start, period, count = found
    end = start + count * period
    inner = [group[k : k + period] for k in range(start, end, period)]
    before = blocks(group[:start], least, weights, literal)
    return [*before, *inner, *blocks(group[end:], least, weights, literal)]


def _repetition(
    group: list[fx.Node], least: int, weights: frozenset[str], literal: Callable[[fx.Node], Any]
) -> tuple[int, int, int] | None:
    """(first node, nodes of a block, blocks) of the repetition that covers most nodes; None without one."""
    known: dict[Any, int] = {}
    tokens = np.array([known.setdefault(_token(node), len(known)) for node in group])
    index = {node: i for i, node in enumerate(group)}
    crossing = _crossing(group, index)
    for start, length, period in _periodic(tokens, least):
        # A border may be at any node of the period: best where the fewest tensors cross it.
        borders = range(min(period, length - 2 * period + 1))
        most = length // period
        good = [o for o in borders if (length - o) // period >= max(2, most - 1)]
        good.sort(key=lambda o, start=start, length=length, period=period: (  # type: ignore[misc]
            crossing[start + o + period], -((length - o) // period), o))
        for offset in good[:_TRIES]:
            first, count = start + offset, (length - offset) // period
            base = group[first : first + period]
            alike = 1
            while alike < count:
                block = group[first + alike * period : first + (alike + 1) * period]
                if not _alike(base, block, index, weights, literal):
                    break
                alike += 1
            if alike > 1:
                return first, period, alike
    return None


def _periodic(tokens: np.ndarray[Any, Any], least: int) -> Iterator[tuple[int, int, int]]:
    """(first, length, period) of runs in which every token is that of a period before, the longest first."""
    found = []
    for period in range(least, len(tokens) // 2 + 1):
        same = np.concatenate(([False], tokens[:-period] == tokens[period:], [False]))
        edges = np.flatnonzero(same[1:] != same[:-1])
        if not len(edges):
            continue
        starts, ends = edges[::2], edges[1::2]
        longest = int((ends - starts).argmax())
        run = int(ends[longest] - starts[longest])
        if run >= period:
            found.append((-(run // period + 1) * period, period, int(starts[longest]), run + period))
    for _, period, start, length in sorted(found)[:_TRIES]:
        yield start, length, period


def _crossing(group: Sequence[fx.Node], index: dict[fx.Node, int]) -> list[int]:
    """How many tensors of the group cross the border before each node."""
    change = [0] * (len(group) + 1)
    for i, node in enumerate(group):
        last = max((index[user] for user in node.users if user in index), default=i)
        if last > i:
            change[i + 1] += 1
            change[last + 1] -= 1
    return np.cumsum(change).tolist()  # type: ignore[no-any-return]


def _token(node: fx.Node) -> Any:
    """What a node is, without where its inputs come from."""
    literals = fx.node.map_arg((node.args, node.kwargs), lambda _: "%")
    return str(node.target), repr(literals), _spec(node.meta.get("val"))


def _spec(value: Any) -> Any:
    if isinstance(value, torch.Tensor):
        return value.dtype, len(value.shape), tuple(map(str, (*value.shape, *value.stride())))
    if isinstance(value, (tuple, list)):
        return tuple(map(_spec, value))
    return type(value).__name__, str(value)


def _alike(
    base: Sequence[fx.Node], block: Sequence[fx.Node], index: dict[fx.Node, int], weights: frozenset[str],
    literal: Callable[[fx.Node], Any],
) -> bool:  # fmt: skip
    """Whether two blocks with equal tokens are wired alike."""
    first, shift = index[base[0]], index[block[0]] - index[base[0]]
    there: dict[fx.Node, fx.Node] = {}  # an outer input of the one block → the other's
    back: dict[fx.Node, fx.Node] = {}
    for a, b in zip(base, block, strict=True):
        for x, y in zip(_inputs(a), _inputs(b), strict=True):
            at = index.get(x, -1)
            if first <= at < first + len(base):
                if index.get(y, -1) != at + shift:
                    return False
                continue
            if first + shift <= index.get(y, -1) < first + shift + len(block):
                return False
            if there.setdefault(x, y) is not y or back.setdefault(y, x) is not x:
                return False
            if (x.op == "get_attr") != (y.op == "get_attr") or (x.name in weights) != (y.name in weights):
                return False
            if x is not y and (_spec(x.meta.get("val")) != _spec(y.meta.get("val")) or not _equal(x, y, literal)):
                return False
    return True


def _inputs(node: fx.Node) -> list[fx.Node]:
    """The nodes among a node's arguments, in their order, each as often as it comes."""
    found: list[fx.Node] = []
    fx.node.map_arg((node.args, node.kwargs), found.append)
    return found


def _equal(x: fx.Node, y: fx.Node, literal: Callable[[fx.Node], Any]) -> bool:
    if x.op != "get_attr":
        return True
    a, b = literal(x), literal(y)
    return isinstance(a, torch.Tensor) and isinstance(b, torch.Tensor) and a.dtype == b.dtype and torch.equal(a, b)
