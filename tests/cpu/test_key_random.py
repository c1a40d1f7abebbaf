"""Random graphs: the key follows the structure alone, and all of it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import fx

from trt_stripped_backend import key
from trt_stripped_backend.key import canonical
from trt_stripped_backend.types import Json, Partition

aten = torch.ops.aten

OPS: list[Callable[..., tuple[Any, tuple[Any, ...]]]] = [
    lambda x, y, n: (aten.relu.default, (x,)),
    lambda x, y, n: (aten.sub.Tensor, (x, y)),
    lambda x, y, n: (aten.mul.Scalar, (x, n)),
    lambda x, y, n: (aten.add.Scalar, (x, n / 4)),
    lambda x, y, n: (aten.softmax.int, (x, n % 2)),
    lambda x, y, n: (aten.cat.default, ([x, y], n % 2)),
]
Step = tuple[int, int, int, int]


def graph_of(
    steps: list[Step], weights: int, shapes: list[int], results: list[int], prefix: str = "a", backwards: bool = False
) -> Json:
    """A graph whose first nodes tell its arguments apart, made in one of two orders and with names of its own."""
    nodes = [(0, i, 0, 0) for i in range(len(shapes))] + steps
    graph, made = fx.Graph(), []
    for i, size in enumerate(shapes):
        made.append(graph.placeholder(f"{prefix}{'w' if i < weights else 'x'}{i}"))
        made[-1].meta["val"] = torch.empty(2, size)
    argument_count = len(made)
    order: list[int] = []

    def visit(index: int) -> None:
        if index >= argument_count and index not in order:
            _, first, second, _ = nodes[index - argument_count]
            limit = index if index - argument_count >= argument_count else argument_count
            visit(first % limit)
            visit(second % limit)
            order.append(index)

    everything = range(argument_count, argument_count + len(nodes))
    for index in reversed(everything) if backwards else everything:
        visit(index)
    found = dict(enumerate(made))
    for index in order:
        op, first, second, number = nodes[index - argument_count]
        limit = index if index - argument_count >= argument_count else argument_count
        target, args = OPS[op](found[first % limit], found[second % limit], number)
        found[index] = graph.create_node("call_function", target, args, name=f"{prefix}_{index}")
        found[index].meta["val"] = torch.empty(2, 2)
    leaving = [*everything[:argument_count], *(everything[argument_count:][i] for i in results)]
    graph.output(tuple(found[i] for i in leaving))
    names = frozenset(node.name for node in made[:weights])
    return key.digest(canonical(Partition("engine_0", fx.GraphModule({}, graph), names, len(nodes)))[0])


STEP = st.tuples(st.integers(0, 5), st.integers(0, 30), st.integers(0, 30), st.integers(-3, 3))
STEPS = st.lists(STEP, min_size=1, max_size=8)


@given(STEPS, st.integers(0, 3), st.integers(0, 7), st.integers(0, 3), st.integers(1, 5))
@settings(max_examples=150)
def test_random_graphs(steps: list[Step], weights: int, where: int, what: int, by: int) -> None:
    shapes, results = [3, 3, 4], list(range(len(steps)))
    one = graph_of(steps, weights, shapes, results)
    assert one == graph_of(steps, weights, shapes, results, "another_", backwards=True)
    where %= len(steps)
    before = list(steps[where])
    before[what] += by
    changed = [*steps[:where], (before[0] % len(OPS), before[1], before[2], before[3]), *steps[where + 1 :]]
    same = _meaning(changed, len(shapes)) == _meaning(steps, len(shapes))
    assert (graph_of(changed, weights, shapes, results) == one) is same
    assert graph_of(steps, (weights + 1) % 4, shapes, results) != one
    assert graph_of(steps, weights, [3, 3, 5], results) != one
    if len(set(_meaning(steps, len(shapes)))) == len(steps) > 1:
        assert graph_of(steps, weights, shapes, results[::-1]) != one


def _meaning(steps: list[Step], arguments: int) -> list[str]:
    """The operators of a graph with the arguments that they read."""
    return [
        str(OPS[op](first % (2 * arguments + i), f"n{second % (2 * arguments + i)}", number))
        for i, (op, first, second, number) in enumerate(steps)
    ]
