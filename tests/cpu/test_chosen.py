"""What is computed once, because it is compared with what was chosen among its own elements."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch

from tests.graphs import lower
from trt_stripped_backend.ops.chosen import compared

COMPARED: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {
    "a maximum": lambda y: y == y.amax(-1, keepdim=True),
    "through a view": lambda y: y.transpose(0, 1)[1:] >= y.amax(),
    "the output of a pair": lambda y: y < y.topk(2, -1).values[:, -1:],
    "rows beside columns": lambda y: (y[:, :, None] > y[:, None, :]).sum(-1),
    "a difference": lambda y: (y - y.amax(-1, keepdim=True)) == 0,
    "a quotient": lambda y: (y / y.amax(-1, keepdim=True)).floor(),
    "a choice": lambda y: torch.where(y > 0.5, y, 0.0) != y,
    "a half": lambda y: y.half() == y.half().amax(),
    "places": lambda y: torch.searchsorted(y.sort(-1).values, y),
}
NOT_COMPARED: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {
    "with a number": lambda y: y > 0.5,
    "with itself": lambda y: y != y,
    "what is computed of it": lambda y: y > y * 2 + 1,
    "a softmax by hand": lambda y: (y - y.amax(-1, keepdim=True)).exp(),
    "places as numbers": lambda y: y.argmax(-1) == y.argmin(-1),
}


@pytest.mark.parametrize("fn", COMPARED.values(), ids=COMPARED.keys())
def test_it_is_found(fn: Callable[[torch.Tensor], torch.Tensor]) -> None:
    graph = lower(lambda x: fn(x.sin()), torch.randn(4, 6)).module.graph
    assert [node.target for node in compared(graph)] == [torch.ops.aten.sin.default]
    assert not compared(lower(fn, torch.randn(4, 6)).module.graph), "an input lies in memory"


@pytest.mark.parametrize("fn", NOT_COMPARED.values(), ids=NOT_COMPARED.keys())
def test_others_are_not(fn: Callable[[torch.Tensor], torch.Tensor]) -> None:
    assert not compared(lower(lambda x: fn(x.sin()), torch.randn(4, 6)).module.graph)
