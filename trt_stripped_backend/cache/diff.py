"""Which parts of two keys differ, under names that a person recognises."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import NamedTuple

from ..types import Json
from .entry import canonical

#: Where a graph's nodes stand among the parts of a key: ``[[target, argument, …], …]``.
_NODES = ("graph", "nodes")


class Difference(NamedTuple):
    """One part that differs; a side that lacks it has None."""

    part: str
    left: Json
    right: Json


def differences(left: Mapping[str, Json], right: Mapping[str, Json]) -> list[Difference]:
    """What differs between the parts of two keys, in their order: ``options.workspace_size``, ``node 14 args``, …"""
    ours, theirs = dict(_leaves(left, ())), dict(_leaves(right, ()))
    names = [*ours, *(name for name in theirs if name not in ours)]
    return [
        Difference(name, ours.get(name), theirs.get(name))
        for name in names
        if name not in ours or name not in theirs or canonical(ours[name]) != canonical(theirs[name])
    ]


def nearest(parts: Mapping[str, Json], others: Iterable[Mapping[str, Json]]) -> Mapping[str, Json] | None:
    """Of ``others``, the one that shares the most parts with ``parts``, and of these the most details."""
    ours = {name: canonical(value) for name, value in parts.items()}
    scored = [(sum(canonical(other[name]) == ours.get(name) for name in other), other) for other in others]
    most = max((score for score, _ in scored), default=0)
    candidates = [other for score, other in scored if score == most]
    if len(candidates) < 2:
        return candidates[0] if candidates else None
    leaves = dict(_leaves(parts, ()))

    def details(other: Mapping[str, Json]) -> int:
        return sum(name in leaves and leaves[name] == value for name, value in _leaves(other, ()))

    return max(candidates, key=details)


def _leaves(value: Json, path: tuple[str, ...]) -> Iterator[tuple[str, Json]]:
    """Named leaves of a JSON tree. A list of plain values is one leaf, and so are the arguments of a node."""
    if isinstance(value, dict) and value:
        for name, inner in value.items():
            yield from _leaves(inner, (*path, str(name)))
    elif path == _NODES and isinstance(value, list):
        for index, node in enumerate(value):
            target, args = (node[0], node[1:]) if isinstance(node, list) and node else (node, [])
            yield f"node {index} target", target
            yield f"node {index} args", args
    elif isinstance(value, list) and any(isinstance(inner, (list, dict)) for inner in value):
        for index, inner in enumerate(value):
            yield from _leaves(inner, (*path, str(index)))
    else:
        yield ".".join(path), value
