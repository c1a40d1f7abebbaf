"""Layers in a row, each order of so many in turn: what random graphs seldom draw, and every model has."""

from __future__ import annotations

import math
import random
from collections.abc import Callable
from typing import TypeVar

import torch

from .blocks import Chain, Refused
from .builder import FLOATS, Builder
from .graph import Graph, Ref

T = TypeVar("T")
#: Makes a value of the last one and of one before.
Layer = Callable[[Chain, Ref, Ref], Ref]

#: Where rows begin: of odd and even lengths, one matrix or several.
SHAPES = ((5, 8), (33, 7), (1, 5, 8), (1, 16, 13), (3, 5, 8), (2, 3, 4, 6), (2, 64), (1, 2, 33))
#: Of these, products are TensorRT's own in half types too; tiles have rests.
LARGE = ((4, 33, 32), (2, 197, 64), (8, 64, 40), (197, 96), (3, 129, 48), (2, 3, 65, 32), (1, 257, 64), (16, 49, 33))
MOST_ELEMENTS = 1 << 19


def _weight(then: Chain, x: Ref) -> Ref:
    return then.weight(x, then.shape(x)[-1])


def _linear(then: Chain, x: Ref, width: int) -> Ref:
    return then("F.linear", x, then.weight(x, width, then.shape(x)[-1]), then.weight(x, width))


def _product(then: Chain, x: Ref, before: Ref) -> Ref:
    return then("torch.matmul", x, then.b.input((then.shape(x)[-1], 6), then.b.of(x).dtype))


def _of(fn: str, *args: object, **kwargs: object) -> Layer:
    return lambda then, x, before: then(fn, x, *args, **kwargs)


def _with(fn: str) -> Layer:
    """With a value before, or with a tensor that is given, where the shapes differ."""

    def layer(then: Chain, x: Ref, before: Ref) -> Ref:
        same = then.shape(before) == then.shape(x) and then.b.of(before).dtype == then.b.of(x).dtype
        return then(fn, x, before if same else then.b.input(then.shape(x), then.b.of(x).dtype))

    return layer


def _taken(fn: str, dim: int, at: int) -> Layer:
    return lambda then, x, before: then(fn, x, then("torch.narrow", x, dim, at, 1))


def _less(fn: str, dim: int) -> Layer:
    return lambda then, x, before: then("torch.sub", x, then(fn, x, dim, keepdim=True))


def _halves(then: Chain, x: Ref, before: Ref) -> Ref:
    width = then.shape(x)[-1] // 2
    return then("torch.mul", then("torch.narrow", x, -1, 0, width), then("torch.narrow", x, -1, width, width))


def _seconds(then: Chain, x: Ref, before: Ref) -> Ref:
    *lead, width = then.shape(x)
    every_second = then("own.index", x, *[slice(None)] * len(lead), slice(None, None, 2))
    return then("torch.mul", every_second, then("torch.narrow", x, -1, 0, -(-width // 2)))


def _mixed(then: Chain, x: Ref, before: Ref) -> Ref:
    rows = then.shape(x)[-2]
    return then("torch.matmul", then.b.input((rows, rows), then.b.of(x).dtype), x)


def _scores(then: Chain, x: Ref, before: Ref) -> Ref:
    return then("torch.mul", then("torch.matmul", x, then("Tensor.transpose", x, -1, -2)), 0.1)


def _attention(then: Chain, x: Ref, before: Ref) -> Ref:
    scores = then("torch.matmul", x, then("Tensor.transpose", x, -1, -2))
    return then("torch.matmul", then("F.softmax", then("torch.mul", scores, 0.25), dim=-1), x)


def _norm(fn: str, weights: int) -> Layer:
    return lambda then, x, before: then(fn, x, [then.shape(x)[-1]], *(_weight(then, x) for _ in range(weights)))


def _positive(fn: str) -> Layer:
    """Of what is not near zero, but infinite there."""
    return lambda then, x, before: then(fn, then("torch.add", then("torch.abs", x), 0.5))


LAYERS: dict[str, Layer] = {
    "linear": lambda then, x, before: _linear(then, x, then.shape(x)[-1]),
    "wider": lambda then, x, before: _linear(then, x, then.shape(x)[-1] + 5),
    "product": _product,
    "of both": lambda then, x, before: then("torch.mul", _linear(then, x, 6), _linear(then, x, 6)),
    "attention": _attention,
    "scores": _scores,
    **{name: _of(f"F.{name}") for name in ("gelu", "silu", "elu", "hardswish")},
    "new gelu": _of("F.gelu", approximate="tanh"),
    **{name: _of(f"torch.{name}") for name in ("relu", "sigmoid", "tanh", "square", "erf", "sin")},
    "logarithm": _positive("torch.log"),
    "reciprocal": _positive("torch.reciprocal"),
    "scaled": _of("torch.mul", 0.75),
    "scaled in float32": _of("torch.mul", 0.3),
    "moved": _of("torch.add", 0.5),
    "by columns": lambda then, x, before: then("torch.mul", x, _weight(then, x)),
    "bias": lambda then, x, before: then("torch.add", x, _weight(then, x)),
    "by another": _with("torch.mul"),
    "residual": _with("torch.add"),
    "larger": _with("torch.maximum"),
    "by its first": _taken("torch.mul", -1, 0),
    "less its second row": _taken("torch.sub", -2, 1),
    "by its turn": lambda then, x, before: then("torch.mul", x, then("torch.flip", x, [-1])),
    "halves": _halves,
    "by every second": _seconds,
    "mixed rows": _mixed,
    "softmax": _of("F.softmax", dim=-1),
    "softmax of columns": _of("F.softmax", dim=-2),
    "log softmax": _of("F.log_softmax", dim=-1),
    "layer norm": _norm("F.layer_norm", 2),
    "rms norm": _norm("F.rms_norm", 1),
    "less its mean": _less("torch.mean", -1),
    "less its rows' mean": _less("torch.mean", -2),
    "less its extreme": _less("torch.amax", -1),
    "less its sum": _less("torch.logsumexp", -1),
    "total": _of("torch.sum", -1, keepdim=True),
    "rows' extreme": _of("torch.amax", -2, keepdim=True),
    "transposed": _of("Tensor.transpose", -1, -2),
    "heads": lambda then, x, before: then("Tensor.reshape", x, [*then.shape(x)[:-1], 2, -1]),
    "joined": lambda then, x, before: then("torch.cat", [x, x], -1),
    "behind the first": lambda then, x, before: then("torch.narrow", x, -1, 1, then.shape(x)[-1] - 1),
    "padded": _of("F.pad", [1, 2]),
    "pooled": _of("F.avg_pool1d", 2),
}


class _Drawn(Builder):
    """Draws from a generator of numbers, so that each row is the same in any run."""

    def __init__(self, seed: int, most: int) -> None:
        super().__init__(lambda strategy: None, most)
        self.random = random.Random(seed)

    def one_of(self, *choices: T) -> T:
        return self.random.choice(choices)

    def whole(self, low: int, high: int) -> int:
        return self.random.randint(low, high)


def names(number: int, length: int) -> list[str]:
    """The layers that a number stands for: others for each below ``len(LAYERS) ** length``, in no order to be seen."""
    total, known = len(LAYERS) ** length, list(LAYERS)
    step = next(step for step in range(1_000_003, 1_001_003) if math.gcd(step, total) == 1)
    chosen, at = [], number * step % total
    for _ in range(length):
        at, one = divmod(at, len(known))
        chosen.append(known[one])
    return chosen


def row(number: int, length: int, large: bool = False) -> Graph | None:
    """So many layers of a shape and type that the number stands for, too; None if one cannot follow another."""
    b = _Drawn(number, 8 * length)
    if large:
        b.most_elements = MOST_ELEMENTS
    x = before = b.input(b.one_of(*(LARGE if large else SHAPES)), b.one_of(torch.float32, *FLOATS))
    then = Chain(b)
    for name in names(number, length):
        try:
            x, before = LAYERS[name](then, x, before), x
        except (Refused, IndexError):
            return None
    return b.graph()
