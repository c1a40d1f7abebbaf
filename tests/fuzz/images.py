"""Blocks of models of images."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from .blocks import Chain, block
from .builder import Builder
from .graph import Ref


def _conv(b: Builder, then: Chain, x: Ref, out: int, kernel: int = 1, groups: int = 1, **given: Any) -> Ref:
    weight = then.weight(x, out, then.shape(x)[1] // groups, kernel, kernel)
    bias = then.weight(x, out) if b.maybe() else None
    return then("F.conv2d", x, weight, bias, padding=kernel // 2, groups=groups, **given)


def _batch_norm(b: Builder, then: Chain, x: Ref) -> Ref:
    weights: Sequence[Ref] = [then.weight(x, then.shape(x)[1]) for _ in range(4)]
    return then("own.batch_norm", x, *weights)


@block
def residual(b: Builder, then: Chain) -> None:
    """A bottleneck, or a depthwise convolution and one of one pixel."""
    x = then.images()
    channels = then.shape(x)[1]
    inner = channels if b.maybe() else b.one_of(2, 4, 6)
    act = b.one_of("torch.relu", "F.silu", "F.gelu", "F.hardswish")
    y = then(act, _batch_norm(b, then, _conv(b, then, x, inner)))
    y = then(act, _batch_norm(b, then, _conv(b, then, y, inner, 3, b.one_of(1, inner))))
    then(b.one_of("torch.relu", "F.gelu"), then("torch.add", _batch_norm(b, then, _conv(b, then, y, channels)), x))


@block
def squeezed(b: Builder, then: Chain) -> None:
    x = then.images()
    channels = then.shape(x)[1]
    mean = then("torch.mean", x, [2, 3], keepdim=True) if b.maybe() else then("F.adaptive_avg_pool2d", x, 1)
    gate = _conv(b, then, then("torch.relu", _conv(b, then, mean, b.one_of(2, 1, 4))), channels)
    then("torch.mul", x, then(b.one_of("torch.sigmoid", "F.hardsigmoid"), gate))


@block
def weighed_by_place(b: Builder, then: Chain) -> None:
    """The spatial part of CBAM."""
    x = then.images()
    mean, most = then("torch.mean", x, 1, keepdim=True), then("torch.amax", x, 1, keepdim=True)
    then("torch.mul", x, then("torch.sigmoid", _conv(b, then, then("torch.cat", [mean, most], 1), 1, 3)))


@block
def patches(b: Builder, then: Chain) -> None:
    x, side, width = then.images(), b.one_of(2, 1, 3), then.width()
    weight = then.weight(x, width, then.shape(x)[1], side, side)
    rows = then("Tensor.transpose", then("torch.flatten", then("F.conv2d", x, weight, stride=side), 2), 1, 2)
    y = then("torch.add", rows, then.weight(x, *then.shape(rows)[1:]))
    then("F.layer_norm", y, [width], then.weight(x, width), then.weight(x, width))


@block
def shuffled(b: Builder, then: Chain) -> None:
    x, groups = then.images(), b.one_of(2, 1, 3)
    batch, channels, height, width = then.shape(x)
    if channels % groups:
        return
    parts = then("Tensor.reshape", x, [batch, groups, channels // groups, height, width])
    y = then("Tensor.reshape", then("Tensor.transpose", parts, 1, 2), [batch, channels, height, width])
    _conv(b, then, y, b.one_of(2, 4), b.one_of(1, 3))


@block
def merged_scales(b: Builder, then: Chain) -> None:
    """A pyramid's step: the coarse image enlarged, beside or on the fine one."""
    x = then.images()
    coarse = then(b.one_of("F.max_pool2d", "F.avg_pool2d"), x, 2)
    fine = then("F.interpolate", coarse, size=then.shape(x)[2:], mode=b.one_of("nearest", "bilinear"))
    y = then("torch.cat", [x, fine], 1) if b.maybe() else then("torch.add", x, fine)
    _conv(b, then, y, b.one_of(2, 4, 3), b.one_of(1, 3))


@block
def shifted(b: Builder, then: Chain) -> None:
    """Windows of an image that was rolled."""
    x, side = then.images(), b.one_of(2, 3)
    batch, height, width, channels = then.shape(x)
    if height % side or width % side:
        return
    moved = then("torch.roll", x, [-1, -1], [1, 2])
    parts = then("Tensor.reshape", moved, [batch, height // side, side, width // side, side, channels])
    rows = then("Tensor.reshape", then("Tensor.permute", parts, [0, 1, 3, 2, 4, 5]), [-1, side * side, channels])
    then("torch.matmul", rows, then("Tensor.transpose", rows, -2, -1))


@block
def expected_place(b: Builder, then: Chain) -> None:
    """Where each channel is largest, by its softmax."""
    x = then.finite(then.images())
    batch, channels, height, width = then.shape(x)
    shares = then("F.softmax", then("Tensor.reshape", x, [batch, channels, height * width]), dim=-1)
    place = b.input((height * width, 2), b.of(x).dtype)
    then("torch.matmul", shares, place)
    image = then("Tensor.reshape", shares, [batch, channels, height, width])
    then("torch.sum", image, b.one_of(2, 3, 1))


@block
def style(b: Builder, then: Chain) -> None:
    """How channels go together."""
    x = then.images()
    rows = then("torch.flatten", x, 2)
    centered = then("torch.sub", rows, then("torch.mean", rows, -1, keepdim=True))
    together = then("torch.matmul", centered, then("Tensor.transpose", centered, -2, -1))
    then("torch.div", together, float(then.shape(rows)[-1]))


@block
def of_neighbours(b: Builder, then: Chain) -> None:
    """Weights of the places around each one."""
    x = then.finite(then.images())
    batch, channels, height, width = then.shape(x)
    around = then("F.unfold", x, kernel_size=3, padding=1)
    around = then("Tensor.reshape", around, [batch, channels, 9, height, width])
    scores = then("torch.sum", then("torch.mul", around, then("Tensor.unsqueeze", x, 2)), 1)
    shares = then("Tensor.unsqueeze", then("F.softmax", scores, dim=1), 1)
    then("torch.sum", then("torch.mul", around, shares), 2)
