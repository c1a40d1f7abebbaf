"""What models are made of, in sizes that models do not have: several steps at once."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from typing import Any

import torch

from .builder import FLOATS, SIZES, Builder
from .graph import Ref
from .registry import of

#: Steps of the longest block.
LONGEST = 14
_WIDTHS = (4, 6, 8, 5, 7, 3, 10, 12, 16, 32, 1, 2)


class Refused(Exception):
    """A step that PyTorch refuses, or that makes too much."""


class Chain:
    """Steps that read what the ones before made."""

    def __init__(self, b: Builder) -> None:
        self.b = b

    def __call__(self, fn: str, *args: Any, **kwargs: Any) -> Ref:
        """The first result of one more step."""
        began = self.b.made
        self.b.add(fn, *args, **kwargs)
        if self.b.made == began:
            raise Refused
        return Ref(f"v{began}")

    def shape(self, x: Ref) -> tuple[int, ...]:
        return tuple(self.b.of(x).shape)

    def weight(self, x: Ref, *shape: int) -> Ref:
        return self.b.input(shape, self.b.of(x).dtype, weight=True)

    def linear(self, x: Ref, width: int) -> Ref:
        weights = [self.weight(x, width, self.shape(x)[-1])]
        return self("F.linear", x, *weights, *([self.weight(x, width)] if self.b.maybe() else []))

    def rows(self) -> Ref:
        """A tensor [batch, length, width]."""
        return self.b.pick(FLOATS, 3, 3, 1, lambda: (self.b.one_of(2, 1, 3), self.b.one_of(*SIZES), self.width()))

    def images(self) -> Ref:
        """A tensor [batch, channels, height, width]."""
        sizes = self.b.one_of(4, 6, 5, 8, 7, 2), self.b.one_of(4, 6, 5, 8, 3)
        return self.b.pick(FLOATS, 4, 4, 1, lambda: (self.b.one_of(1, 2), self.b.one_of(4, 6, 8, 3, 16, 2), *sizes))

    def width(self) -> int:
        return self.b.one_of(*_WIDTHS)

    def finite(self, x: Ref) -> Ref:
        """``x``, unless it holds what makes everything NaN."""
        if not self.b.of(x).isfinite().all() or self.b.of(x).abs().amax() > 100:
            raise Refused
        return x


def block(make: Callable[[Builder, Chain], None]) -> Callable[[Builder, Chain], None]:
    """Registers a block: a graph may become longer for it."""

    def add(b: Builder) -> None:
        b.most = max(b.most, len(b.steps) + LONGEST)
        with contextlib.suppress(Refused):
            make(b, Chain(b))

    of("blocks")(add)
    return make


# ------------------------------------------------------------------------------------- norms, written out


def _some(b: Builder, x: Ref) -> list[int]:
    return b.dims(x) or [-1]


@block
def softmax(b: Builder, then: Chain) -> None:
    x = then.finite(b.pick(FLOATS, 1, 4, 1))
    dim = b.dim(x)
    powers = then("torch.exp", then("torch.sub", x, then("torch.amax", x, dim, keepdim=True)))
    then("torch.div", powers, then("torch.sum", powers, dim, keepdim=True))


@block
def rms_norm(b: Builder, then: Chain) -> None:
    x = b.pick(FLOATS, 2, 4, 1)
    mean = then("torch.mean", then(b.one_of("torch.square", "torch.abs"), x), _some(b, x), keepdim=True)
    scaled = then("torch.mul", x, then("torch.rsqrt", then("torch.add", mean, 1e-2)))
    then("torch.mul", scaled, then.weight(x, then.shape(x)[-1]))


@block
def standardized(b: Builder, then: Chain) -> None:
    x = b.pick(FLOATS, 2, 4, 1)
    dims = _some(b, x)
    centered = then("torch.sub", x, then("torch.mean", x, dims, keepdim=True))
    spread = then("torch.var", x, dims, correction=0, keepdim=True)
    then("torch.div", centered, then("torch.sqrt", then("torch.add", spread, 0.1)))


@block
def layer_norm_of_channels(b: Builder, then: Chain) -> None:
    x = then.images()
    centered = then("torch.sub", x, then("torch.mean", x, 1, keepdim=True))
    spread = then("torch.mean", then("torch.square", centered), 1, keepdim=True)
    y = then("torch.mul", centered, then("torch.rsqrt", then("torch.add", spread, 1e-2)))
    channels = then.shape(x)[1]
    then("torch.add", then("torch.mul", y, then.weight(x, channels, 1, 1)), then.weight(x, channels, 1, 1))


@block
def response_norm(b: Builder, then: Chain) -> None:
    """ConvNeXt V2's, channels last."""
    x = then.images()
    norm = then("torch.norm", x, dim=[1, 2], keepdim=True)
    share = then("torch.div", norm, then("torch.add", then("torch.mean", norm, -1, keepdim=True), 0.1))
    then("torch.add", then("torch.mul", then("torch.mul", x, share), then.weight(x, then.shape(x)[-1])), x)


# ------------------------------------------------------------------------------------------- attention


@block
def attention(b: Builder, then: Chain) -> None:
    """Projections, heads, scores with a mask, and what they weigh."""
    x = then.finite(then.rows())
    batch, length, width = then.shape(x)
    heads, each = b.one_of(2, 1, 3), b.one_of(4, 5, 6, 8, 3, 2)
    queries = then("Tensor.reshape", then.linear(x, 3 * heads * each), [batch, length, 3, heads, each])
    then("torch.unbind", then("Tensor.permute", queries, [2, 0, 3, 1, 4]))
    q, k, v = (Ref(f"v{b.made - 3 + i}") for i in range(3))
    scores = then("torch.mul", then("torch.matmul", q, then("Tensor.transpose", k, -2, -1)), each**-0.5)
    if b.maybe():
        mask = b.input(b.one_of((length, length), (batch, 1, 1, length)), torch.bool)
        scores = then("torch.masked_fill", scores, mask, b.one_of(-10.0, -1e4))
    weighed = then("torch.matmul", then("F.softmax", scores, dim=-1), v)
    y = then("torch.flatten", then("Tensor.transpose", weighed, 1, 2), 2)
    then("torch.add", then.linear(y, width), x)


@block
def rotated(b: Builder, then: Chain) -> None:
    """Rotary positions: halves, or pairs side by side."""
    x = b.pick(FLOATS, 3, 4, 1, lambda: (b.one_of(1, 2), b.one_of(2, 3, 1), b.one_of(4, 5, 6), b.one_of(4, 8, 6, 2)))
    *_, length, width = then.shape(x)
    if width % 2:
        return
    half = width // 2
    turned = then("torch.cat", [then("torch.neg", then("torch.narrow", x, -1, half, half)),
                                then("torch.narrow", x, -1, 0, half)], -1)  # fmt: skip
    angles = b.input((length, width), b.of(x).dtype)
    then("torch.add", then("torch.mul", x, then("torch.cos", angles)),
         then("torch.mul", turned, then("torch.sin", angles)))  # fmt: skip


@block
def windows(b: Builder, then: Chain) -> None:
    """Swin's, there and back."""
    x, side = then.images(), b.one_of(2, 1, 3)
    batch, height, width, channels = then.shape(x)
    if height % side or width % side:
        return
    parts = then("Tensor.reshape", x, [batch, height // side, side, width // side, side, channels])
    rows = then("Tensor.reshape", then("Tensor.permute", parts, [0, 1, 3, 2, 4, 5]), [-1, side * side, channels])
    rows = then(b.one_of("F.softmax", "F.normalize"), rows, dim=1) if b.maybe() else rows
    parts = then("Tensor.reshape", rows, [batch, height // side, width // side, side, side, channels])
    then("Tensor.reshape", then("Tensor.permute", parts, [0, 1, 3, 2, 4, 5]), [batch, height, width, channels])


@block
def pooled_by_a_mask(b: Builder, then: Chain) -> None:
    x = then.rows()
    batch, length, _ = then.shape(x)
    mask = then("own.cast", b.input((batch, length), torch.bool), b.of(x).dtype)
    total = then("torch.sum", then("torch.mul", x, then("Tensor.unsqueeze", mask, -1)), 1)
    count = then("torch.clamp", then("torch.sum", mask, 1, keepdim=True), 1)
    then("torch.div", total, count)


@block
def similarities(b: Builder, then: Chain) -> None:
    x = then.rows()
    y = b.input((then.width(), then.shape(x)[-1]), b.of(x).dtype)
    one, other = then("F.normalize", x, dim=-1), then("F.normalize", y, dim=-1)
    scores = then("torch.matmul", one, then("Tensor.transpose", other, 0, 1))
    then("F.softmax", then("torch.mul", scores, b.one_of(5.0, 1.0)), dim=b.one_of(-1, -2, 0))


# -------------------------------------------------------------------------------------- feed-forward


@block
def gated(b: Builder, then: Chain) -> None:
    x, width = then.rows(), then.width()
    then("torch.chunk", then.linear(x, 2 * width), 2, -1)
    value, gate = Ref(f"v{b.made - 2}"), Ref(f"v{b.made - 1}")
    y = then("torch.mul", value, then(b.one_of("F.gelu", "F.silu", "torch.sigmoid", "torch.relu"), gate))
    then("torch.add", then.linear(y, then.shape(x)[-1]), x)


@block
def routed(b: Builder, then: Chain) -> None:
    """The shares of the best experts, which a mixture weighs."""
    x, experts = then.finite(then.rows()), b.one_of(4, 8, 5, 6)
    best = then("own.topk", then("F.softmax", then.linear(x, experts), dim=-1), b.one_of(2, 1, 3), -1, True)
    shares = then("torch.div", best, then("torch.sum", best, -1, keepdim=True))
    then("torch.sum", then("torch.mul", then("Tensor.unsqueeze", shares, -1), then("Tensor.unsqueeze", x, -2)), -2)


@block
def recurrent(b: Builder, then: Chain) -> None:
    """A step of a GRU."""
    x, width = then.rows(), b.one_of(4, 6, 5)
    state = b.input((*then.shape(x)[:-1], width), b.of(x).dtype)
    update, reset = (
        then("torch.sigmoid", then("torch.add", then.linear(x, width), then.linear(state, width))) for _ in range(2)
    )
    new = then("torch.tanh", then("torch.add", then.linear(x, width), then("torch.mul", reset, state)))
    then("torch.lerp", new, state, update)


@block
def modulated(b: Builder, then: Chain) -> None:
    """A transformer's layer whose norm a condition scales and shifts."""
    x = then.rows()
    batch, _, width = then.shape(x)
    condition = then.linear(b.input((batch, b.one_of(4, 6)), b.of(x).dtype), 2 * width)
    then("torch.chunk", then("Tensor.unsqueeze", condition, 1), 2, -1)
    scale, shift = Ref(f"v{b.made - 2}"), Ref(f"v{b.made - 1}")
    y = then("F.layer_norm", x, [width])
    then("torch.add", then("torch.mul", y, then("torch.add", scale, 1)), shift)


@block
def linear_attention(b: Builder, then: Chain) -> None:
    """Without a softmax: keys and values first."""
    x = then.finite(then.rows())
    width = b.one_of(4, 5, 6, 8, 3)
    q, k = (then("torch.add", then("F.elu", then.linear(x, width)), 1) for _ in range(2))
    memory = then("torch.matmul", then("Tensor.transpose", k, -2, -1), then.linear(x, b.one_of(4, 6)))
    total = then("torch.matmul", q, then("Tensor.unsqueeze", then("torch.sum", k, 1), -1))
    then("torch.div", then("torch.matmul", q, memory), then("torch.add", total, 0.5))


@block
def rotated_pairs(b: Builder, then: Chain) -> None:
    """Rotary positions of neighbours."""
    x = b.pick(FLOATS, 3, 4, 1, lambda: (b.one_of(1, 2), b.one_of(2, 3, 1), b.one_of(4, 5, 6), b.one_of(4, 8, 6, 2)))
    *lead, width = then.shape(x)
    if width % 2:
        return
    then("torch.unbind", then("Tensor.reshape", x, [*lead, width // 2, 2]), -1)
    even, odd = Ref(f"v{b.made - 2}"), Ref(f"v{b.made - 1}")
    angles = b.input((lead[-1], width // 2), b.of(x).dtype)
    cos, sin = then("torch.cos", angles), then("torch.sin", angles)
    left = then("torch.sub", then("torch.mul", even, cos), then("torch.mul", odd, sin))
    right = then("torch.add", then("torch.mul", even, sin), then("torch.mul", odd, cos))
    then("torch.flatten", then("torch.stack", [left, right], -1), -2)


@block
def grouped_queries(b: Builder, then: Chain) -> None:
    """Fewer keys than queries, repeated."""
    batch, length, heads, each, times = b.one_of(1, 2), b.one_of(3, 5, 6, 1), b.one_of(2, 1), b.one_of(4, 5, 8), 2
    dtype = b.one_of(*FLOATS)
    q = b.input((batch, heads * times, length, each), dtype)
    k = b.input((batch, heads, length, each), dtype)
    k = then("torch.repeat_interleave", k, times, 1)
    then("F.softmax", then("torch.matmul", q, then("Tensor.transpose", k, -2, -1)), dim=-1)


@block
def cell(b: Builder, then: Chain) -> None:
    """A step of an LSTM."""
    x, width = then.rows(), b.one_of(4, 5, 6)
    state = b.input((*then.shape(x)[:-1], width), b.of(x).dtype)
    then("torch.chunk", then("torch.add", then.linear(x, 4 * width), then.linear(state, 4 * width)), 4, -1)
    i, f, g, o = (Ref(f"v{b.made - 4 + n}") for n in range(4))
    kept = then("torch.mul", then("torch.sigmoid", f), state)
    new = then("torch.add", kept, then("torch.mul", then("torch.sigmoid", i), then("torch.tanh", g)))
    then("torch.mul", then("torch.sigmoid", o), then("torch.tanh", new))
