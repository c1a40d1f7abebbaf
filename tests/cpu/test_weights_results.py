"""Main graph and derived weights together give PyTorch's results, which are the caller's own."""

from __future__ import annotations

import operator
from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.graphs import Staged, placeholders, trace
from trt_stripped_backend.weights import is_pure

RETURNED: list[tuple[str, Callable[..., Any]]] = [
    ("itself", lambda w, x: (x * 2, w * 2)),
    ("view", lambda w, x: (x * 2, (w * 2).t())),
    ("both", lambda w, x: (x * (w * 2), w * 2, (w * 2)[1:])),
    ("used", lambda w, x: [(y := w * 2), y.view(-1), y.t()[1:], x @ y]),
    ("chunks", lambda w, x: (x * 2, *(w * 2).chunk(2))),
    ("diagonal", lambda w, x: ((y := w * 2) * x, y.diagonal())),
    ("expanded", lambda w, x: (x * 2, (w[0] * 2).expand(3, 4))),
]


@pytest.mark.parametrize("fn", [pytest.param(fn, id=name) for name, fn in RETURNED])
def test_a_write_to_a_result_does_not_reach_the_next_call(fn: Callable[..., Any]) -> None:
    w, x = torch.randn(4, 4), torch.randn(4, 4)
    staged = trace(fn, 1, w, x)
    derived = staged.derived([w])
    names = placeholders(staged.split.module)[staged.split.arguments :]
    for _ in range(2):
        result, want = staged.split.module(w, x, *(derived[n] for n in names)), fn(w, x)
        torch.testing.assert_close(list(result), list(want))
        for have, expected in zip(result, want, strict=True):
            assert have.stride() == expected.stride()
        for have in result:
            if 0 not in have.stride():
                have.zero_()


def test_views_of_a_returned_weight_share_its_memory() -> None:
    w, x = torch.randn(4, 4), torch.randn(4, 4)
    staged = trace(lambda w, x: ((y := w * 2), y.view(-1), y.t(), x @ y), 1, w, x)
    one, flat, turned, _ = staged.in_torch([w, x])
    assert one.data_ptr() == flat.data_ptr() == turned.data_ptr()


UNARY: list[Callable[..., torch.Tensor]] = [torch.sin, torch.neg, lambda a: a * 2, lambda a: a + torch.ones(4)]
VIEWS: list[Callable[..., torch.Tensor]] = [
    torch.t,
    lambda a: a.chunk(2)[1].repeat(2, 1),
    lambda a: a[:1].expand(4, 4),
    lambda a: a.diagonal().expand(4, 4),
    lambda a: a.reshape(-1)[4:8].expand(4, 4),
    lambda a: torch.sort(a)[0],
    lambda a: torch.sort(a)[1].float(),
]
BINARY: list[Callable[..., torch.Tensor]] = [operator.add, operator.mul, torch.maximum, operator.matmul]


@given(st.data())
@settings(max_examples=60)
def test_random_graphs(data: st.DataObject) -> None:
    """Main graph and derived weights together compute what the whole graph did, for other weights too."""
    steps = data.draw(st.lists(st.tuples(st.integers(0, 14), st.integers(0, 99), st.integers(0, 99)), max_size=16))
    results = data.draw(st.lists(st.integers(0, 99), min_size=1, max_size=5))

    def fn(*values: torch.Tensor) -> Any:
        pool = list(values)
        for op, first, second in steps:
            a, b = pool[first % len(pool)], pool[second % len(pool)]
            kinds = [*UNARY, *VIEWS]
            pool.append(kinds[op](a) if op < len(kinds) else BINARY[op - len(kinds)](a, b))
        return [pool[i % len(pool)] * 1 if i % len(pool) < len(values) else pool[i % len(pool)] for i in results]

    def values(seed: int) -> list[torch.Tensor]:
        generator = torch.Generator().manual_seed(seed)
        return [torch.rand(4, 4, generator=generator) - 0.5 for _ in range(4)]

    staged = trace(fn, 2, *values(0))
    for seed in (0, 1):
        args = values(seed)
        have, want = staged.in_torch(list(args)), staged.lowered.module(*args)
        torch.testing.assert_close(list(have), list(want), rtol=1e-4, atol=1e-5)
        assert all(map(torch.equal, values(seed), args))
    for node in staged.split.module.graph.nodes:
        if node.op == "call_function" and is_pure(node):
            assert node.target is not torch.ops.aten.sin.default or _needs_input(node, staged)


def _needs_input(node: torch.fx.Node, staged: Staged) -> bool:
    """Whether a node depends on anything but weights and literals."""
    seen, stack = set(), [node]
    while stack:
        one = stack.pop()
        if one not in seen:
            seen.add(one)
            stack.extend(one.all_input_nodes)
    return any(n.op == "placeholder" and n.name not in staged.split.weights for n in seen)
