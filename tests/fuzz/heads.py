"""What comes behind a model: scores, choices and losses."""

from __future__ import annotations

import torch

from .blocks import Chain, block
from .builder import FLOATS, Builder


@block
def log_likelihood(b: Builder, then: Chain) -> None:
    x = then.finite(then.rows())
    batch, length, width = then.shape(x)
    labels = b.input((batch, length, 1), torch.int64, below=width)
    told = then("torch.gather", then("F.log_softmax", x, dim=-1), -1, labels)
    then("torch.neg", then("torch.mean", told, b.one_of([1], [0, 1], [0, 1, 2])))


@block
def distances(b: Builder, then: Chain) -> None:
    x = then.rows()
    y = b.input((b.one_of(4, 5, 6, 3), then.shape(x)[-1]), b.of(x).dtype)
    apart = then("torch.sub", then("Tensor.unsqueeze", x, 2), y)
    squares = then("torch.sum", then("torch.square", apart), -1)
    then("F.softmax", then("torch.neg", squares), dim=-1)
    then("torch.amin", squares, b.one_of(-1, 1))


@block
def of_the_best(b: Builder, then: Chain) -> None:
    """Scores below the best few are left out, as where tokens are sampled."""
    x = then.finite(then.rows())
    best = then("own.topk", x, b.one_of(2, 1, 3), -1, True)
    least = then("torch.amin", best, -1, keepdim=True)
    left = then("torch.masked_fill", x, then("torch.lt", x, least), b.one_of(-1e4, float("-inf")))
    then("F.softmax", left, dim=-1)


@block
def boxes(b: Builder, then: Chain) -> None:
    """Corners of boxes about anchors."""
    batch, count = b.one_of(1, 2), b.one_of(3, 5, 6, 8)
    x = then.finite(b.input((batch, count, b.one_of(4, 6)), b.one_of(*FLOATS)))
    anchors = b.input((count, 2), b.of(x).dtype)
    middle = then("torch.add", then("torch.sigmoid", then("torch.narrow", x, -1, 0, 2)), anchors)
    half = then("torch.mul", then("torch.exp", then("torch.clamp", then("torch.narrow", x, -1, 2, 2), None, 2)), 0.5)
    corners = then("torch.cat", [then("torch.sub", middle, half), then("torch.add", middle, half)], -1)
    sizes = then("torch.sub", then("torch.narrow", corners, -1, 2, 2), then("torch.narrow", corners, -1, 0, 2))
    then("torch.prod", sizes, -1)


@block
def overlap(b: Builder, then: Chain) -> None:
    """A Dice loss."""
    x = then.finite(then.images())
    truth = then("own.cast", b.input(then.shape(x), torch.bool), b.of(x).dtype)
    y = then("F.softmax", x, dim=1) if b.maybe() else then("torch.sigmoid", x)
    dims = b.one_of([2, 3], [0, 2, 3], [1, 2, 3], [0, 1, 2, 3])
    both = then("torch.sum", then("torch.mul", y, truth), dims)
    each = then("torch.add", then("torch.sum", y, dims), then("torch.sum", truth, dims))
    then("torch.sub", 1, then("torch.div", then("torch.mul", both, 2), then("torch.add", each, 1)))


@block
def divergence(b: Builder, then: Chain) -> None:
    """Of one row of scores from another."""
    x = then.finite(then.rows())
    other = b.input(then.shape(x), b.of(x).dtype)
    one, two = then("F.log_softmax", x, dim=-1), then("F.log_softmax", other, dim=-1)
    apart = then("torch.mul", then("torch.exp", one), then("torch.sub", one, two))
    then("torch.mean", then("torch.sum", apart, -1), b.one_of([0], [1], [0, 1]))
