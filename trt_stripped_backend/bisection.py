"""Finds what TensorRT does not build, by halves: one operator, or two that it does not build together, are no reason to
leave all others of an engine in PyTorch."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass
from typing import Generic, TypeVar

from .ops.registry import is_getitem
from .types import Partition
from .weights import constant_nodes

log = logging.getLogger("trt_stripped_backend")

#: After so many rounds in which no half was built none is cut again: it is not what the graph computes.
FRUITLESS = 3

T = TypeVar("T")


@dataclass(frozen=True)
class Attempt(Generic[T]):
    """A graph that was cut in one way.

    Attributes:
        made: what the caller has of it.
        failed: partitions that TensorRT did not build, with its reason.
        inside: how many operators are in engines.
    """

    made: T
    failed: tuple[tuple[Partition, str], ...]
    inside: int


def bisected(attempt: Callable[[tuple[str, ...]], Attempt[T]], smallest: int) -> T:
    """The attempt with the most operators in engines.

    Args:
        attempt: cuts a graph before these nodes too, by name, and has what is new built.
        smallest: the fewest operators of an engine.
    """
    apart: tuple[str, ...] = ()
    best = latest = attempt(apart)
    fruitless = 0
    while fruitless < FRUITLESS:
        halves = {part: middle(part, smallest) for part, _ in latest.failed}
        more = tuple(name for name in halves.values() if name)
        if not more:
            break
        for part, why in latest.failed:
            if halves[part]:
                log.info("%s (%d operators) is not built, and tried in two: %s", part.name, part.nodes, why)
        apart += more
        latest = attempt(apart)
        fruitless = 0 if latest.inside > best.inside else fruitless + 1
        best = latest if latest.inside > best.inside else best
    return best.made


def middle(part: Partition, smallest: int) -> str:
    """The node that begins the second half of a partition; none if the halves were too small."""
    graph = part.module.graph
    constant = constant_nodes(graph)
    names = [n.name for n in graph.nodes if n.op == "call_function" and n not in constant and not is_getitem(n)]
    return names[len(names) // 2] if len(names) >= 2 * max(smallest, 1) else ""
