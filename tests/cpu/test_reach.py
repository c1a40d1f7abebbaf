"""What the results of operators reach."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch.nn import functional as F

from tests.graphs import lower
from trt_stripped_backend.ops.reach import Reach, multiplied

aten = torch.ops.aten
X, V, W = torch.randn(2, 3, 8), torch.rand(8) + 0.5, torch.randn(8, 8)

BEYOND: dict[str, Callable[..., torch.Tensor]] = {
    "one row for many": lambda x, v: x * (v / v.mean()),
    "of what was reduced": lambda x, v: x * x.amax(1, True).softmax(-1),
    "expanded": lambda x, v: v.softmax(-1).expand(2, 3, 8) + x,
    "behind a view": lambda x, v: (v.softmax(-1).view(1, 2, 4) + 1).reshape(8) * x,
}
WITHIN: dict[str, Callable[..., torch.Tensor]] = {
    "rows of their own": lambda x, v: x / x.mean(-1, True),
    "their columns": lambda x, v: x - x.softmax(1),
    "up to a product": lambda x, v: x + F.linear(v.softmax(-1), v * torch.ones(8, 1)).relu(),
    "up to what pads": lambda x, v: F.pad(x.softmax(-1), (0, 4)) * 2,
    "up to what joins": lambda x, v: torch.cat([x.softmax(-1), x], 1) * 2,
    "a smaller one": lambda x, v: x.softmax(-1)[:, -1] * v,
}


def _reductions_beyond(fn: Callable[..., torch.Tensor], *args: torch.Tensor) -> list[bool]:
    graph = lower(fn, *args).module.graph
    reach = Reach(graph)
    reducing = (aten._softmax, aten.mean)
    return [reach.beyond(node) for node in graph.nodes if getattr(node.target, "overloadpacket", None) in reducing]


@pytest.mark.parametrize("fn", BEYOND.values(), ids=BEYOND.keys())
def test_rows_that_reach_a_larger_tensor(fn: Callable[..., torch.Tensor]) -> None:
    assert _reductions_beyond(fn, X, V) == [True]


@pytest.mark.parametrize("fn", WITHIN.values(), ids=WITHIN.keys())
def test_rows_that_do_not(fn: Callable[..., torch.Tensor]) -> None:
    assert _reductions_beyond(fn, X, V) == [False]


def _beside(fn: Callable[..., torch.Tensor], *args: torch.Tensor) -> list[bool]:
    """Of each part of a tensor, in order."""
    graph = lower(fn, *args).module.graph
    parts = (aten.slice, aten.select, aten.unbind, aten.split)
    nodes = [node for node in graph.nodes if getattr(node.target, "overloadpacket", None) in parts]
    assert nodes
    return [Reach(graph).beside(node) for node in nodes]


BESIDE: dict[str, Callable[..., torch.Tensor]] = {
    "a column": lambda x, w: (x[..., :1] * x.exp()).sum(-1),
    "a row": lambda x, w: (x[:, 0].unsqueeze(1) - x).softmax(-1),
    "of what is made of it": lambda x, w: ((x * 2)[..., :1] + x.sin()).amax(-1),
    "joined": lambda x, w: torch.cat([x[..., 2:3]] * 8, -1) + x,
}


@pytest.mark.parametrize("fn", BESIDE.values(), ids=BESIDE.keys())
def test_parts_that_are_repeated_beside_others(fn: Callable[..., torch.Tensor]) -> None:
    assert _beside(fn, X, W) == [True]


def test_a_column_beside_a_row() -> None:
    assert _beside(lambda x, w: (x[..., :1] * x[..., :1, :]).sum(-1), X, W) == [True, True]


def test_the_longer_part_that_begins_with_it() -> None:
    assert _beside(lambda x, w: (x[:, 1:2] * x[:, 1:].exp()).sum(-1), X, W)[0]


def _attend(x: torch.Tensor, w: torch.Tensor) -> torch.Tensor:
    q, k, v = torch.stack([x, x + 1, x + 2]).unbind(0)
    return (q @ k.mT).softmax(-1) @ (v * 2)


def _modulate(x: torch.Tensor, w: torch.Tensor) -> torch.Tensor:
    made, tables = F.linear(x[:, 0], torch.cat([w] * 3)).view(2, 3, 8), torch.stack([w[0], w[1], w[2]])
    for _ in range(2):
        shift, scale, gate = (made + tables).split(1, 1)
        x = x + gate * F.linear(F.layer_norm(x, (8,)) * scale + shift, w)
    return x


def test_parts_that_are_not() -> None:
    assert _beside(_attend, X, W) == [False]
    assert _beside(lambda x, w: F.linear(x[:, 0], w).unsqueeze(1) * x, X, W) == [False]
    assert _beside(lambda x, w: x[..., :4] * x[..., 4:], X, W) == [False, False]
    assert _beside(lambda x, w: w[:1] * x, X, W) == [False]
    assert _beside(lambda x, w: torch.cat([x[:, :1], x[:, 1:] * 2], 1) + x, X, W) == [False, False]


def test_parts_of_what_modulates() -> None:
    graph = lower(_modulate, X, W).module.graph
    splits = [node for node in graph.nodes if getattr(node.target, "overloadpacket", None) is aten.split]
    assert len(splits) == 2
    assert not any(Reach(graph).beside(node) for node in splits)


def _multiplied(fn: Callable[..., torch.Tensor], *args: torch.Tensor) -> bool:
    graph = lower(fn, *args).module.graph
    (node,) = (n for n in graph.nodes if getattr(n.target, "overloadpacket", None) in (aten.relu, aten.erf))
    return multiplied(node)


def test_what_is_multiplied() -> None:
    assert _multiplied(lambda x, w: F.linear(x, w).relu() * 2, X, W)
    assert _multiplied(lambda x, w: (F.linear(x, w).relu() + 1) * w[0], X, W)
    assert _multiplied(lambda x, w: torch.add(x, F.linear(x, w).relu(), alpha=2), X, W)
    assert _multiplied(lambda x, w: F.linear(x, w).relu() + w[0], X, W)
    assert _multiplied(lambda x, w: x + x.erf(), X, W)
    assert not _multiplied(lambda x, w: F.linear(F.linear(x, w).relu() + x, w), X, W)
    assert not _multiplied(lambda x, w: torch.cat([x.relu(), x], -1), X, W)


def _finite(fn: Callable[..., torch.Tensor], *args: torch.Tensor) -> bool:
    graph = lower(fn, *args).module.graph
    (node,) = (n for n in graph.nodes if getattr(n.target, "overloadpacket", None) in (aten.linear, aten.matmul))
    return Reach(graph).finite(node)


def test_what_is_finite_of_zeros() -> None:
    assert _finite(lambda x, w: F.linear(F.layer_norm(x / 2, (8,)).relu() + x, w), X, W)
    assert _finite(lambda x, w: torch.matmul((x.log() * 2).softmax(-1), w.t()), X, W)
    assert _finite(lambda x, w: F.linear(x.chunk(2, -1)[0], w[:, :4]), X, W)
    assert not _finite(lambda x, w: F.linear(F.layer_norm(x.log(), (8,)), w), X, W)
    assert not _finite(lambda x, w: F.linear(x, 2 / w), X, W)
    assert not _finite(lambda x, w: F.linear(x - x.logsumexp(0), w), X, W)
