"""A reduction that keeps its dimensions, arithmetic with it, and another reduction."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from itertools import cycle, product

import torch
from torch.nn import functional

from tests.cases import Case, T

Along = Callable[[torch.Tensor, int], torch.Tensor]

INNER: dict[str, Along] = {
    "centered": lambda x, d: x - x.mean(d, keepdim=True),
    "shares": lambda x, d: x / x.abs().sum(d, keepdim=True),
    "weighted": lambda x, d: x * x.sum(d, keepdim=True),
    "standard": lambda x, d: (x - x.mean(d, keepdim=True)) / (x.var(d, keepdim=True) + 0.1).sqrt(),
    "log_softmax": lambda x, d: x.log_softmax(d),
}
OUTER: dict[str, Along] = {
    "mean": lambda y, d: y.mean(d),
    "amax": lambda y, d: y.amax(d),
    "var": lambda y, d: y.var(d),
    "softmax": lambda y, d: y.softmax(d),
}
#: Shapes, and the dimensions of the first and of the second reduction.
PLACES = [
    ((2, 6, 64), 0, 2), ((2, 6, 64), 0, 1), ((4, 5, 128), 1, 2), ((2, 3, 4, 64), 0, 3), ((2, 3, 4, 64), 2, 3),
    ((2, 3, 4, 64), 3, 1), ((1, 6, 2, 64), 1, 3), ((2, 6, 7), 2, 0),
    # Both over the same, of five and six elements.
    ((3, 2, 5), 2, 2), ((2, 6), 1, 1), ((1, 5), 1, 1), ((6,), 0, 0), ((6, 2, 3), 0, 0),
]  # fmt: skip


def _of(inner: Along, first: int, outer: Along, second: int) -> Callable[[torch.Tensor], torch.Tensor]:
    return lambda x: outer(inner(x, first), second)


CASES = [
    Case(f"{outer}_{second}_of_{inner}_{first}_of_{'x'.join(map(str, shape))}",
         _of(INNER[inner], first, OUTER[outer], second), (T(shape),), tol=1e-4)
    # Each outer one comes after every inner one, and at all places.
    for ((shape, first, second), inner), outer in zip(product(PLACES, INNER), cycle(OUTER))
]  # fmt: skip
CASES += [replace(case.with_dtype(torch.float16), tol=2e-2) for case in CASES[::3]]


def _experts(x: torch.Tensor, w: torch.Tensor) -> torch.Tensor:
    best = functional.linear(x, w).softmax(-1).topk(2).values
    return ((best / best.sum(-1, keepdim=True))[..., None] * x[..., None, :]).sum(-2)


CASES += [
    Case("experts", _experts, (T((2, 3, 8)), T((6, 8))), weights=(1,)),
    Case("centered_over_two", lambda x: (x - x.mean((0, 2), keepdim=True)).amax(3), (T((2, 3, 4, 64)),)),
    Case("whole_numbers", lambda x: ((x * x.sum(-1, True)).amax(-1), x.sum(0)), (T((6, 5), torch.int32, "int:-9:9"),)),
    Case("mean_of_rank_8", lambda x: (x * x.sum(-1, True)).mean(-1), (T((1, 2, 1, 1, 2, 1, 1, 5)),)),
    Case("twice", lambda x: (x - x.mean(0, True) + x.amax(1, True)).sum((1, 2)), (T((2, 6, 64)),), tol=1e-4),
    Case("least_of_shares", lambda x: x / x.sum(0, True) * x.amin((0, 2), True), (T((2, 6, 64), kind="pos"),)),
]
