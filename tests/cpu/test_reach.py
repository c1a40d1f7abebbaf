"""What the results of operators reach."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch.nn import functional as F

from tests.graphs import lower
from trt_stripped_backend.ops.reach import Reach

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


def test_operators_end_at_a_product() -> None:
    def fn(x: torch.Tensor, w: torch.Tensor) -> torch.Tensor:
        one, two = F.linear(x, w).chunk(2, -1)
        return F.linear(one * two.relu(), w[:, :4]).sigmoid()

    graph = lower(fn, X, W).module.graph
    reach = Reach(graph)
    first, second = (n for n in graph.nodes if getattr(n.target, "overloadpacket", None) in (aten.linear, aten.addmm))
    assert {aten.relu, aten.mul} <= reach.operators(first) and aten.sigmoid not in reach.operators(first)
    assert aten.sigmoid in reach.operators(second)
